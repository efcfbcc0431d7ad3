"""A figure over users with its 95 % interval: what tables, charts and verdicts are made of."""

import json
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval, in the unit of the figure; NaN where it cannot be computed."""

    mean: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        return math.isfinite(self.mean)

    def spelled(self) -> str:
        """As `0.52 [0.44, 0.61]`."""
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def as_json(self) -> dict[str, float | None]:
        ends = {"mean": self.mean, "low": self.low, "high": self.high}
        return {name: end if math.isfinite(end) else None for name, end in ends.items()}


@dataclass(frozen=True)
class Comparison:
    """By how much B exceeds A over the same users, and how surprising that were if neither leaked less."""

    difference: Interval  # mean over users of b - a
    p: float | None  # one-sided: of "A leaks less than B"; None without users

    def as_json(self) -> dict[str, Any]:
        return {"difference": self.difference.as_json(), "p": self.p}


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def dumps(value: Any) -> str:
    """JSON of something that holds intervals; null for what cannot be computed."""
    return json.dumps(value, default=lambda measured: measured.as_json())
