"""The table that sums up what decides how much leaks: a line a question, each end of it a row of a stored study."""

from pathlib import Path
from typing import NamedTuple

from experiments.studies import stored

OURS = "user_diffusion"


class End(NamedTuple):
    """What is called `name` in the table: a row of the attack in a stored study."""

    name: str
    file: str
    cell: str | None = None
    label: str = OURS
    round: str | None = None


class Line(NamedTuple):
    """One question: what is changed, from where to where, on whom, and the section of docs/studies.md."""

    what: str
    start: End
    end: End
    people: str
    section: str


def _changed(setting: str, value: str) -> str:
    return f"{OURS}-{setting}-{value}"


LINES = (
    Line(
        "labels of a user",
        End("one", "task_real_untrained", "identity"),
        End("varying", "task_real_untrained", "smile"),
        "real",
        "Task and training",
    ),
    Line(
        "model, labels vary",
        End("untrained", "task_real_untrained", "smile"),
        End("trained", "task_real_trained", "smile"),
        "real",
        "Task and training",
    ),
    Line(
        "model, one label",
        End("untrained", "task_real_untrained", "identity"),
        End("trained", "task_real_trained", "identity"),
        "real",
        "Task and training",
    ),
    Line(
        "steps and images of the attack, trained model",
        End("100 and 4", "task_real_trained", "identity"),
        End("300 and 8", "steps_real", "trained on smiles, identity", _changed("images_per_label", "8")),
        "real",
        "More steps, more images",
    ),
    Line(
        "diffusion prior, trained model",
        End("without", "prior_real", "smile", _changed("prior_weight", "0.0")),
        End("with", "prior_real", "smile"),
        "real",
        "The diffusion prior",
    ),
    Line(
        "components of public faces, trained model",
        End("without", "ablation_real", label=_changed("eigenface_share", "0.0")),
        End("with", "ablation_real"),
        "real",
        "The attack's own settings",
    ),
    Line(
        "weight of the layers, trained model",
        End("as they come", "ablation_real", label=_changed("layer_norm_power", "0.0")),
        End("by size", "ablation_real"),
        "real",
        "The attack's own settings",
    ),
    Line(
        "architecture",
        End("mlp", "architectures_real", "mlp, untrained, smile"),
        End("lenet", "architectures_real", "lenet, untrained, smile"),
        "real",
        "Architecture",
    ),
    Line(
        "normalisation of a ResNet-18",
        End("fixed", "architectures_real", "ResNet-18, fixed normalisation, untrained, identity"),
        End("the batch's", "architectures_real", "ResNet-18, batch statistics, untrained, identity"),
        "real",
        "Architecture",
    ),
    Line(
        "rounds of training",
        End("0", "training", round="1"),
        End("100", "training", round="101"),
        "synthetic",
        "Rounds of training",
    ),
    Line(
        "photos behind an update",
        End("30", "batch_size", "30"),
        End("100", "batch_size", "100"),
        "synthetic",
        "Photos behind an update",
    ),
    Line("local epochs", End("1", "local_epochs", "1"), End("8", "local_epochs", "8"), "synthetic", "Local epochs"),
    Line(
        "updates of a user matched together",
        End("1", "rounds_fused"),
        End("8", "rounds_fused", label=_changed("rounds", "8")),
        "synthetic",
        "Rounds matched together",
    ),
    Line("pixels", End("32", "resolution", "32"), End("128", "resolution", "128"), "synthetic", "Image size"),
    Line(
        "labels",
        End("recovered", "labels", "smile-recovered"),
        End("told", "labels", "smile-known"),
        "synthetic",
        "Labels told or recovered",
    ),
)


def table(folder: Path) -> str:
    """A line each, with the similarity and the users named at both ends."""
    lines = ["| what | from | to | people | section |", "|---|---|---|---|---|"]
    for line in LINES:
        ends = (f"{end.name}: {_told(end, folder)}" for end in (line.start, line.end))
        anchor = line.section.lower().replace(" ", "-").replace(",", "").replace("'", "")
        lines.append(f"| {line.what} | {' | '.join(ends)} | {line.people} | [{line.section}](#{anchor}) |")
    return "\n".join(lines)


def _told(end: End, folder: Path) -> str:
    wanted = {"arm": "attack", "label": end.label, "cell": end.cell, "round": end.round}
    rows = stored.read(folder / f"{end.file}.csv")
    row = stored.find(rows, **{key: value for key, value in wanted.items() if value is not None})
    return ", ".join(filter(None, (f"{row['facial_similarity']:.2f}", stored.named(row))))
