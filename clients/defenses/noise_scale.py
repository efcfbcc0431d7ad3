"""What the scale of a noise is a multiple of: 1, the bound of the clip before it, or the size of the update."""

from collections.abc import Sequence
from math import isfinite
from typing import Any, Literal

from clients.defenses import clip
from fl_sim.config import ConfigError
from fl_sim.updates import Update, flatten

Relative = Literal["absolute", "clip_norm", "percentile95"]


def clip_norm(defense: str, before: Sequence[Any]) -> float:
    """`max_norm` of the last clip among the settings of the defenses before `defense`; ConfigError without any.

    With `per_layer` that bounds each tensor; the whole update is then bounded by sqrt(tensors) times it.
    """
    bounds = [settings.max_norm for settings in before if isinstance(settings, clip.Settings)]
    if not bounds or not isfinite(bounds[-1]):
        raise ConfigError(
            f"defense {defense!r} is relative to the clip norm, but no clip with a finite max_norm comes before it; "
            'put one before it, or set relative = "absolute"'
        )
    bound: float = bounds[-1]
    return bound


def percentile95(update: Update) -> float:
    """The 95th percentile of the absolute entries of the whole update: the least that 95 % do not exceed."""
    sizes = flatten(update).abs().float()
    return float(sizes.kthvalue(-(-95 * len(sizes) // 100)).values)
