"""Sweeps: every run of a study, several at a time, and one tidy table of all that was measured.

A sweep file is a study (experiments.plan.study): defenses and their strengths in `cells`, seeds in `grid`, attacks
and what they know of the defense in `vary`. `DIR` is `RUNS/NAME`:

    DIR/sweep.toml      the study, as it was run
        CELL/           a run folder for each cell, with its report
        sweep.parquet   the leakage rows of all cells, beside what varies, utility, and epsilon at delta

A cell takes one CPU: its users train in its own process and one worker attacks, whatever the base config says of
engine and workers; neither changes a result. A finished cell is never run again; one that fails is named, and the
others go on.
"""

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import tomli_w

from experiments.plan import attackers, privacy
from experiments.plan.defended import measures
from experiments.plan.defended import name as name_of
from experiments.plan.study import Cell, Study, expand, variants
from experiments.run import pipeline
from experiments.run.preflight import preflight
from experiments.show import tables
from experiments.show.report.material import distorted
from fl_sim import import_path
from fl_sim.config import Config, ConfigError
from fl_sim.runs import RunFolder, read_manifest, write_atomically

Progress = Callable[[str, int, int], None]
Tell = Callable[[str], None]
INSTEAD = "give --workers local to run the cells one after the other in this process instead"
RETRIES = 2  # of a cell whose worker process died


@dataclass(frozen=True)
class Sweep:
    """What a sweep ended with."""

    folder: Path
    table: pd.DataFrame  # of the cells that are finished
    problems: list[str]  # one sentence each: cells, or attacks in them, that failed


def run(
    name: str,
    study: Study,
    runs: Path,
    workers: Literal["ray", "local"],
    progress: Progress,
    tell: Tell,
    say: Tell = lambda sentence: None,
) -> Sweep:
    """Run the cells that are not finished yet, and write the table of those that then are.

    `tell` gets what the user should know before, `say` what is left and how each cell ended.

    Raises ConfigError, before the first cell, for whatever cannot work in any of them.
    """
    folder = runs / name
    cells = [_on_one_cpu(cell) for cell in expand(name, study)]
    left = [cell for cell in cells if not pipeline.finished(cell.config, RunFolder(folder / cell.name))]
    notes: list[str] = []
    for cell in left:
        preflight(cell.config, notes.append)
    for sentence in dict.fromkeys(notes):
        tell(sentence)
    write_atomically(folder / "sweep.toml", tomli_w.dumps(study.model_dump(mode="json")).encode())
    problems: list[str] = []
    done = len(cells) - len(left)
    started = time.monotonic()
    waiting = [cell.name for cell in left]
    say(f"{done} of {len(cells)} cells are finished; left: {', '.join(waiting) or 'none'}")
    progress("cells", done, len(cells))
    for cell, failures in (_on_ray if workers == "ray" and left else _here)(left, folder):
        problems += [f"{cell.name}: {failure}" for failure in failures]
        waiting.remove(cell.name)
        done = len(cells) - len(waiting)
        each = (time.monotonic() - started) / (len(left) - len(waiting))
        ended = f"failed: {failures[0]}" if failures else _in_short(RunFolder(folder / cell.name))
        say(f"{cell.name} {ended}; {len(waiting)} left, about {each * len(waiting) / 60:.0f} min")
        progress("cells", done, len(cells))
    whole = [cell for cell in cells if pipeline.finished(cell.config, RunFolder(folder / cell.name))]
    table = pd.concat([_rows(cell, study, folder) for cell in whole], ignore_index=True) if whole else pd.DataFrame()
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(folder / "sweep.parquet", buffer.getvalue())
    return Sweep(folder, table, problems)


def _in_short(run: RunFolder) -> str:
    """What a finished cell came to: of its attacks and rounds the one that identifies most users."""
    table = pd.read_parquet(run.leakage).query("arm == 'attack'")
    hits = table.assign(hit=table["rank"] == 1).groupby(["attack", "round"])["hit"]
    accuracy = tables.last_round(pd.read_parquet(run.rounds)).get("accuracy")
    most = f"identifies {hits.sum().max():.0f} of {hits.size().max()} users" if len(table) else "was not attacked"
    return most if accuracy is None else f"{most}, accuracy {accuracy:.2f}"


def run_cell(config: Config, folder: RunFolder) -> list[str]:
    """Bring one cell to its end; what failed in it, in sentences. Never raises but to be stopped."""
    try:
        return pipeline.complete(config, folder, lambda stage, done, total: None, lambda sentence: None).problems
    except ConfigError as error:
        return [str(error)]
    except Exception as error:  # the other cells go on
        return [f"{type(error).__name__}: {' '.join(str(error).split())}"]


def _here(cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, list[str]]]:
    for cell in cells:
        yield cell, run_cell(cell.config, RunFolder(folder / cell.name))


def _on_ray(cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, list[str]]]:
    """As many at a time as the cluster has CPUs, in the order in which they end. Its machines must see `folder`."""
    from attacker.workers.pool import cores
    from attacker.workers.ray_pool import connect

    # Workers inherit it: they must find what this process finds, a third party's defense too.
    os.environ["PYTHONPATH"] = import_path.as_variable()
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # cells ask for no GPU, but their attack workers may use one
    ray, temporary = connect(min(cores(), len(cells)), INSTEAD)
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(run_cell)
    try:
        under_way = {task.remote(cell.config, RunFolder((folder / cell.name).resolve())): cell for cell in cells}
        while under_way:
            ready, _ = ray.wait(list(under_way))
            for reference in ready:
                cell = under_way.pop(reference)
                try:
                    yield cell, ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield cell, [f"its worker died ({type(error).__name__}), {1 + RETRIES} times"]
    finally:
        ray.shutdown()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _on_one_cpu(cell: Cell) -> Cell:
    config = cell.config
    federation = config.federation.model_copy(update={"engine": "inprocess"})
    # Cells that run side by side would want one port.
    workers = config.workers.model_copy(update={"backend": "local", "count": 1, "metrics_port": 0})
    return Cell(cell.name, cell.keys, config.model_copy(update={"federation": federation, "workers": workers}))


def _rows(cell: Cell, study: Study, folder: Path) -> pd.DataFrame:
    """The leakage of one cell, beside what the sweep varies and what the defense costs and guarantees."""
    run = RunFolder(folder / cell.name)
    table = pd.read_parquet(run.leakage)
    labels = {variant.label: variant.attack for variant in variants(study)}
    labels = {label: labels[source] for label, source in attackers.sources(cell.config).items()}
    table = table[table["attack"].isin(labels)]  # not what somebody attacked it with besides
    keys = {key: str(value) for key, value in cell.keys.items() if key != "seed"}
    facts: dict[str, Any] = {"cell": cell.name, "defense": name_of(measures(cell.config)), "strength": "", **keys}
    others = [f"{key} {value}" for key, value in keys.items() if key not in {"defense", "strength"}]
    facts["setting"] = ", ".join(others)
    facts |= tables.last_round(pd.read_parquet(run.rounds))
    noise = privacy.guarantee(cell.config, "server").noise
    facts |= {"epsilon_run": privacy.epsilon(cell.config), "mechanism": noise.kind if noise else None}
    unknown = attackers.known_to_nobody(attackers.not_adapted_to(attackers.planned(cell.config)))
    facts["known_to_nobody"] = ", ".join(unknown)  # defenses that no attack of the cell is adapted to
    facts["distorted"] = distorted(read_manifest(run), cell.config)
    more = table.assign(label=table["attack"], attack=table["attack"].map(labels), **facts)
    return more.astype({"epsilon_run": "float64", "mechanism": "string"})
