"""Twelve families of models as a user would bring them, each trained by users and attacked, or refused in a sentence.

    python -m experiments.studies.model_families [--only FAMILY] [--runs runs] [--out docs/results/model_families.json]

Every family is a factory `(num_classes, image_size) -> nn.Module` of this file, named in the config as anybody's own
would be: `model.name = "experiments.studies.model_families:own_cnn"`. What came of each is kept in the file `--out`,
what is there of other families stays; the table of docs/models.md is printed from it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from experiments.plan.setup import prepare
from experiments.run import pipeline
from experiments.run.preflight import preflight
from experiments.show.markdown import markdown_table
from experiments.statistics.aggregate import aggregate
from experiments.statistics.interval import Interval
from fl_sim.config import ConfigError, load
from fl_sim.runs import RunFolder, write_atomically
from fl_sim.threads import one_thread

USERS, PHOTOS = 12, 20
SETTINGS = (
    *(f"dataset.users={USERS}", f"dataset.photos={PHOTOS}", "federation.rounds=1", "federation.engine=inprocess"),
    *("workers.backend=local", "workers.count=1", "leakage.attributes=none"),
    "attacks={inverting_gradients = {}, prior_only = {}}",
)
Row = dict[str, Any]


def own_cnn(num_classes: int, image_size: int) -> nn.Module:
    """Convolution, batch norm, ReLU: what most tutorials build; its users train it in training mode."""
    return nn.Sequential(
        *_block(3, 32, nn.BatchNorm2d), *_block(32, 64, nn.BatchNorm2d), *_head(64, num_classes, image_size)
    )


def dropout(num_classes: int, image_size: int) -> nn.Module:
    """The same without normalisation, with dropout of channels and features."""
    layers = [*_block(3, 32, nn.Identity), nn.Dropout2d(0.25), *_block(32, 64, nn.Identity)]
    return nn.Sequential(*layers, nn.Dropout(0.5), *_head(64, num_classes, image_size))


def vit(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's vision transformer, two layers of four heads on patches of 8 pixels."""
    from torchvision.models import VisionTransformer

    network: nn.Module = VisionTransformer(image_size, 8, 2, 4, 64, 128, num_classes=num_classes)
    nn.init.trunc_normal_(network.get_parameter("heads.head.weight"), std=0.02)  # torchvision starts it at zero
    return network


def mobilenet_v3(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's MobileNetV3-Small: batch norm, hardswish, squeeze and excitation with hardsigmoid, dropout."""
    from torchvision.models import mobilenet_v3_small

    network: nn.Module = mobilenet_v3_small(num_classes=num_classes)
    return network


def frozen_backbone(num_classes: int, image_size: int) -> nn.Module:
    """Transfer learning: the first block is fixed, the second and the head are trained."""
    network = nn.Sequential(
        nn.Sequential(*_block(3, 32, nn.Identity)), *_block(32, 64, nn.Identity), *_head(64, num_classes, image_size)
    )
    network[0].requires_grad_(False)
    return network


class TwoHeads(nn.Module):
    """A head for the task at hand, defined first, and one that another task would use."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.task = nn.Sequential(*_head(64, num_classes, image_size))
        self.other = nn.Sequential(*_head(64, 10, image_size))
        self.backbone = nn.Sequential(*_block(3, 32, nn.Identity), *_block(32, 64, nn.Identity))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.task(self.backbone(images))
        return logits


class TiedWeights(nn.Module):
    """One convolution used twice, under two names."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.second.weight = self.first.weight
        self.stem, self.head = (
            nn.Sequential(*_block(3, 32, nn.Identity)),
            nn.Sequential(*_head(32, num_classes, image_size * 2)),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        logits: Tensor = self.head(self.second(self.first(x).relu()).relu())
        return logits


def weight_norm(num_classes: int, image_size: int) -> nn.Module:
    """Weight norm on every layer, the last one too."""
    network = nn.Sequential(
        *_block(3, 32, nn.Identity), *_block(32, 64, nn.Identity), *_head(64, num_classes, image_size)
    )
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.utils.parametrizations.weight_norm(layer)
    return network


def group_norm(num_classes: int, image_size: int) -> nn.Module:
    """Group norm in the place of batch norm, as federated learning often has it."""

    def norm(channels: int) -> nn.Module:
        return nn.GroupNorm(8, channels)

    return nn.Sequential(*_block(3, 32, norm), *_block(32, 64, norm), *_head(64, num_classes, image_size))


def plain_mlp(num_classes: int, image_size: int) -> nn.Module:
    """Pixels, 128 ReLU units, logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, 128), nn.ReLU(), nn.Linear(128, num_classes))


def resnet18(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's ResNet-18 as it comes, in training mode."""
    from torchvision.models import resnet18 as build

    network: nn.Module = build(num_classes=num_classes)
    return network


def one_logit(num_classes: int, image_size: int) -> nn.Module:
    """A binary classifier with one output, for BCEWithLogitsLoss."""
    return nn.Sequential(*_block(3, 32, nn.Identity), *_block(32, 64, nn.Identity), *_head(64, 1, image_size))


def _block(channels: int, out: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride=2, padding=1), norm(out), nn.ReLU()]


def _head(channels: int, num_classes: int, image_size: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(channels * (image_size // 4) ** 2, num_classes)]


FAMILIES: dict[str, tuple[Callable[[int, int], nn.Module], str]] = {
    "own CNN, batch norm in training mode": (own_cnn, "train"),
    "dropout": (dropout, "eval"),
    "vision transformer": (vit, "eval"),
    "MobileNetV3": (mobilenet_v3, "train"),
    "frozen backbone": (frozen_backbone, "eval"),
    "two heads": (TwoHeads, "eval"),
    "tied weights": (TiedWeights, "eval"),
    "weight norm": (weight_norm, "eval"),
    "group norm": (group_norm, "eval"),
    "plain MLP": (plain_mlp, "eval"),
    "torchvision ResNet-18": (resnet18, "train"),
    "one logit": (one_logit, "eval"),
}
"""What the table calls it, the factory, and how its users train batch norm."""


def study(family: str, runs: Path) -> Row:
    """What came of one family: how much of its users leaked, or why it was refused; and what the user was told."""
    factory, batch_norm = FAMILIES[family]
    module = f"experiments.studies.model_families:{factory.__name__}"
    row: Row = {"family": family, "factory": factory.__name__, "batch_norm": batch_norm}
    name = f"model_families/{factory.__name__}"
    told: list[str] = []
    try:
        config = load(None, [*SETTINGS, f"name={name}", f"model.name={module}", f"model.batch_norm={batch_norm}"])
        preflight(prepare(config), told.append)
        outcome = pipeline.complete(config, RunFolder(runs / name), lambda *_: None, lambda _: None)
    except ConfigError as error:
        return {**row, "outcome": "refused", "said": str(error)}
    if outcome.problems:
        return {**row, "outcome": "failed", "said": "; ".join(outcome.problems)}
    about = [sentence for sentence in told if module in sentence]
    return {**row, "outcome": "runs", "said": "; ".join(about), **_figures(outcome, config.leakage.gallery_size)}


def _figures(outcome: pipeline.Outcome, gallery: int) -> Row:
    """Facial similarity with its 95 % interval, users identified among the gallery, beside the two controls."""
    arms = aggregate(outcome.table)["overall"]["inverting_gradients"]
    row: Row = {}
    for arm in ("attack", "prior_only", "own_photo"):
        row |= {f"{arm}_similarity": arms[arm]["facial_similarity"].as_json(), f"{arm}_rank1": arms[arm]["rank1"].mean}
    attacked = outcome.table.query("attack == 'inverting_gradients' and arm == 'attack'")
    row["matching_loss"] = round(float(attacked.matching_loss.median()), 4)
    row["seconds"] = round(float(attacked.seconds.mean()), 1)
    return {**row, "users": USERS, "gallery": gallery}


def table(rows: Mapping[str, Row]) -> str:
    """The stored rows as Markdown, in the order of FAMILIES."""
    lines = []
    for family in FAMILIES:
        row = rows.get(family)
        if row is None:
            continue
        if row["outcome"] != "runs":
            lines.append([family, f"`{row['factory']}`", f"{row['outcome']}: {row['said']}", "", "", ""])
            continue
        lines.append(
            [
                family,
                f"`{row['factory']}`",
                Interval(**row["attack_similarity"]).spelled(),
                f"{round(row['attack_rank1'] * row['users'])} of {row['users']}",
                f"{row['prior_only_similarity']['mean']:.2f}",
                f"{row['matching_loss']:.3f}",
            ]
        )
    heads = ["family", "factory", "similarity [95 %]", "identified", "prior only", "matching loss"]
    return markdown_table(heads, lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies.model_families", description="Twelve families."
    )
    parser.add_argument("--only", action="append", choices=list(FAMILIES), help="this family; repeatable; default: all")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/model_families.json"), help="where rows are kept"
    )
    given = parser.parse_args(arguments)
    rows: dict[str, Row] = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    with one_thread():
        for family in given.only or FAMILIES:
            print(family, file=sys.stderr, flush=True)
            rows[family] = study(family, given.runs)
            write_atomically(given.out, (json.dumps(rows, indent=1) + "\n").encode())
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
