"""A whole experiment: train under attack, measure the leakage, write the report.

`run` is what `fl-sim run` does, `attack` what `fl-sim attack` does. Both may be stopped at any time and
given again: finished rounds, reconstructions and their attacks are not done twice.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from attacker.capture.rebuild_index import rebuild_index
from attacker.capture.store import CaptureStore
from attacker.priors import eigenfaces
from clients.datasets import open_dataset
from experiments.plan import attackers
from experiments.plan.setup import Setup, prepare
from experiments.run import leakage
from experiments.run.beside import beside
from experiments.run.dispatching import Dispatch, Progress, dispatcher, planned_jobs
from experiments.run.preflight import preflight
from experiments.run.trained import all_rounds, evaluated_rounds
from experiments.show.answer import Answer, answer, keep, kept, made_of
from experiments.show.report import write_report
from experiments.show.report.run_data import read
from fl_sim.config import Config, ConfigError, Dataset, difference, dump, load
from fl_sim.deployment.flower import Connection
from fl_sim.log import Log
from fl_sim.runs import (
    AFTERWARDS,
    RunFolder,
    config_of,
    locked,
    other_captures,
    other_config,
    read_manifest,
    write_atomically,
    write_manifest,
)
from fl_sim.threads import one_thread


@dataclass
class Outcome:
    """What an experiment ended with."""

    table: pd.DataFrame  # the leakage table; empty if nothing was attacked
    report: Path
    problems: list[str] = field(default_factory=list)  # one sentence each: attacks that failed
    said: Answer | None = None  # verdict and figures; None if nothing was attacked


def run(
    config: Config,
    folder: RunFolder,
    progress: Progress,
    note: Callable[[str], None],
    superlink: Connection | None = None,
) -> Outcome:
    """Run the whole experiment in `folder`, taking up what is already there.

    `note` is told what the user should know before the attacks start. Raises ConfigError, before anything
    is written, for whatever cannot work. `superlink` is where the engine `deployment` trains; None: what `fl-sim up`
    has started. Where all is done and nothing has changed since, what was said of it is said again.
    """
    known = kept(folder) if finished(config, folder) else None
    if known is not None:
        return Outcome(pd.read_parquet(folder.leakage), folder.report, _unheard(folder), known[0])
    setup = prepare(config)
    config, notes = setup.config, _checked(setup, note)
    # Threads that each set the number of torch's threads, and set it back, would leave each other with another one.
    with one_thread(), locked(folder.root):
        _claim(config, folder)
        with Log(folder, "run").around(command="run", jobs=planned_jobs(config)):
            _begin(folder, setup, note, notes)
            if config.federation.engine == "inprocess":  # its clients use the dataset, in this process
                _make_faces(folder, setup)
            # Flower takes seconds to import; mistakes are told before
            from experiments.run.federation import forget_unfinished, run_federation

            forget_unfinished(config, folder)
            with dispatcher(folder, config, progress, follow=True, await_faces=_lacks_faces(folder, setup)) as dispatch:
                with beside(lambda: _make_faces(folder, setup)):
                    run_federation(setup, folder, lambda done, total: progress("rounds", done, total), superlink)
                _look_ahead(folder, config, dispatch)
            return _concluded(folder, config, progress, dispatch)


def attack(folder: RunFolder, config: Config, force: bool, progress: Progress, note: Callable[[str], None]) -> Outcome:
    """Attack the captures of a finished or stopped run with the attacks of `config`, then measure and report.

    Raises ConfigError if `config` differs from the run's in more than `AFTERWARDS`.
    """
    change = difference(_saved(folder), config, except_for=AFTERWARDS)
    if change is not None:
        raise other_captures(change)
    if not folder.captures.exists():
        raise ConfigError(f"{folder.root} holds no captured round; give a run that fl-sim run has made")
    setup = prepare(config)
    config, notes = setup.config, _checked(setup, note)
    with locked(folder.root), Log(folder, "run").around(command="attack", jobs=planned_jobs(config)):
        _begin(folder, setup, note, notes)
        _make_faces(folder, setup)
        if not CaptureStore(folder).finished_rounds():
            raise ConfigError(f"{folder.root} holds no captured round; give a run that fl-sim run has made")
        write_atomically(folder.config, dump(config).encode())
        with dispatcher(folder, config, progress, follow=False, force=force) as dispatch:
            _look_ahead(folder, config, dispatch)
        return _concluded(folder, config, progress, dispatch)


def complete(config: Config, folder: RunFolder, progress: Progress, note: Callable[[str], None]) -> Outcome:
    """`run` or `attack`, whichever is left to do; neither where `folder` holds this very experiment in full."""
    if finished(config, folder):
        return Outcome(pd.read_parquet(folder.leakage), folder.report)
    trained = folder.config.exists() and all_rounds(folder, config)
    if trained and difference(_saved(folder), config, except_for=AFTERWARDS) is None:
        return attack(folder, config, False, progress, note)
    return run(config, folder, progress, note)


def finished(config: Config, folder: RunFolder) -> bool:
    """Whether `folder` holds this very experiment in full.

    Of all its files the report is written last, and `_begin` takes it away first; times of files decide nothing.
    """
    if not (folder.config.exists() and folder.report.exists() and folder.leakage.exists()):
        return False
    saved = _saved(folder)
    same = difference(saved, attackers.planned(config), except_for=("workers",)) is None
    trained = evaluated_rounds(folder) == config.federation.rounds  # fl-sim attack reports on a stopped run, too
    whole = trained and not folder.failed.exists()
    return whole and same and saved.workers.attack_rounds == config.workers.attack_rounds


def threat_model(setup: Setup) -> dict[str, Any]:
    """What the attacker knows and may do in this run; stamped on the manifest and the report.

    `local_steps` are those of the user with the most photos, where they were counted.
    """
    config, section, photos = setup.config, setup.config.federation, setup.photos[1]
    return {
        "server": config.threat_model.server,
        "labels": config.threat_model.labels,
        "update": section.update,
        "local_steps": section.local_epochs * (-(-photos // section.batch_size) if section.batch_size else 1),
        "local_training": config.threat_model.local_training,
        "batch_norm_statistics": config.threat_model.batch_norm_statistics,
        "users_behind_an_update": max(config.protocol.secure_aggregation, 1),
        "linkable_over_rounds": not config.protocol.shuffle,
        "differential_privacy": config.protocol.differential_privacy,
        "privacy": setup.accountant.facts(),
        "public_people": config.threat_model.public_people,
        "model": setup.origin,
        "batch_norm": config.model.batch_norm,
        "defenses": [str(table.get("name")) for table in config.defenses],
        "not_adapted_to": attackers.not_adapted_to(setup.attacks, setup.defenses),
    }


def judge(
    folder: RunFolder, config: Config, progress: Progress, with_private_photos: bool = False
) -> tuple[pd.DataFrame, Path, Answer | None]:
    """Measure the leakage, write the report, and keep what is said of both; no answer to an empty table."""
    made = made_of(folder, config.leakage)
    table = leakage.measure(folder, config, lambda done, total: progress("leakage", done, total))
    data = read(folder)
    page = write_report(folder, with_private_photos, data)
    if not len(table):
        return table, page, None
    said = answer(data)
    keep(folder, said, made, with_private_photos)
    return table, page, said


def _look_ahead(folder: RunFolder, config: Config, dispatch: Dispatch | None) -> None:
    if dispatch is not None:
        leakage.look_ahead(folder, config, lambda: dispatch.at_work)


def _concluded(folder: RunFolder, config: Config, progress: Progress, dispatch: Dispatch | None) -> Outcome:
    if dispatch is None:
        table, page, said = pd.DataFrame(), write_report(folder), None
    else:
        table, page, said = judge(folder, config, progress)
    Log(folder, "run")("report", file=page.name, measurements=len(table))
    return Outcome(table, page, [*_unheard(folder), *(dispatch.problems if dispatch else [])], said)


def _unheard(folder: RunFolder) -> list[str]:
    """A sentence, if no user's update was of use in any round."""
    if not folder.rounds.exists():  # captured by `flwr run`
        return []
    rounds = pd.read_parquet(folder.rounds)
    if not {"accepted", "rejected"} <= set(rounds):  # of an older version
        return []
    if rounds.accepted.any() or not rounds.rejected.any():
        return []
    return [f"all {rounds.rejected.sum()} updates were rejected; {folder.log} says why"]


def _claim(config: Config, folder: RunFolder) -> None:
    """Write the config of a new run; of one that exists, see that it is the same."""
    if folder.config.exists():
        change = difference(_saved(folder), config, except_for=("workers",))
        if change is not None:
            raise other_config(folder, change)
    write_atomically(folder.config, dump(config).encode())


def _checked(setup: Setup, note: Callable[[str], None]) -> list[str]:
    """The sentences of `preflight`, which `note` is told: who reads the report should know them, too."""
    notes: list[str] = []

    def told(sentence: str) -> None:
        notes.append(sentence)
        note(sentence)

    preflight(setup, told)
    return notes


def _begin(folder: RunFolder, setup: Setup, note: Callable[[str], None], notes: list[str]) -> None:
    """Rebuild and stamp the folder, and take its report away: while there is one, all before it is whole."""
    rebuilt = rebuild_index(folder)
    if rebuilt is not None:
        note(rebuilt)
    folder.report.unlink(missing_ok=True)
    _stamp(folder, setup, notes)


def _stamp(folder: RunFolder, setup: Setup, notes: list[str]) -> None:
    """Write the manifest that a run lacks: a new one, or one that `flwr run` has captured."""
    config, dataset = setup.config, setup.dataset
    if folder.manifest.exists():
        _restate(folder, setup, notes)
        return
    write_manifest(
        folder,
        seed=config.seed,
        defenses=attackers.declared(setup.defenses),
        users=dataset.num_users,
        num_classes=dataset.num_classes,
        image_size=dataset.image_size,
        threat_model=threat_model(setup),
        data={
            "photographs": not setup.examined.synthetic,
            "task": setup.task,
            "photos": setup.examined.photos,
        },
        notes=notes,
    )


def _restate(folder: RunFolder, setup: Setup, notes: list[str]) -> None:
    """Say in the manifest what changes when captures are attacked again: which attacks know which defenses."""
    stated = read_manifest(folder)
    new = {**stated, "defenses": attackers.declared(setup.defenses), "notes": notes}
    if isinstance(stated.get("threat_model"), dict):
        adapted = attackers.not_adapted_to(setup.attacks, setup.defenses)
        new["threat_model"] = {**stated["threat_model"], "not_adapted_to": adapted}
    if new != stated:
        write_atomically(folder.manifest, json.dumps(new, indent=2).encode())


def _make_faces(folder: RunFolder, setup: Setup) -> None:
    if _lacks_faces(folder, setup):
        people = min(setup.config.threat_model.public_people, setup.dataset.num_public)
        write_atomically(folder.faces, _eigenfaces(setup.config.dataset, setup.config.seed, people))


@lru_cache(maxsize=4)  # the cells of a sweep have it in common, and it takes longer than some of their attacks
def _eigenfaces(dataset: Dataset, seed: int, people: int) -> bytes:
    """What the first public people's photos tell of faces."""
    opened = open_dataset(dataset, seed)
    with one_thread():
        photos = torch.cat([opened.public(index).photos for index in range(people)])
        return eigenfaces.encode(eigenfaces.fit(photos))


def _lacks_faces(folder: RunFolder, setup: Setup) -> bool:
    """Whether an attack of this run wants to know what faces have in common, and may, but the run does not hold it."""
    config = setup.config
    if folder.faces.exists() or config.workers.backend == "none":
        return False
    if not min(config.threat_model.public_people, setup.dataset.num_public):
        return False
    return any(attack.needs.public_faces for attack in setup.attacks.values())


def _saved(folder: RunFolder) -> Config:
    return load(config_of(folder))
