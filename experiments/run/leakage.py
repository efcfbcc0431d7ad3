"""The leakage table: how much of each user each attack reveals, per round, beside its controls.

`measure` writes `leakage.parquet` and `leakage.csv`, one row per (run, seed, round, user, attack, arm).
The same run gives the same table, whatever the engine, the workers and the order in which they finished;
only the column `seconds` is a measured time.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pandas as pd
from safetensors import safe_open

from attacker.capture.store import CaptureStore, read_attack_table, read_reconstruction
from attacker.observation import Reconstruction
from clients.datasets import open_dataset
from clients.defenses import load_all
from experiments.evaluate import attribute_inference
from experiments.evaluate.controls import Guess, exhibits, prior_label, references, wrong_user
from experiments.evaluate.judgement import Judgement, open_judges
from experiments.evaluate.realism import BANDS, Textures
from experiments.evaluate.senders import best_members, captures_by_user
from experiments.plan import privacy
from experiments.statistics.aggregate import aggregate
from experiments.statistics.significance import audit
from fl_sim.config import Config
from fl_sim.initial_model import fresh_model
from fl_sim.runs import RunFolder, write_atomically
from fl_sim.threads import one_thread

__all__ = ["COLUMNS", "aggregate", "measure"]


class Column(NamedTuple):
    dtype: str
    range: str
    direction: str  # which end means that more has leaked
    meaning: str


COLUMNS: dict[str, Column] = {
    "run": Column("string", "", "", "name of the run"),
    "seed": Column("int64", "0 or more", "", "seed of the run"),
    "round": Column("int64", "1 or more", "", "round of the federation"),
    "user": Column("int64", "0 or more", "", "partition id of the user"),
    "attack": Column("string", "", "", "label of the attack in the config"),
    "arm": Column(
        "string", "one of experiments.evaluate.controls.ARMS", "", "what was judged in the place of the user's photo"
    ),
    "knowledge": Column("string", "none, mechanism or parameters", "", "what the attack knew of the users' defenses"),
    "capture": Column("int64", "0 or more", "", "number of the update: the user's, its pseudonym's, its group's"),
    "group_size": Column("int64", "1 or more", "", "users of whose updates the server saw only the mean"),
    "epsilon": Column(
        "float64",
        "0 to inf",
        "",
        "promised for the updates that the attack saw, against the server, at delta; null: no guarantee",
    ),
    "epsilon_audited": Column(
        "float64",
        "0 to inf",
        "higher leaks",
        "proved by how many users the arm names in this round (statistics.audited_epsilon); null: not auditable",
    ),
    "delta": Column("float64", "0 to 1", "", "`protocol.delta`"),
    "facial_similarity": Column(
        "float64", "-1 to 1", "higher leaks", "mean cosine of the arm's embedding to the user's private photos"
    ),
    "similarity_min": Column("float64", "-1 to 1", "higher leaks", "smallest of these cosines"),
    "similarity_max": Column("float64", "-1 to 1", "higher leaks", "largest of these cosines"),
    "in_batch_min": Column(
        "float64", "-1 to 1", "", "smallest cosine between two of the user's private photos; null for a single photo"
    ),
    "in_batch_max": Column("float64", "-1 to 1", "", "largest cosine between two of them"),
    "rank": Column(
        "Int64",
        "1 to gallery_size",
        "lower leaks",
        "of the user among gallery_size people; ties count against the attacker",
    ),
    "gallery_size": Column("int64", "2 or more", "", "people in the gallery in which rank was taken"),
    "verified_at_far_1e2": Column(
        "boolean", "", "true leaks", "same person as the user's template, where 1 in 100 strangers passes"
    ),
    "verified_at_far_1e3": Column("boolean", "", "true leaks", "the same where 1 in 1,000 strangers passes"),
    "psnr": Column("float64", "0 dB to inf", "higher leaks", "to the private photo it is closest to, dB"),
    "ssim": Column("float64", "-1 to 1", "higher leaks", "to the private photo it is closest to"),
    "lpips": Column(
        "float64", "0 to inf", "lower leaks", "to the private photo it is closest to; null without its weights"
    ),
    "face_probability": Column(
        "float64",
        "0 to 1",
        "",
        "higher is more real: how sure MTCNN is of a face; null where it does not find those of public photos",
    ),
    **{
        f"sharpness_{band}": Column(
            "float64",
            "0 to inf",
            "",
            f"1 is a photo's: contrast to a blur of {pixels} px, by that of public photos",
        )
        for band, pixels in zip(("fine", "middle", "coarse"), BANDS, strict=True)
    },
    **{
        f"patch_swd_{scale}": Column(
            "float64",
            "0 to inf",
            "",
            f"lower is more real: of all users' pictures in this arm, attack and round, at {scale} size, 1,000 "
            "times the sliced Wasserstein distance of their patches to those of public photos",
        )
        for scale in ("full", "half", "quarter")
    },
    "draws": Column(
        "Int64", "1 or more", "", "faces that the attack drew for the one update; null, as all of them, without draws"
    ),
    "draws_similarity": Column(
        "float64", "-1 to 1", "higher leaks", "mean over the draws of facial_similarity, each taken by itself"
    ),
    "draws_spread": Column(
        "float64",
        "0 to 0.5",
        "",
        "standard deviation over the draws, mean over pixels and channels in [0, 1]; 0: all agree",
    ),
    "matching_loss": Column(
        "float64",
        "depends on the distance",
        "lower fits better",
        "the attack's own, of arms made from this user's update",
    ),
    "seconds": Column("float64", "0 to inf", "", "of attack time for this user; null for arms that no attack made"),
}
"""Where the attack left draws, the arms attack and wrong_update are one of them by all columns of pictures but
`draws_*`; an attribute is what most of them show, and `attr_NAME_share` the share that does.

Where an arm shows several images, the embedding is their weighted mean, an attribute is what they say by weighted
vote (the lower class of two that are even), and PSNR, SSIM, LPIPS, face_probability and sharpness are weighted means
over the images.

Each column but, per attribute, `attr_NAME_true` (of the person, from the dataset) and `attr_NAME_inferred` (read by
the classifier off the arm's picture; of the arms without one, said directly), Int64 classes from 0, and
`attr_NAME_share` (float64 in (0, 1]; null without draws). Null: the picture is missing or not finite, the arm has none,
or the dataset does not know the attribute."""

KEYS = ["run", "seed", "round", "user", "attack", "arm"]


def measure(run: RunFolder, config: Config, progress: Callable[[int, int], None] | None = None) -> pd.DataFrame:
    """Judge every reconstruction in the run folder, write the table there, and return it.

    `progress(done, users)` is called after each user. Raises ConfigError as `experiments.run.preflight` does.
    """
    store = CaptureStore(run)
    captured = {number: store.users(number) for number in store.finished_rounds()}
    planned = config.workers.attack_rounds or list(captured)
    tables = _attacks(run, captured)
    priors = {label: table for label, table in tables.items() if _name(label, table) == "prior_only"}
    labels = [label for label in tables if label not in priors] or sorted(priors)
    with one_thread():
        judges = open_judges(config)
        dataset = open_dataset(config.dataset, config.seed)
        senders = {number: captures_by_user(config, store, number) for number in captured}
        users = sorted({user for captures in senders.values() for user in captures})
        model = fresh_model(config.model, dataset.num_classes, config.dataset.image_size, config.seed)
        guarantee = privacy.accountant(config, load_all(config.defenses), model).guarantee("server")
        delta = config.protocol.delta
        left = {(label, number): _left(run, label, number, captured[number]) for label in labels for number in captured}
        base_rate = attribute_inference.base_rate(judges.gallery, judges.names)
        said: dict[tuple[int, int], Guess] = {}
        if config.leakage.direct:
            attacked = [number for number in captured if number in planned]
            said = attribute_inference.guesses(store, config, dataset, judges.embed, judges.names, attacked)
        groups = {number: Counter(captures.values()) for number, captures in senders.items()}
        textures = Textures(judges.real, len(users))
        tables_of_users: list[pd.DataFrame] = []  # as rows they would take ten times the memory
        of_sums: list[dict[str, Any]] = []
        for done, partition in enumerate(users, 1):
            rows: list[dict[str, Any]] = []
            user = dataset.user(partition)
            judge = Judgement(judges, user)
            told = references(user, judges.gallery.public_mean)
            shared = [judge(exhibit) for exhibit in told]
            shared.append(judge.guess(base_rate))
            for number, captures in senders.items():
                if partition not in captures:
                    continue
                capture = captures[partition]
                group = groups[number][capture]
                direct = [judge.guess(said[number, capture])] if (number, capture) in said else []
                for label in labels:
                    there = left[label, number]
                    if number not in planned and not there.users:
                        continue
                    other = wrong_user(capture, sorted({capture, *there.users}))
                    made = _read(run, label, number, {capture, other})
                    control = prior_label(tables[label], priors)
                    drawn = _read(run, control, number, {capture}) if control is not None else None
                    shown = exhibits(capture, made, drawn, there.images > 1, there.determined)
                    textures.add(label, number, [*shown, *told])
                    judged = [*(judge(exhibit) for exhibit in shown), *direct, *shared]
                    key = {"run": config.name, "seed": config.seed, "round": number, "user": partition, "attack": label}
                    key["knowledge"] = str(tables[label].get("knowledge", "none"))
                    seen = min(number, int(tables[label].get("rounds", 1)))  # updates of the user
                    key |= {"capture": capture, "group_size": group, "delta": delta}
                    key["epsilon"] = guarantee.epsilon(seen, delta)
                    rows.extend(key | verdict for verdict in judged)
            tables_of_users.append(_typed(rows, judges.names))
            of_sums += [row for row in rows if row["arm"] == "attack" and row["group_size"] > 1]
            if progress is not None:
                progress(done, len(users))
    tables_of_users.append(_typed(best_members(of_sums), judges.names))
    table = pd.concat(tables_of_users, ignore_index=True).sort_values(KEYS, ignore_index=True)
    table = textures.onto(table)
    table["epsilon_audited"] = audit(table, gaussian=guarantee.noise is not None and guarantee.noise.kind == "gaussian")
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(run.leakage, buffer.getvalue())
    write_atomically(run.leakage.with_suffix(".csv"), table.to_csv(index=False).encode())
    return table


def _attacks(run: RunFolder, captured: dict[int, list[int]]) -> dict[str, dict[str, Any]]:
    """Settings by label of every attack that left reconstructions, later ones (`fl-sim attack`) too."""
    if not run.reconstructions.is_dir():
        return {}
    found: dict[str, dict[str, Any]] = {}
    for label in sorted(path.name for path in run.reconstructions.iterdir() if path.is_dir()):
        for number, accepted in captured.items():
            tables = (read_attack_table(run, label, number, user) for user in accepted)
            table = next((table for table in tables if table is not None), None)
            if table is not None:
                found[label] = table
                break
    return found


class _Left(NamedTuple):
    users: list[int]  # who have a reconstruction
    images: int  # most images that one of them holds
    determined: bool  # whether one of them holds the mean face behind its draws


def _left(run: RunFolder, label: str, number: int, accepted: list[int]) -> _Left:
    """What an attack left in a round, without reading the images themselves."""
    paths = {user: run.reconstruction(label, number, user) for user in accepted}
    users, images, determined = [], 0, False
    for user, path in paths.items():
        if path.is_file():
            users.append(user)
            with safe_open(path, framework="pt") as file:
                images = max(images, file.get_slice("images").get_shape()[0])
                determined |= "determined" in file.keys()  # noqa: SIM118
    return _Left(users, images, determined)


def _name(label: str, table: dict[str, Any]) -> str:
    return str(table.get("name", label))


def _read(run: RunFolder, label: str, number: int, users: Iterable[int | None]) -> dict[int, Reconstruction]:
    """The reconstructions of a round by user; those that are missing are left out."""
    present = [user for user in users if user is not None and run.reconstruction(label, number, user).is_file()]
    return {user: read_reconstruction(run, label, number, user) for user in present}


def _typed(rows: list[dict[str, Any]], names: list[str]) -> pd.DataFrame:
    """Every column, in the order of COLUMNS, of its dtype even where all is null."""
    kinds = {name: column.dtype for name, column in COLUMNS.items()}
    sides = {"true": "Int64", "inferred": "Int64", "share": "float64"}
    kinds |= {f"attr_{name}_{side}": kind for name in names for side, kind in sides.items()}
    return pd.DataFrame(rows).reindex(columns=list(kinds)).astype(kinds)
