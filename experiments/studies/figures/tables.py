"""The tables of the documents by name, each a function from the folder of stored results to Markdown."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from experiments.benchmarks import flower_mechanisms
from experiments.benchmarks.__main__ import BASELINE
from experiments.benchmarks.attack_speed import unmixing_table
from experiments.plan.privacy import Noise
from experiments.show.frontier.__main__ import markdown as frontier
from experiments.show.markdown import markdown_table
from experiments.statistics.audited_epsilon import audited_epsilon
from experiments.studies import drawn_table, finishes, judges, model_families, photos_table, stored, task_table
from experiments.studies.figures import short
from experiments.studies.stored import Grid, Row

Table = Callable[[Path], str]

ARMS = {"base_rate": "base rate", "own_photo": "a real photo", "attribute_inference": "the update, no picture"}
DELTA = 1e-5
PEOPLE = 100  # among whom a user is looked for


def study(file: str, corner: str, down: Callable[[Row], str], across: Callable[[Row], str] | None = None) -> Table:
    """The table of a stored study: a row for each value that was tried, a column an attack."""
    return lambda folder: stored.markdown(
        corner, _ordered(stored.by(stored.read(folder / file), down, across or _attack))
    )


def _ordered(grid: Grid) -> Grid:
    """Rows by size, where they are numbers."""
    try:
        return dict(sorted(grid.items(), key=lambda item: float(item[0])))
    except ValueError:
        return grid


def _attack(row: Row) -> str:
    """The attack's label, and what it has otherwise than by default."""
    return f"`{row['attack']}`" + (f", {_setting(row)}" if row.get("setting") else "")


def _setting(row: Row) -> str:
    return f"`{row['setting']} = {row['value']}`" if row.get("setting") else "the defaults"


def _cell(row: Row) -> str:
    return str(row["cell"])


def _value(default: str) -> Callable[[Row], str]:
    return lambda row: str(row.get("value") or default)


def ablation(folder: Path) -> str:
    """Settings changed one at a time, on real and on synthetic people; controls are the last rows."""
    grid: Grid = {}
    for column in ("real, trained", "synthetic, untrained"):
        rows = stored.read(folder / f"ablation_{column.split(',')[0]}.csv")
        for row in rows:
            if row["arm"] == "attack" and row["attack"] != "prior_only":
                grid.setdefault(_setting(row), {})[column] = stored.told(row)
        for arm, name in (("wrong_update", "another's update"), ("prior_only", "the prior alone"), *ARMS.items()):
            for row in rows:
                if row["arm"] == arm and row["label"] == "user_diffusion" and arm != "base_rate":
                    grid.setdefault(name, {})[column] = stored.told(row)
    return stored.markdown("changed", grid)


def presets(folder: Path) -> str:
    """The published recipes beside the defaults."""
    names = {
        ("user_diffusion", "attack"): "`user_diffusion`, the defaults",
        ("user_diffusion", "determined"): "the mean face that the update determines",
        ("paper", "attack"): '`user_diffusion`, `preset = "paper"`',
        ("published", "attack"): '`inverting_gradients`, `preset = "paper"`, 60 steps',
        ("user_diffusion", "wrong_update"): "another's update",
        ("user_diffusion", "prior_only"): "the prior alone",
        ("user_diffusion", "own_photo"): "a real photo",
    }
    rows = {(row["label"], row["arm"]): row for row in stored.read(folder / "presets.csv")}
    grid = {
        name: {"similarity": stored.similarity(rows[key]), "named": stored.named(rows[key])}
        for key, name in names.items()
        if key in rows
    }
    return stored.markdown("attack", grid)


def labels(folder: Path) -> str:
    """`user_diffusion` where labels are recovered, and where they are told."""
    grid: Grid = {}
    files = {"synthetic, untrained, ": "labels.csv", "real, trained, smile": "labels_real.csv"}
    for who, file in files.items():
        for row in stored.read(folder / file):
            if row["arm"] == "attack" and row["label"] == "user_diffusion":
                task, _, known = str(row["cell"]).rpartition("-")
                grid.setdefault(f"{who}{task}", {})["told" if known == "known" else known] = stored.told(row)
    return stored.markdown("people, model, task", grid)


def attributes(file: str) -> Table:
    """The share of users of whom each attribute is read rightly, by who reads it."""

    def table(folder: Path) -> str:
        rows = stored.read(folder / file)
        names = [name for name in rows[0] if name.startswith("attr_") and not name.endswith(("_low", "_high"))]
        several, grid = len({row["cell"] for row in rows}) > 1, Grid()
        for arm in ("base_rate", "own_photo", "attack", "attribute_inference"):
            for row in rows:
                plain = arm in ("base_rate", "own_photo")  # the same for all attacks and tasks
                if row["arm"] != arm or (arm != "attack" and row["label"] != "user_diffusion"):
                    continue
                if row["label"] == "prior_only" or (plain and row["cell"] != rows[0]["cell"]):
                    continue
                name = ARMS.get(arm, f"`{row['label']}`")
                place = f"{row['cell']}: {name}" if several and not plain else name
                grid[place] = {one.removeprefix("attr_").replace("_", " "): f"{row[one]:.2f}" for one in names}
        return stored.markdown("read off", grid)

    return table


def prior_quality(folder: Path) -> str:
    """How real samples of the shipped prior look, beside photos of other people and blurred photos."""
    figures = json.loads((folder / "prior_quality.json").read_text(encoding="utf-8"))["figures"]
    grid = {
        arm: {
            **{name: f"{found[name]:.2f}" for name in ("precision", "recall")},
            "face probability": f"{found['face_probability']:.3f}",
            "patch distance, 3 scales": " ".join(
                f"{found[f'patch_swd_{at}']:.0f}" for at in ("full", "half", "quarter")
            ),
        }
        for arm, found in figures.items()
    }
    return stored.markdown("pictures", grid)


def audited(folder: Path) -> str:
    """The epsilon that so many named users prove; of `folder` nothing is needed."""
    counts = ((0, 24), (2, 6), (8, 8), (16, 16), (12, 24), (24, 24), (58, 58), (200, 200))
    kinds = {"any mechanism": False, "Gaussian noise": True}
    grid = {
        f"{named} of {users}": {
            name: f"{audited_epsilon(named, users, PEOPLE, DELTA, gaussian):.1f}" for name, gaussian in kinds.items()
        }
        for named, users in counts
    }
    return stored.markdown(f"named among {PEOPLE} people, delta 1e-5", grid)


def epsilon(folder: Path) -> str:
    """The epsilon of Gaussian noise over rounds; of `folder` nothing is needed."""
    grid = {
        f"{z:g}": {
            f"{rounds} round{'s' * (rounds > 1)}": f"{Noise('gaussian', z).epsilon(rounds, DELTA):.3g}"
            for rounds in (1, 10, 100)
        }
        for z in (0.1, 0.5, 1, 2, 5, 10)
    }
    return stored.markdown("z", grid)


def flower(folder: Path) -> str:
    """What the installed Flower's mechanisms do; of `folder` nothing is needed."""
    return "```\n" + "\n".join(flower_mechanisms.lines()) + "\n```"


def bench(folder: Path) -> str:
    """The committed ratios of `make bench`; of `folder` nothing is needed."""
    return stored.markdown(
        "ratio", {name: {"": f"{value:g}"} for name, value in json.loads(BASELINE.read_text()).items()}
    )


def attack_speed(folder: Path) -> str:
    """A step of ours beside one of breaching."""
    heads = ["model", "pixels", "photos", "ours, ms", "breaching, ms", "ratio", "steps", "loss: ours", "breaching"]
    lines = []
    for row in json.loads((folder / "attack_speed.json").read_text(encoding="utf-8")):
        cost = [1000 * row[f"{who}_cpu_s_per_step"] for who in ("ours", "breaching")]
        loss = [row[f"{who}_matching_loss"] for who in ("ours", "breaching")]
        lines.append([row["model"], row["size"], row["batch"], *(_three(one) for one in cost)])
        lines[-1] += [f"{row['speedup']:.2f}", row["steps"], *(f"{one:.5f}" for one in loss)]
    return markdown_table(heads, lines)


def _three(value: float) -> str:
    """Three digits, and no fewer than those before the point."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def as_stored(file: str) -> Table:
    """A CSV as it is."""

    def table(folder: Path) -> str:
        cells = pd.read_csv(folder / file, dtype="string").fillna("")
        return markdown_table([*map(str, cells)], cells.to_numpy().tolist())

    return table


TABLES: dict[str, Table] = {
    "short": short.table,
    "task_real": lambda folder: task_table.table(
        {state: folder / f"task_real_{state}.csv" for state in ("untrained", "trained")}
    ),
    "drawn_real": lambda folder: drawn_table.table(
        {state: folder / f"drawn_real_{state}.csv" for state in ("untrained", "trained")}
    ),
    "steps_real": study("steps_real.csv", "model, task", _cell),
    "prior_real": study("prior_real.csv", "task", _cell),
    "attributes_synthetic": attributes("attributes_synthetic.csv"),
    "attributes_real": attributes("attributes_real.csv"),
    **{
        name: lambda folder, name=name: finishes.markdown(  # type: ignore[misc]
            json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["rows"]
        )
        for name in ("finishes_synthetic", "finishes_real")
    },
    "ablation": ablation,
    "presets": presets,
    "training": study("training.csv", "rounds trained", lambda row: str(int(row["round"]) - 1)),
    "architectures_real": study("architectures_real.csv", "model, task", _cell),
    "resolution": study("resolution.csv", "pixels", _cell),
    "batch_size": study("batch_size.csv", "photos", _cell),
    "local_epochs": study("local_epochs.csv", "epochs", _cell),
    "rounds_fused": study("rounds_fused.csv", "rounds", _value("1"), lambda row: f"`{row['attack']}`"),
    "labels": labels,
    "representatives": study("representatives.csv", "images a label", _value("4"), lambda row: f"`{row['attack']}`"),
    **{
        name: lambda folder, name=name: frontier(pd.read_csv(folder / f"{name}.csv"))  # type: ignore[misc]
        for name in ("frontier_synthetic", "frontier_real", "frontier_labels_known")
    },
    "judges": lambda folder: judges.markdown(
        json.loads((folder / "judges_real.json").read_text(encoding="utf-8"))
    ).strip(),
    "model_families": lambda folder: model_families.table(
        json.loads((folder / "model_families.json").read_text(encoding="utf-8"))
    ),
    "prior_quality": prior_quality,
    "audited_epsilon": audited,
    "epsilon": epsilon,
    "flower_mechanisms": flower,
    "bench": bench,
    "attack_speed": attack_speed,
    "attack_step": as_stored("attack_step.csv"),
    "capture": as_stored("capture.csv"),
    "unmixing": lambda folder: unmixing_table(json.loads((folder / "unmixing.json").read_text(encoding="utf-8"))),
    "fully_connected": lambda folder: photos_table.table(folder / "fully_connected.csv"),
}
