"""The figures of the paper, drawn from runs: photos, reconstructions, and what they score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from torch import Tensor

from experiments.studies.plot import content

INK, SOFT = "#1d1f21", "#565a5f"
GAP = 2  # pixels between the tiles of a mosaic
MARGIN = 0.08  # inches around a figure


@dataclass(frozen=True)
class Panel:
    """Some pictures under one heading."""

    title: str
    caption: str  # one or two short lines below
    images: Tensor | None  # (n, 3, H, W) in [0, 1]; None: not shown


def portrait(batch: Panel, beside: Sequence[Panel]) -> bytes:
    """A whole batch on the left, single pictures beside it (Figures 1 and 4). A WebP."""
    figure = Figure(figsize=(3.6 + 1.75 * len(beside) + 0.25, 4.1))
    parts = figure.subfigures(1, 1 + len(beside), width_ratios=[3.6, *[1.75] * len(beside)], wspace=0.02)
    for part, panel in zip(np.asarray(parts).ravel(), [batch, *beside], strict=True):
        _tile(part, panel)
    return webp(figure)


def strip(panels: Sequence[Panel]) -> bytes:
    """Single pictures in rows of five (Figure 2). A WebP."""
    return _grid(panels, columns=5, width=1.9, height=2.45)


def batches(panels: Sequence[Panel]) -> bytes:
    """Whole batches in rows of three (Figure 3). A WebP."""
    return _grid(panels, columns=3, width=3.1, height=3.35)


def schedule(centre: Sequence[float], window: float, steps: int) -> bytes:
    """The window of time steps over the optimisation, both as fractions of the schedule (Figure 5). A PNG."""
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.add_subplot()
    at, middle = np.arange(steps), np.asarray(centre)
    low, high = (middle - window / 2).clip(0, 1), (middle + window / 2).clip(0, 1)
    axes.fill_between(at, low, high, color="#1b5fae", alpha=0.22, lw=0, label="window that t is drawn from")
    axes.plot(at, middle, color="#1b5fae", lw=1.6, label="its centre")
    axes.set_xlabel("optimisation step", fontsize=9, color=SOFT)
    axes.set_ylabel("t / T  (1: pure noise)", fontsize=9, color=SOFT)
    axes.set_ylim(0, 1)
    axes.set_xlim(0, steps - 1)
    axes.grid(axis="y", color="#e6e6e0", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK)
    axes.legend(frameon=False, fontsize=8.5)
    return png(figure)


def mosaic(images: Tensor) -> NDArray[np.float32]:
    """Images (n, 3, H, W) in [0, 1] side by side in nearly a square, white between: (height, width, 3)."""
    count, _, height, width = images.shape
    near = round(math.sqrt(count * 1.2))
    whole = [per_row for per_row in range(math.isqrt(count), near + 2) if count % per_row == 0]
    columns = max(whole, default=near)  # without a row that is not full, where that can be
    rows = -(-count // columns)
    canvas = torch.ones(3, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    for index, image in enumerate(images.float().nan_to_num(0.5).clamp(0, 1)):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).numpy()


def _grid(panels: Sequence[Panel], columns: int, width: float, height: float) -> bytes:
    rows = -(-len(panels) // columns)
    columns = min(columns, len(panels))
    figure = Figure(figsize=(width * columns, height * rows))
    for part, panel in zip(np.asarray(figure.subfigures(rows, columns)).ravel(), panels, strict=False):
        _tile(part, panel)
    return webp(figure)


def _tile(part: SubFigure, panel: Panel) -> None:
    axes: Axes = part.add_axes((0.03, 0.13, 0.94, 0.76))
    axes.set_axis_off()
    axes.set_anchor("NW")
    axes.set_title(panel.title, fontsize=9, loc="left", color=INK, pad=4)
    if panel.images is None:
        axes.imshow(np.full((60, 60, 3), 0.95))
        axes.text(29.5, 29.5, "real people's photos:\nnot shown", ha="center", va="center", fontsize=8, color=SOFT)
    else:
        axes.imshow(mosaic(panel.images), interpolation="lanczos" if len(panel.images) == 1 else "antialiased")
    axes.text(0, -0.03, panel.caption, transform=axes.transAxes, fontsize=8, color=SOFT, va="top", linespacing=1.35)


def png(figure: Figure) -> bytes:
    """A plot as a file's content, without a margin."""
    return content(figure, dpi=130, pad_inches=MARGIN)


def webp(figure: Figure) -> bytes:
    """The same of pictures of faces: lossy, and a small part of the bytes of a PNG."""
    return content(figure, "webp", dpi=130, pad_inches=MARGIN, pil_kwargs={"quality": 85})
