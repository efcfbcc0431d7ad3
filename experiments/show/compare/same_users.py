"""The runs of a comparison, read, and refused where their users or their judges are not the same."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.evaluate.arms import BELIEVABLE
from experiments.show.report.run_data import RunData, read
from fl_sim.config import Config, ConfigError
from fl_sim.runs import RunFolder, refuse_unfinished

JUDGE = {
    "embedder",
    "embedder_path",
    "embedder_output",
    "embedder_channels",
    "embedder_range",
    "facenet_weights",
    "gallery_size",
}
"""Keys of `leakage` that decide what a similarity and a rank mean."""


def read_runs(folders: Sequence[Path]) -> list[RunData]:
    """The runs in `folders`, the baseline first. ConfigError where they cannot be compared user by user."""
    if len(folders) < 2:
        raise ConfigError("one run was given; give two or more to compare, the baseline first")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("the same run was given twice; give runs that differ")
    runs = [_finished(folder) for folder in folders]
    for other in runs[1:]:
        _refuse(runs[0], other)
    return runs


def names(runs: Sequence[RunData]) -> list[str]:
    """What each run is called: its folder's name, with its parent's before it where two folders have one name."""
    own = [run.run.name for run in runs]
    if len(set(own)) == len(own):
        return own
    return [f"{run.run.root.resolve().parent.name}/{name}" for run, name in zip(runs, own, strict=True)]


def common(runs: Sequence[RunData]) -> list[pd.DataFrame]:
    """The leakage tables, of the users and rounds that all `runs` measured. ConfigError where there are none."""
    tables = [run.leakage for run in runs if run.leakage is not None]
    shared = set.intersection(*(_attacked(run) for run in runs))
    if not shared:
        raise ConfigError(
            "no user was attacked in the same round of all runs; attack the captures of the same rounds "
            "(workers.attack_rounds), then compare again"
        )
    keys = [pd.MultiIndex.from_frame(table[["user", "round"]]) for table in tables]
    return [table[key.isin(shared)] for table, key in zip(tables, keys, strict=True)]


def differing(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """(key, value in `a`, value in `b`) of all that decides what leaks; attacks, workers and judges left out."""
    kept = {"name", "workers", "leakage", "attacks"}
    one, other = a.model_dump(mode="json", exclude=kept), b.model_dump(mode="json", exclude=kept)
    return list(_pairs(one, other))


def _finished(folder: Path) -> RunData:
    run = RunFolder(folder)
    refuse_unfinished(run, "give its fl-sim run again, then compare")
    run_data = read(run)
    if run_data.leakage is None or not run_data.findings:
        raise ConfigError(f"nothing was attacked in {folder}; attack it (fl-sim attack {folder}), then compare")
    return run_data


def _refuse(baseline: RunData, other: RunData) -> None:
    one, two = (run.config.model_dump(mode="json", include={"dataset", "seed"}) for run in (baseline, other))
    people = [f"{key} is {now!r}, not {then!r}" for key, then, now in _pairs(one, two)]
    here, there = other.run.root, baseline.run.root
    if people:
        raise ConfigError(
            f"the users of {here} are not those of {there}: {'; '.join(people)}; give runs of the same dataset and seed"
        )
    one, two = (run.config.leakage.model_dump(mode="json", include=JUDGE) for run in (baseline, other))
    judges = [f"leakage.{key} is {now!r}, not {then!r}" for key, then, now in _pairs(one, two)]
    if judges:
        raise ConfigError(
            f"{here} is not measured as {there} is: {'; '.join(judges)}; measure both alike, then compare again"
        )


def _pairs(one: Any, other: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from _pairs(one.get(key), other.get(key), f"{where}.{key}" if where else key)
    elif one != other and not (isinstance(one, float) and isinstance(other, float) and math.isclose(one, other)):
        yield where, one, other


def _attacked(run: RunData) -> set[tuple[int, int]]:
    """(user, round) of all that an attack, which is not the prior alone, was let loose on."""
    assert run.leakage is not None  # _finished
    rows = run.leakage[run.leakage["arm"].isin(BELIEVABLE) & run.leakage["attack"].isin(run.attacks)]
    pairs = rows[["user", "round"]].drop_duplicates()
    return {(int(user), int(number)) for user, number in zip(pairs["user"], pairs["round"], strict=True)}
