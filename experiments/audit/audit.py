"""The audit of somebody else's federation, in a folder that `AuditedStrategy` captured into.

`reconstruct` attacks the captures and writes the reconstructions into the folder. What a picture has to do with its
user only private photos can tell: experiments.audit.judging compares, experiments.audit.page shows.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from attacker.attack import Attack
from attacker.capture.store import CaptureStore, read_attack_table, read_reconstruction, write_reconstruction
from attacker.external import external_model
from attacker.external.external_model import ExternalModel
from attacker.external.modes import Mode
from attacker.observation import Observation
from clients.datasets.duplicates import Whose
from clients.datasets.images import UnreadableImage, centre_square, decode, fingerprint, fit
from experiments.statistics.verdict import EXPLAINED
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder

PRIOR_ONLY = "prior_only"  # the attack that looks at no update
WITNESSES = 4  # users by whose updates it is decided how batch norm is trained


@dataclass(frozen=True)
class CapturedUpdates:
    """The updates of a run that are audited."""

    run: RunFolder
    updates: tuple[tuple[int, int], ...]  # (round, user), one or more
    num_examples: int | None = None  # photos of each user who did not tell

    def observation(self, server_round: int, user: int, rounds: int = 1) -> Observation:
        """What is known of one update, with those of the user before it: up to `rounds` in all, as far as captured."""
        store = CaptureStore(self.run)
        numbers = [server_round, *store.earlier_rounds(server_round, user, rounds - 1)]
        now, *before = [store.observation(number, user, self.num_examples) for number in numbers]
        return dataclasses.replace(now, history=tuple(before))


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
    run, table = captures.run, _told(captures, attack, seed, mode)
    norm = {} if mode is None else {"batch_norm": mode.batch_norm}
    rows = []
    for done, (server_round, user) in enumerate(captures.updates, 1):
        before = read_attack_table(run, attack.label, server_round, user)
        if before is None:
            seen = captures.observation(server_round, user, attack.needs.rounds)
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


def control(captures: CapturedUpdates, attack: Attack, seed: int, mode: Mode | None = None) -> Attack | None:
    """What the prior of `attack` draws without any update; None where it has no prior, or is that control itself.

    Labelled `prior_only`, and after the attack where that label is taken by one of other settings.
    """
    if attack.needs.prior is None or attack.name == PRIOR_ONLY:
        return None
    alone = external_model.open_attack(PRIOR_ONLY, {"prior": attack.needs.prior})
    kept = (read_attack_table(captures.run, PRIOR_ONLY, *update) for update in captures.updates)
    taken = next((table for table in kept if table is not None), None)
    if taken in (None, _told(captures, alone, seed, mode)):
        return alone
    return dataclasses.replace(alone, label=f"{PRIOR_ONLY}-{attack.label}")


def _told(captures: CapturedUpdates, attack: Attack, seed: int, mode: Mode | None) -> dict[str, Any]:
    """The table of an attack that is written beside its reconstructions: all that decides what they are."""
    told = {"name": attack.name, **dataclasses.asdict(attack.settings), "seed": seed}
    if captures.num_examples is not None:
        told["num_examples"] = captures.num_examples
    if mode is not None:
        told["batch_norm"] = mode.batch_norm
    table: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return table


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


def _photo(path: Path, size: int, whose: Whose, user: str) -> Tensor:
    """The image as uint8 (3, size, size)."""
    try:
        image = decode(path)
    except UnreadableImage as error:
        raise ConfigError(f"{path} cannot be read ({error}); repair the photo or take it away") from error
    whose.again(fingerprint(image), user, str(path))
    return fit(image, size, centre_square())
