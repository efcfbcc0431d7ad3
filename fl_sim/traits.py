"""What a defense of updates declares of itself, so that others need not know it by name.

Accounting reads off it what is guaranteed, an attacker who knows the defense how to match what came through. Whoever
writes a defense declares its traits (docs/defenses.md); `clients.testing.check_defense` holds the defense against them.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fl_sim.config import Config


@dataclass(frozen=True)
class Traits:
    """What one defense does to an update: all but its noise first, then its noise. The default tells nothing."""

    max_norm: float | None = None  # L2 norm that an update has at most before the noise, above 0; None: as it came
    per_layer: bool = False  # whether `max_norm` bounds each tensor, which is scaled by itself
    keeps_norm: bool = False  # whether no update gets longer, but by the noise
    scales: bool = False  # whether norms may not be those of the gradient: of the whole, or of each tensor
    zeroes: Literal["none", "any", "smallest"] = "none"  # which entries may be set to zero
    signs: bool = False  # whether all entries of a tensor have one magnitude, or are zero
    levels: bool = False  # whether each tensor is rounded, without bias, to evenly spaced levels
    noise: Literal["none", "gaussian", "laplace"] = "none"  # added to each entry, independently
    noise_size: float | None = None  # gaussian: standard deviation; laplace: scale. None: it follows the update
    epochs: int = 0  # passes of a user over its photos; 0: as the federation says
    batch_size: int = 0  # photos a step of them; 0: all
    hides_nothing: bool = False  # whether it is off, or all there is to know of it is told to the server anyway

    def __post_init__(self) -> None:
        if self.max_norm is not None and not 0 < self.max_norm < math.inf:
            raise ValueError(f"max_norm is {self.max_norm}; a bound must be above 0 and finite, or None")
        if self.noise_size is not None and not 0 < self.noise_size < math.inf:
            raise ValueError(f"noise_size is {self.noise_size}; the size of noise must be above 0 and finite, or None")

    @property
    def noise_variance(self) -> float | None:
        """Of the noise on each entry; None where its size is not known."""
        if self.noise == "none" or self.noise_size is None:
            return None
        return self.noise_size**2 if self.noise == "gaussian" else 2 * self.noise_size**2

    @property
    def tells(self) -> bool:
        """Whether there is anything in it that an attacker can go by."""
        attacked = (self.scales, self.zeroes != "none", self.signs, self.levels, self.noise != "none", self.epochs > 0)
        return any(attacked)

    @property
    def distorts(self) -> bool:
        """Whether no picture can explain an update that went through it: more is done to it than a change of length."""
        return bool(self.signs or self.levels or self.epochs or self.zeroes != "none" or self.noise != "none")

    def mechanism(self) -> "Traits":
        """What is left to who knows which defense it is, and not its settings."""
        return replace(self, max_norm=None, per_layer=False, noise_size=None, epochs=0, batch_size=0)


OFF = Traits(keeps_norm=True, hides_nothing=True)
"""Of a defense whose settings let every update pass unchanged."""


def asked(config: Config) -> tuple[Traits, ...]:
    """What the server itself asks users to do to their updates, after all defenses of their own: any attacker knows it.

    The bound is on changes of the weights; adaptive, it is another in each round.
    """
    section = config.protocol
    if not section.differential_privacy.startswith("client_"):
        return ()
    fixed = section.differential_privacy == "client_fixed"
    bound = section.clipping_norm / config.federation.learning_rate if fixed else None
    return (Traits(max_norm=bound, keeps_norm=True, scales=True),)


def dump(traits: Traits | None) -> dict[str, Any] | None:
    """As JSON; None is a defense that declares nothing."""
    return None if traits is None else dataclasses.asdict(traits)


def parse(table: Mapping[str, Any] | None) -> Traits:
    """What `dump` made; of a defense that declares nothing, the traits that tell nothing."""
    return Traits() if table is None else Traits(**table)
