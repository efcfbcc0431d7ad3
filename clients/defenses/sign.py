"""Signs instead of values (signSGD, Bernstein et al. 2018), scaled as by Karimireddy et al. 2019.

Each tensor is sent as the signs of its entries, one bit each, and their mean magnitude, one number; without the
latter a federation would need another learning rate. Entries that are 0 stay 0.
"""

from dataclasses import dataclass

import torch

from fl_sim.traits import Traits
from fl_sim.updates import Update


@dataclass(frozen=True)
class Settings:
    """Nothing to set; leave the defense out to have it off."""


def traits(settings: Settings) -> Traits:
    """Signs, of which each tensor has another length than its gradient."""
    return Traits(scales=True, signs=True)


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """sign(g) times the mean of |g|, tensor by tensor."""
    return {name: value.sign() * value.abs().double().mean().to(value.dtype) for name, value in update.items()}
