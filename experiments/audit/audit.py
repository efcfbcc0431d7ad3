"""The audit of somebody else's federation, in a folder that `AuditedStrategy` captured into.

`reconstruct` attacks the captures and writes the reconstructions into the folder, with `ATTACK.png`: a row a user,
a column a round. Where the attack draws what an update leaves open, `ATTACK-draws.png` has a row an update. What a
picture has to do with its user only private photos can tell; where the auditor has them, a folder a user, `measure`
compares, beside what the same pictures have to do with the other users.
"""

import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from attacker.attack import Attack
from attacker.capture.store import CaptureStore, read_attack_table, read_reconstruction, write_reconstruction
from attacker.external import external_model
from attacker.external.external_model import ExternalModel
from attacker.external.modes import Mode
from attacker.observation import Observation
from clients.datasets.duplicates import Whose
from clients.datasets.images import UnreadableImage, centre_square, decode, fingerprint, fit
from experiments.audit.inversion import png
from experiments.evaluate import draws
from experiments.evaluate.embedders import Embedder
from experiments.statistics.verdict import EXPLAINED
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder, write_atomically

SIDE, GAP = 96, 4  # pixels of a picture on the sheet, and between two
WITNESSES = 4  # users by whose updates it is decided how batch norm is trained


@dataclass(frozen=True)
class CapturedUpdates:
    """The updates of a run that are audited."""

    run: RunFolder
    updates: tuple[tuple[int, int], ...]  # (round, user), one or more
    num_examples: int | None = None  # photos of each user who did not tell

    def observation(self, server_round: int, user: int) -> Observation:
        """What is known of one update."""
        return CaptureStore(self.run).observation(server_round, user, self.num_examples)


def captured(run: RunFolder, rounds: Sequence[int], num_examples: int | None = None) -> CapturedUpdates:
    """All captured updates of `rounds` (none given: all).

    Raises ConfigError where there are none, or where `num_examples`, photos of each user, is needed and None.
    """
    store = CaptureStore(run)
    finished = store.finished_rounds()
    late = [number for number in rounds if number not in finished]
    if late or not finished:
        raise ConfigError(
            f"{run.root} holds rounds {finished or 'none'}; give one of them, or let the federation train"
        )
    chosen = sorted(set(rounds)) or finished
    updates = tuple((number, user) for number in chosen for user in store.users(number))
    if not updates:
        reasons = {row["reason"] for row in store.rejected()}
        raise ConfigError(
            f"no update of {run.root} could be used: {'; '.join(sorted(reasons)) or 'there was no reply'}"
        )
    accepted = [row for number in chosen for row in store.replies(number) if row["status"] == "accepted"]
    if num_examples is None and any(row["num_examples"] is None for row in accepted):
        raise ConfigError(f"replies of {run.root} do not say of how many photos they are; give --num-examples")
    return CapturedUpdates(run, updates, num_examples)


def remarks(run: RunFolder, rounds: Sequence[int]) -> list[str]:
    """What the captures of `rounds` (none given: all) lack, and what was assumed to read them: a sentence each."""
    store, sentences = CaptureStore(run), []
    finished = store.finished_rounds()
    lost = sorted(set(range(1, finished[-1])) - set(finished)) if finished else []
    if lost:
        sentences.append(f"of the rounds {lost} nothing was captured; the app's log says why")
    unread: dict[str, list[str]] = {}
    noted: dict[str, int] = {}
    for server_round in rounds or finished:
        for row in store.replies(server_round):
            if row["status"] != "accepted":
                who = f"node {row['node']}" if row["user"] is None else f"user {row['user']}"
                unread.setdefault(row["reason"], []).append(f"{who} in round {server_round}")
            for note in row.get("notes", ()):
                noted[note] = noted.get(note, 0) + 1
    for reason, whose in unread.items():
        more = f" and {len(whose) - 1} more" if len(whose) > 1 else ""
        sentences.append(f"not attacked is {whose[0]}{more}: {reason}")
    return sentences + [f"{note} (in {count} replies)" for note, count in noted.items()]


def reconstruct(
    captures: CapturedUpdates,
    model: ExternalModel,
    attack: Attack,
    seed: int,
    progress: Callable[[int, int], None],
    mode: Mode | None = None,
) -> pd.DataFrame:
    """Attack the updates, those done before left out; a row each: round, user, matching_loss, seconds.

    Where batch norm has a `mode`, the updates are matched in it, and the column `batch_norm` says which.
    """
    run = captures.run
    settings = dataclasses.asdict(attack.settings) | {"seed": seed}
    if captures.num_examples is not None:
        settings["num_examples"] = captures.num_examples
    norm = {} if mode is None else {"batch_norm": mode.batch_norm}
    table = json.loads(json.dumps({"name": attack.name, **settings, **norm}, default=str))
    rows = []
    for done, (server_round, user) in enumerate(captures.updates, 1):
        before = read_attack_table(run, attack.label, server_round, user)
        if before is None:
            seen = captures.observation(server_round, user)
            batch_norm = "eval" if mode is None else mode.batch_norm
            made = external_model.invert(model, attack, [seen], seed, lambda step, steps: None, batch_norm)[0]
            write_reconstruction(run, attack.label, server_round, user, made, table)
        elif before != table:
            raise ConfigError(
                f"{attack.label!r} was run on round {server_round} with other settings; give this one a --label"
            )
        made = read_reconstruction(run, attack.label, server_round, user)
        rows.append(
            {"round": server_round, "user": user, **norm, "matching_loss": made.matching_loss, "seconds": made.seconds}
        )
        progress(done, len(captures.updates))
    return pd.DataFrame(rows)


def unexplained(table: pd.DataFrame) -> str | None:
    """A sentence where pictures explain their updates too badly to be evidence that nothing leaks."""
    poor = table[table["matching_loss"] > EXPLAINED]
    if poor.empty:
        return None
    first = poor.iloc[0]
    return (
        f"{len(poor)} of {len(table)} pictures do not explain their update (matching loss above {EXPLAINED}, such as "
        f"user {first['user']:.0f} in round {first['round']:.0f}: {first['matching_loss']:.2g}); where they look like "
        "nobody, that does not say that nothing leaks: give more -o steps=, and check what "
        "AuditedStrategy was told of the training"
    )


def mode_of(captures: CapturedUpdates, model: ExternalModel, seed: int) -> Mode | None:
    """How the app's users train batch norm, by a few updates of the first round; None where that has no effect."""
    first = captures.updates[0][0]
    witnesses = [user for server_round, user in captures.updates if server_round == first][:WITNESSES]
    return external_model.find_mode(model, [captures.observation(first, user) for user in witnesses], seed)


def read_photos(folder: Path, users: Sequence[int], size: int) -> dict[int, Tensor]:
    """The private photos (n, 3, size, size) in [0, 1] of each user: all files in `folder/USER/` but hidden ones.

    They are read as datasets read theirs: upright, the central square. Raises ConfigError unless there are photos of
    each of `users`, two users or more, no file that is no photo, and no photo that two of them have.
    """
    photos, whose = {}, Whose()
    for user in users:
        paths = sorted(path for path in (folder / str(user)).glob("[!.]*") if path.is_file())
        if not paths:
            raise ConfigError(f"{folder / str(user)} holds no image; give a folder a user, named as the user's number")
        photos[user] = torch.stack([_photo(path, size, whose, f"user {user}") for path in paths]).float() / 255
    if len(photos) < 2:
        raise ConfigError(f"{folder} holds photos of {len(photos)} user; a similarity means something beside another's")
    return photos


def measure(
    run: RunFolder, label: str, table: pd.DataFrame, photos: dict[int, Tensor], embed: Embedder
) -> pd.DataFrame:
    """`table` with how like its user each picture is, by the cosine of embeddings; written to `audit-LABEL.csv`.

    facial_similarity   mean cosine to the user's own photos, in [-1, 1]; higher leaks
    others              the same to the photos of the other users: what any face scores
    rank                of the user among all users, by the mean embedding of their photos; 1 leaks
    draws_similarity    facial_similarity of a draw, the mean over all draws of the update; only of attacks with draws
    determined          facial_similarity of the mean face behind them
    """
    embedded = {user: embed(own) for user, own in photos.items()}
    rows = []
    for row in table.to_dict("records"):
        made = read_reconstruction(run, label, int(row["round"]), int(row["user"]))
        face = embed(made.images[:1])[0]  # (d,)
        cosines = {user: float((known @ face).mean()) for user, known in embedded.items()}
        own = cosines.pop(int(row["user"]))
        above = sum(other >= own for other in cosines.values())  # ties count against the attacker
        others = sum(cosines.values()) / len(cosines)
        rows.append({**row, "facial_similarity": own, "others": others, "rank": 1 + above, "among": len(photos)})
        behind = {"draws_similarity": made.draws, "determined": made.determined}
        for name, images in behind.items():
            if images is not None:
                cosines_of = embedded[int(row["user"])] @ embed(images.reshape(-1, *images.shape[-3:])).T
                rows[-1][name] = float(cosines_of.mean())
    judged = pd.DataFrame(rows)
    write_atomically(run.root / f"audit-{label}.csv", judged.to_csv(index=False).encode())
    return judged


def sheet(run: RunFolder, label: str, table: pd.DataFrame, photos: dict[int, Tensor] | None = None) -> Path:
    """Write `LABEL.png` beside the reconstructions: a row a user, a column a round, after a private photo if given."""
    users, rounds = sorted(set(table["user"])), sorted(set(table["round"]))
    first = 1 if photos else 0
    rows = {}
    for user in users:
        shown = {0: photos[user][0]} if photos else {}
        for column, server_round in enumerate(rounds, first):
            if run.reconstruction(label, server_round, user).exists():
                shown[column] = read_reconstruction(run, label, server_round, user).images[0]
        rows[f"user {user}"] = shown
    path = run.reconstructions / f"{label}.png"
    _write_sheet(path, ["private"] * first + [f"round {server_round}" for server_round in rounds], rows)
    return path


def draws_sheet(run: RunFolder, label: str, table: pd.DataFrame) -> Path | None:
    """Write `LABEL-draws.png`: a row an update, with the mean face that it determines, a map of where the draws differ
    (experiments.evaluate.draws.heat), and the draws. None where the attack left none."""
    rows, most = {}, 0
    for user, server_round in zip(table["user"], table["round"], strict=True):
        made = read_reconstruction(run, label, int(server_round), int(user))
        if made.draws is None:
            continue
        shown = {1: draws.heat(made.draws), **dict(enumerate(made.draws, 2))}
        rows[f"user {user}\nround {server_round}"] = shown if made.determined is None else {0: made.determined, **shown}
        most = max(most, len(made.draws))
    if not rows:
        return None
    path = run.reconstructions / f"{label}-draws.png"
    _write_sheet(path, ["determined", "they differ", *(f"draw {number}" for number in range(1, most + 1))], rows)
    return path


def _write_sheet(path: Path, captions: Sequence[str], rows: Mapping[str, Mapping[int, Tensor]]) -> None:
    """A PNG with a caption a column, and by the name of each row the picture (3, H, W) of each column."""
    page = Image.new("RGB", (len(captions) * (SIDE + GAP) + 60, len(rows) * (SIDE + GAP) + 20), "white")
    pen = ImageDraw.Draw(page)
    for column, caption in enumerate(captions):
        pen.text((60 + column * (SIDE + GAP), 4), caption, fill="black")
    for line, (name, shown) in enumerate(rows.items()):
        top = 20 + line * (SIDE + GAP)
        pen.text((4, top), name, fill="black")
        for column, image in shown.items():
            picture = Image.open(io.BytesIO(png(image))).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            page.paste(picture, (60 + column * (SIDE + GAP), top))
    file = io.BytesIO()
    page.save(file, "PNG")
    write_atomically(path, file.getvalue())


def _photo(path: Path, size: int, whose: Whose, user: str) -> Tensor:
    """The image as uint8 (3, size, size)."""
    try:
        image = decode(path)
    except UnreadableImage as error:
        raise ConfigError(f"{path} cannot be read ({error}); repair the photo or take it away") from error
    whose.again(fingerprint(image), user, str(path))
    return fit(image, size, centre_square())
