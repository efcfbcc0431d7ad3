"""The leakage table: how much of each user each attack reveals, per round, beside its controls.

`measure` writes `leakage.parquet` and `leakage.csv`, one row per (run, seed, round, user, attack, arm).
The same run gives the same table, whatever the engine, the workers and the order in which they finished;
only the column `seconds` is a measured time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from attacker.capture.store import CaptureStore, read_reconstruction
from clients.datasets import open_dataset
from clients.defenses import load_all
from clients.user import FaceDataset
from experiments.evaluate import attribute_inference
from experiments.evaluate.candidates import Prediction
from experiments.evaluate.columns import KEYS, typed, write
from experiments.evaluate.evaluator import Models, open_models
from experiments.evaluate.ground_truth import best_members, captures_by_user
from experiments.evaluate.pictures import MOST
from experiments.evaluate.reconstructions import find_reconstructions
from experiments.evaluate.score import Row, Scorer
from experiments.evaluate.textures import Textures
from experiments.plan import privacy
from experiments.statistics.significance import audit
from fl_sim.config import Config
from fl_sim.initial_model import fresh_model
from fl_sim.runs import RunFolder
from fl_sim.threads import one_thread

Progress = Callable[[int, int], None]
LOOK = 0.5  # seconds between two looks for new reconstructions


def measure(run: RunFolder, config: Config, progress: Progress | None = None) -> pd.DataFrame:
    """Score every reconstruction in the run folder, write the table there, and return it.

    `progress(done, users)` is called after each user. Raises ConfigError as `experiments.run.preflight` does.
    """
    dataset, delta = open_dataset(config.dataset, config.seed), config.protocol.delta
    model = fresh_model(config.model, dataset.num_classes, config.dataset.image_size, config.seed)
    guarantee = privacy.accountant(config, load_all(config.defenses), model).guarantee("server")
    with one_thread():
        models = open_models(config.dataset, config.leakage, config.seed)
        scorer = _scorer(run, config, models, dataset, lambda updates: guarantee.epsilon(updates, delta))
        whole_run = {"run": config.name, "seed": config.seed, "delta": delta}
        table = _score(scorer, dataset, whole_run, progress)
    table["epsilon_audited"] = audit(table, gaussian=guarantee.noise is not None and guarantee.noise.kind == "gaussian")
    write(run, table)
    return table


def look_ahead(run: RunFolder, config: Config, at_work: Callable[[], bool]) -> None:
    """Have the judges look at pictures while attacks are `at_work` on others: `measure` then finds most of it said.

    At no more than they remember: what is forgotten by then would be looked at twice.
    """
    with suppress(Exception), one_thread():  # what fails here fails in `measure`, when the attacks have ended
        eye, seen = open_models(config.dataset, config.leakage, config.seed).eye, set[Path]()
        while at_work():
            new = sorted(set(run.reconstructions.glob("*/round-*/user-*.safetensors")) - seen)[: MOST - len(seen)]
            for path in new:
                label, number, capture = path.parts[-3], int(path.parts[-2][6:]), int(path.stem[5:])
                eye.answer(read_reconstruction(run, label, number, capture))
            seen.update(new)
            time.sleep(LOOK)


def _scorer(
    run: RunFolder, config: Config, models: Models, dataset: FaceDataset, promise: Callable[[int], float | None]
) -> Scorer:
    """Read what the run left, and whose updates they are."""
    store = CaptureStore(run)
    captured = {number: store.users(number) for number in store.finished_rounds()}
    planned = config.workers.attack_rounds or list(captured)
    captures = {number: captures_by_user(config, store, number) for number in captured}
    users = {user for by_user in captures.values() for user in by_user}
    return Scorer(
        models,
        find_reconstructions(run, captured, _begun(run, config)),
        captures,
        planned,
        _inferred(store, config, models, dataset, [number for number in captured if number in planned]),
        attribute_inference.base_rate(models.gallery, models.attributes),
        promise,
        Textures(models.eye.real, len(users)),
    )


def _begun(run: RunFolder, config: Config) -> dict[str, dict[str, Any]]:
    """The tables of the planned attacks, where any has begun: one that left nothing has found nothing out.

    It failed, or was stopped before its turn. Without its rows the verdict would be that of the others alone, who may
    not know the defense.
    """
    if not run.reconstructions.is_dir():
        return {}
    tables = {label: {"name": label, **table} for label, table in config.attacks.items()}
    return {label: table for label, table in tables.items() if table["name"] != "prior_only"}


def _inferred(
    store: CaptureStore, config: Config, models: Models, dataset: FaceDataset, rounds: Sequence[int]
) -> dict[tuple[int, int], Prediction]:
    """What is inferred of each user from updates alone; nothing where nobody asked for it."""
    people = config.leakage.attribute_inference
    if not people:
        return {}
    model = fresh_model(config.model, dataset.num_classes, config.dataset.image_size, config.seed)
    return attribute_inference.predictions(store, model, dataset, people, models.eye.embed, models.attributes, rounds)


def _score(
    scorer: Scorer, dataset: FaceDataset, whole_run: Mapping[str, object], progress: Progress | None
) -> pd.DataFrame:
    """The table of all users, but for the audited epsilon."""
    users = sorted({user for by_user in scorer.captures.values() for user in by_user})
    attributes = scorer.models.attributes
    tables: list[pd.DataFrame] = []  # as rows they would take ten times the memory
    sums: list[Row] = []
    for done, partition in enumerate(users, 1):
        rows = [{**whole_run, **row} for row in scorer.rows(dataset.user(partition))]
        tables.append(typed(rows, attributes))
        sums += [row for row in rows if row["arm"] == "attack" and row["group_size"] > 1]
        if progress is not None:
            progress(done, len(users))
    tables.append(typed(best_members(sums), attributes))
    table = pd.concat(tables, ignore_index=True).sort_values(KEYS, ignore_index=True)
    return scorer.textures.onto(table)
