"""What was last said of a run, kept beside its report, and whether it still holds.

`answer.json` has the figures as `fl-sim report --json` prints them and as a terminal shows them. It holds as long as
nothing has changed that it was made of: the files of the run, those of the judges, the versions of the packages; and
nothing that was made with it: table and page. Files are told apart by size and time, so that a look takes no longer
for long runs, and neither torch nor pandas is needed.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_sim.config import Leakage
from fl_sim.runs import RunFolder, versions, write_atomically

if TYPE_CHECKING:
    from experiments.show.report.run_data import RunData

WEIGHTS = Path(__file__).parents[1] / "evaluate" / "weights"  # of the shipped judges
WIDTH = 80  # columns of the tables in a terminal

Made = dict[str, Any]  # what an answer was made of, as JSON
Stamp = list[Any]  # of a file: path, bytes, nanoseconds; null where there is none


@dataclass(frozen=True)
class Answer:
    """What is said of a run."""

    figures: dict[str, Any]  # verdict, findings and aggregates, as JSON
    text: str  # the same for a terminal, with its colours


def answer(data: "RunData") -> Answer:
    """The verdict and the figures of a run whose leakage was measured."""
    from rich.console import Console

    from experiments.statistics.interval import dumps
    from experiments.statistics.significance import as_json
    from experiments.statistics.summary import leakage_tables
    from experiments.statistics.verdict import NO_ATTACK

    judged, found = data.judged, [as_json(one) for one in data.findings]
    stated = {"verdict": judged.facts() if judged else None, "findings": found, **data.aggregates}
    shown = Console(file=io.StringIO(), width=WIDTH, highlight=False, force_terminal=True, color_system="standard")
    shown.print(leakage_tables(data.aggregates, data.findings))
    shown.print(NO_ATTACK if judged is None else judged.sentence(), soft_wrap=True)
    assert isinstance(shown.file, io.StringIO)
    return Answer(json.loads(dumps(stated)), shown.file.getvalue().rstrip("\n"))


def made_of(run: RunFolder, leakage: Leakage) -> Made:
    """What an answer about `run` is made of as it is now; to be asked for before it is made."""
    from experiments.evaluate.image_metrics import lpips_places

    settings = [leakage.embedder_path, leakage.attributes_path, leakage.attributes_weights]
    judges = [*sorted(WEIGHTS.iterdir()), *(path for path in settings if path is not None), *lpips_places(leakage)]
    return {"run": _digest(run), "judges": [_stamp(path) for path in judges], "versions": versions()}


def keep(run: RunFolder, said: Answer, made: Made, with_private_photos: bool) -> None:
    """Write `answer.json`: what was said with `made`, whose table and page lie in `run`."""
    facts = {"made_of": made, "beside": _beside(run), "with_private_photos": with_private_photos, **said.__dict__}
    write_atomically(run.answer, json.dumps(facts).encode())


def kept(run: RunFolder) -> tuple[Answer, bool] | None:
    """The answer that still holds, and whether its page shows private photos; None where there is none."""
    try:
        facts = json.loads(run.answer.read_text(encoding="utf-8"))
        made, said = facts["made_of"], Answer(facts["figures"], facts["text"])
        same = facts["beside"] == _beside(run) and made["run"] == _digest(run) and made["versions"] == versions()
        if same and all(_stamp(Path(path)) == [path, *rest] for path, *rest in made["judges"]):
            return said, bool(facts["with_private_photos"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged
        pass
    return None


def _beside(run: RunFolder) -> list[Stamp]:
    return [_stamp(path, run.root) for path in (run.leakage, run.report)]


def _digest(run: RunFolder) -> str:
    """Of paths, sizes and times of the files that a run is made of."""
    files = [run.config, run.manifest, run.rounds]
    files += [path for folder in (run.captures, run.reconstructions) for path in _below(folder)]
    return hashlib.sha256(json.dumps([_stamp(path, run.root) for path in files]).encode()).hexdigest()


def _below(folder: Path) -> Iterable[Path]:
    found = [Path(at, name) for at, _, names in os.walk(folder) for name in names if name != "lock"]
    return sorted(path for path in found if not path.name.startswith("."))


def _stamp(path: Path, root: Path | None = None) -> Stamp:
    named = str(path if root is None else path.relative_to(root))
    try:
        status = path.stat()
    except OSError:
        return [named, None, None]
    return [named, status.st_size, status.st_mtime_ns]
