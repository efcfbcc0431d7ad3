"""The runner of studies and sweeps: every cell that is not finished yet, then one table of those that are.

A finished cell is never run again; one that fails is named, and the others go on. Cells have in common what a process
keeps: datasets, judges, components of faces, priors. Of cells that differ in their attacks alone the first trains, and
the others attack its captures. `RUNS/NAME` holds

    FILE.toml         the study, as it was run
        CELL/         a run folder for each cell, with its report
        FILE.parquet  the table
"""

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import tomli_w

from attacker import attacks
from experiments.plan.changes import other_settings
from experiments.plan.setup import prepare
from experiments.plan.study import Cell, Study, expand
from experiments.run import pipeline
from experiments.run.preflight import passed, preflight
from experiments.show.tables import last_round
from experiments.studies import same_captures
from fl_sim import import_path
from fl_sim.config import Config, ConfigError, difference, load
from fl_sim.config_errors import in_one_line
from fl_sim.runs import AFTERWARDS, RunFolder, write_atomically

Workers = Literal["configured", "local", "ray"]
Rows = Callable[[Cell, Study, RunFolder], pd.DataFrame]  # of a finished cell, for the table
Progress = Callable[[str, int, int], None]
Tell = Callable[[str], None]
Problems = list[str]  # a sentence each
INSTEAD = "give --workers local to run the cells one after the other in this process instead"
RETRIES = 2  # of a cell whose worker process died


@dataclass(frozen=True)
class Outcome:
    """What a study ended with."""

    folder: Path
    table: pd.DataFrame  # of the cells that are finished; empty where none is
    problems: Problems  # cells, or attacks in them, that failed


def run(
    name: str,
    study: Study,
    runs: Path,
    file: str,
    rows: Rows,
    workers: Workers,
    progress: Progress,
    tell: Tell,
    say: Tell,
) -> Outcome:
    """Run the cells of a study that are not finished yet, and write the table of those that then are.

    `workers`: `configured` runs cell after cell with the engine and the workers of its config. `local` and `ray` give
    each one CPU, whatever the config says, which changes no result: one after the other in this process, or as many at
    a time as a Ray cluster has CPUs, the attacks in the process of their cell. `tell` gets what the user should know
    before, `say` what is left and how each cell ended. Raises ConfigError, before anything is written, for what cannot
    work in any of them, and where the folder holds this study with another config.
    """
    folder = runs / name
    cells = expand(name, study) if workers == "configured" else [_on_one_cpu(cell) for cell in expand(name, study)]
    left = [cell for cell in cells if not _finished(cell, folder)]
    for cell in left:
        _refuse_another(cell, folder)
    notes: list[str] = []
    for cell in left:
        preflight(prepare(cell.config), notes.append)
    for sentence in dict.fromkeys(notes):
        tell(sentence)
    write_atomically(folder / f"{file}.toml", tomli_w.dumps(study.model_dump(mode="json")).encode())
    problems: Problems = []
    waiting, started = [cell.name for cell in left], time.monotonic()
    say(f"{len(cells) - len(left)} of {len(cells)} cells are finished; left: {', '.join(waiting) or 'none'}")
    progress("cells", len(cells) - len(left), len(cells))
    execute = _on_ray if workers == "ray" and left else _in_turn
    for done, (cell, failures) in enumerate(execute(left, cells, folder), 1):
        problems += [f"{cell.name}: {failure}" for failure in failures]
        waiting.remove(cell.name)
        minutes = (time.monotonic() - started) / done * len(waiting) / 60
        ended = f"failed: {'; '.join(failures)}" if failures else _in_short(RunFolder(folder / cell.name))
        say(f"{cell.name} {ended}; {len(waiting)} left, about {minutes:.0f} min")
        progress("cells", len(cells) - len(waiting), len(cells))
    tables = [rows(cell, study, RunFolder(folder / cell.name)) for cell in cells if _finished(cell, folder)]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    write_atomically(folder / f"{file}.parquet", table.to_parquet(index=False))
    return Outcome(folder, table, problems)


def _in_short(run: RunFolder) -> str:
    """What a finished cell came to: of its attacks and rounds the one that names most users."""
    table = pd.read_parquet(run.leakage).query("arm == 'attack'")
    hits = table.assign(hit=table["rank"] == 1).groupby(["attack", "round"])["hit"]
    rounds = pd.read_parquet(run.rounds) if run.rounds.exists() else pd.DataFrame()
    accuracy = last_round(rounds)["accuracy"]
    most = f"names {hits.sum().max():.0f} of {hits.size().max()} users" if len(table) else "was not attacked"
    return most if accuracy is None else f"{most}, accuracy {accuracy:.2f}"


def run_cell(config: Config, folder: RunFolder) -> Problems:
    """Bring one cell to its end; what failed in it. Never raises but to be stopped."""
    try:
        return pipeline.complete(config, folder, lambda stage, done, total: None, lambda sentence: None).problems
    except ConfigError as error:
        return [str(error)]
    except Exception as error:  # the other cells go on
        return [f"{type(error).__name__}: {in_one_line(error)}"]


def _refuse_another(cell: Cell, folder: Path) -> None:
    """ConfigError where the cell's folder holds captures, or reconstructions, that this cell would not make."""
    run = RunFolder(folder / cell.name)
    if not run.config.exists():
        return
    saved, now = load(run.config), cell.config
    labels = [label for label in now.attacks if label in saved.attacks]
    before, after = ({label: _settings(label, config.attacks[label]) for label in labels} for config in (saved, now))
    changes = (other_settings(before, after, label) for label in labels)
    change = next(filter(None, [difference(saved, now, AFTERWARDS), *changes]), None)
    if change is not None:
        raise ConfigError(f"{run.root} holds this cell with another config: {change}; give --runs another folder")


def _settings(label: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of an attack, those that have their defaults, too."""
    attack = attacks.load(label, table)
    return {"name": attack.name, **asdict(attack.settings)}


def _finished(cell: Cell, folder: Path) -> bool:
    return pipeline.finished(cell.config, RunFolder(folder / cell.name))


def _in_turn(left: Sequence[Cell], cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, Problems]]:
    for cell in left:
        same_captures.lend(cell, cells, folder)
        yield cell, run_cell(cell.config, RunFolder(folder / cell.name))


def _run_elsewhere(config: Config, folder: RunFolder, trials: Collection[str]) -> Problems:
    """`run_cell` in a worker process; `trials` went well in the process that started it."""
    passed.update(trials)
    return run_cell(config, folder)


def _on_ray(left: Sequence[Cell], cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, Problems]]:
    """As many at a time as the cluster has CPUs, in the order in which they end. Its machines must see `folder`."""
    from attacker.workers.pool import cores
    from attacker.workers.ray_pool import connect

    # Workers inherit it: they must find what this process finds, a third party's defense too.
    os.environ["PYTHONPATH"] = import_path.as_variable()
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # cells ask for no GPU, but their attack workers may use one
    ray, temporary = connect(min(cores(), len(left)), INSTEAD)
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_run_elsewhere)
    trials = frozenset(passed)
    first = same_captures.firsts(left)
    under_way: dict[Any, Cell] = {}

    def start(wanted: Iterable[Cell]) -> None:
        for cell in wanted:
            same_captures.lend(cell, cells, folder)
            under_way[task.remote(cell.config, RunFolder((folder / cell.name).resolve()), trials)] = cell

    try:
        start(cell for cell in left if first[cell.name] == cell.name)
        while under_way:
            ready, _ = ray.wait(list(under_way))
            for reference in ready:
                ended = under_way.pop(reference)
                try:
                    problems = ray.get(reference)
                except ray.exceptions.RayError as error:
                    problems = [f"its worker died ({type(error).__name__}), {1 + RETRIES} times"]
                start(cell for cell in left if first[cell.name] == ended.name != cell.name)
                yield ended, problems
    finally:
        ray.shutdown()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _on_one_cpu(cell: Cell) -> Cell:
    config = cell.config
    federation = config.federation.model_copy(update={"engine": "inprocess"})
    # Ports: cells that run side by side would want the same.
    workers = config.workers.model_copy(update={"backend": "inprocess", "metrics_port": 0})
    return Cell(cell.name, cell.keys, config.model_copy(update={"federation": federation, "workers": workers}))
