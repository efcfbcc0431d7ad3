"""The plot of `experiments.studies.finishes`: identity against realism, a point a finish."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.studies.plot import COLOURS, GRID, INK, SOFT, content

KINDS = {
    "landmark": ("of the user's photos", SOFT, "*", False, (0, 9)),
    "mean": ("the mean face that the update determines", COLOURS[1], "s", False, (0, 9)),
    "replaced": ("its low frequencies, the rest refined (by blur)", COLOURS[3], "D", True, (-11, -15)),
    "drawn": ("photos drawn given it, as the attack has them", COLOURS[0], "o", False, (0, 9)),
    "redrawn": (
        "drawn anew, with another contrast, strength or number of steps",
        COLOURS[2],
        "^",
        False,
        (-9, -14),
    ),
}
"""Of a finish's `kind`: what the legend says, colour, marker, whether a line joins its points, where labels are."""
# Beside the answer, whose label would be under theirs.
NEAR = ("any one draw", "the draw nearest", " steps", "contrast 1", "strength of ")


def draw(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG: facial similarity, with its interval, against the patch distance at half size; best is top right."""
    figure = Figure(figsize=(8.4, 5.2))
    axes = figure.add_subplot()
    known = [one for one in rows if one["patch_swd_half"] is not None and one["facial_similarity"]["mean"] is not None]
    for kind, (name, colour, marker, joined, beside) in KINDS.items():
        own = [one for one in known if one["kind"] == kind]
        across = [one["patch_swd_half"] for one in own]
        upward = [one["facial_similarity"]["mean"] for one in own]
        for one, x in zip(own, across, strict=True):
            ends = [one["facial_similarity"]["low"], one["facial_similarity"]["high"]]
            axes.plot([x, x], ends, color=colour, lw=1, alpha=0.35, solid_capstyle="round")
        size = 11 if marker == "*" else 6
        axes.plot(across, upward, marker, ms=size, color=colour, ls="-" if joined else "none", lw=1, label=name)
        for one, x, y in zip(own, across, upward, strict=True):
            words = _short(one["finish"])
            axes.annotate(words, (x, y), beside, textcoords="offset points", fontsize=7.5, color=INK, ha="center")
    axes.invert_xaxis()
    axes.margins(x=0.12, y=0.08)
    axes.set_xlabel("patch distance to photos at half size (to the right: more real)", fontsize=9, color=SOFT)
    axes.set_ylabel("facial similarity to the user's photos", fontsize=9, color=SOFT)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return content(figure)


def _short(name: str) -> str:
    """What tells a point from the others of its kind."""
    short = name.rpartition(", ")[2].rpartition(": ")[2]
    return "" if any(word in short for word in NEAR) else short
