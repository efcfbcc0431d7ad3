"""What `import fl_sim` offers in Python: run a federation under attack, look at what leaked, compare runs.

It does what the commands do: the same configuration, folders and results.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL.Image import Image

from experiments import load_runs
from experiments.show import compare as comparisons
from experiments.show import result
from experiments.show.compare import Comparison
from experiments.show.report.captions import headline
from experiments.show.report.run_data import read as read_run
from fl_sim import config as configs
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder, failed_job, refuse_unfinished

__all__ = ["Comparison", "ConfigError", "Result", "compare", "load", "load_runs", "run"]


@dataclass(frozen=True)
class Result:
    """A finished run. Its tables are read from the folder whenever they are asked for."""

    folder: Path
    problems: tuple[str, ...] = ()
    """What failed, a sentence each: such as attacks, whose pictures are missing from all figures."""

    @property
    def leakage(self) -> pd.DataFrame:
        """A row per round, user, attack and arm (the columns of experiments.run.leakage); empty without an attack."""
        return _table(RunFolder(self.folder).leakage)

    @property
    def rounds(self) -> pd.DataFrame:
        """A row a round: accuracy and loss on held-out photos, updates accepted and rejected, seconds."""
        return _table(RunFolder(self.folder).rounds)

    @property
    def report(self) -> Path:
        """The page of the run, one file that opens in any browser."""
        return RunFolder(self.folder).report

    @property
    def verdict(self) -> str:
        """What leaked, in the sentence that the report begins with."""
        return headline(read_run(RunFolder(self.folder))).sentence

    def faces(self, user: int, server_round: int | None = None, with_private_photos: bool = False) -> Image:
        """A row of pictures: a private photo of `user`, and what each attack made of the update in one round.

        `server_round`: the first that was attacked if None. Photos of real people are left out unless
        `with_private_photos`: a notebook may travel. ConfigError for a user or a round that was not attacked.
        """
        return result.faces(read_run(RunFolder(self.folder)), user, server_round, with_private_photos)

    def __repr__(self) -> str:
        failed = "".join(f"\nfailed: {problem}" for problem in self.problems)
        return f"<fl_sim.Result {self.folder}: {self.verdict}>{failed}"

    def _repr_html_(self) -> str:
        return result.html(read_run(RunFolder(self.folder)), self.problems)


def run(
    *overrides: str,
    config: Path | str | None = None,
    runs: Path | str = "runs",
    **sections: Any,
) -> Result:
    """Train a federation under attack, measure what leaked, write the report: `fl-sim run`.

        fl_sim.run("dataset.users=6", name="mine", defenses=[{"name": "clip", "max_norm": 1.0}])

    `overrides` are those of `-o`. `sections` are what a TOML file would hold (`fl-sim config` lists all of it): `name`,
    `seed`, `defenses` (a list of tables), and tables such as `dataset`, `federation`, `attacks`. They are laid over the
    TOML file `config`, and `overrides` over both. `runs` is the folder of all runs.

    A run that is there in full is read, a stopped one taken up again, and captures whose attacks alone have changed are
    attacked again. Raises ConfigError for a mistake, before anything starts; failed attacks are warned of.
    """
    table = configs.read(None if config is None else Path(config), ())
    for name, section in sections.items():
        both = isinstance(section, Mapping) and isinstance(table.get(name), Mapping)
        table[name] = {**table[name], **section} if both else section
    settings = configs.load(table, overrides)
    from experiments.run import pipeline  # Flower and Ray take seconds; mistakes are told before

    folder = RunFolder(Path(runs) / settings.name)
    with _progress() as progress:
        outcome = pipeline.complete(settings, folder, progress, _note)
    for problem in outcome.problems:
        warnings.warn(problem, RuntimeWarning, stacklevel=2)
    return Result(folder.root, tuple(outcome.problems))


def load(folder: Path | str) -> Result:
    """A run that is finished. ConfigError for any other folder."""
    run_folder = RunFolder(Path(folder))
    refuse_unfinished(run_folder, "give its run again, which goes on from where it stopped")
    failed = json.loads(run_folder.failed.read_text(encoding="utf-8")) if run_folder.failed.is_file() else []
    return Result(run_folder.root, tuple(map(failed_job, failed)))


def compare(*runs: Result | Path | str) -> Comparison:
    """Finished runs of the same users, side by side, the first as the baseline: `fl-sim compare`.

    ConfigError where their users are not the same people.
    """
    return comparisons.compare([one.folder if isinstance(one, Result) else Path(one) for one in runs])


def _table(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.is_file() else pd.DataFrame()


def _note(sentence: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"note: {sentence}", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar a stage, in a notebook as in a terminal. The queue rises and falls, so it has none."""
    with warnings.catch_warnings():  # here, for it is not safe in the threads that call back
        warnings.simplefilter("ignore")  # where a notebook has no ipywidgets its bars are those of a terminal, unasked
        from tqdm.auto import tqdm

    bars: dict[str, Any] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "queued":
            return
        if stage not in bars:
            bars[stage] = tqdm(total=total, desc=stage)
        bars[stage].update(done - bars[stage].n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()
