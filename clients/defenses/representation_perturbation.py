"""Soteria: the gradient of the last linear layer is pruned where its input says most of the photo (Sun et al. 2021).

That input is the representation r (n, features) of the photos. The paper perturbs it as little as it can such that
the reconstruction moves as far as it can, which comes down to dropping the features with the smallest
||dr_f/dx|| / |r_f|, added over the photos: here, as in the authors' code, the columns f of the layer's weight gradient.

The paper takes the Jacobian dr/dx in full, a backward pass a feature (4,096 for the convnet at 64 px). Here its row
norms are estimated: E_v (J v)_f^2 = ||dr_f/dx||^2 for v ~ N(0, I), one pass a direction v.

Known weak spot: the other layers' gradients are untouched, and an attacker who leaves this one out of the comparison
loses little (Balunovic et al. 2022).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.training import Private
from fl_sim.models import normalise
from fl_sim.modules import logits_layer
from fl_sim.traits import OFF, Traits
from fl_sim.updates import Update

OFFSET = 0.1  # added to |r_f|, as in the authors' code: features near 0 have a sensitivity too


@dataclass(frozen=True)
class Settings:
    prune: float  # fraction of the features that is dropped, in [0, 1); 0: off. The paper's highest is 0.8
    probes: int = 8  # directions per estimate: 25 % of error for a photo, sqrt(1 / (2 probes)), less for their sum

    def __post_init__(self) -> None:
        if not 0 <= self.prune < 1:
            raise ValueError(f"prune is {self.prune}; the fraction of features that is dropped must be in [0, 1)")
        if self.probes < 1:
            raise ValueError(f"probes is {self.probes}; the sensitivity is estimated from at least 1 direction")


def traits(settings: Settings) -> Traits:
    """Entries of the last linear layer are gone."""
    return OFF if settings.prune == 0 else Traits(keeps_norm=True, zeroes="any")


def defend(update: Update, settings: Settings, generator: torch.Generator, private: Private | None = None) -> Update:
    """`update` with round(prune * features) columns of the last linear layer's weight gradient set to zero."""
    if settings.prune == 0:
        return update
    if private is None:
        raise ValueError("representation_perturbation needs the user's model and photos; pass private=Private(...)")
    photos = private.training.photos
    found = logits_layer(private.model, normalise(photos))
    if found is None or f"{found[0]}.weight" not in update:
        raise ValueError(
            "representation_perturbation needs a model whose logits a linear layer makes; take one of fl_sim.models"
        )
    weight = f"{found[0]}.weight"
    sensitivity = feature_sensitivity(private.model, found[1], photos, settings.probes, generator)
    dropped = sensitivity.argsort(stable=True)[: round(settings.prune * len(sensitivity))]
    pruned = update[weight].clone()  # (classes, features)
    pruned[:, dropped] = 0
    return {**update, weight: pruned}


def feature_sensitivity(
    model: nn.Module, layer: nn.Linear, photos: Tensor, probes: int, generator: torch.Generator
) -> Tensor:
    """(features,): ||dr_f/dx|| / (|r_f| + 0.1), added over `photos` (n, 3, H, W) in [0, 1], estimated with `probes`."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = normalise(photos).requires_grad_()
    try:
        model(images)
    finally:
        hook.remove()
    representation = seen[0]  # (n, features)
    # u -> J^T u is linear, so the derivative of <J^T u, v> in u is J v, whatever u is.
    anywhere = torch.zeros_like(representation, requires_grad=True)
    backward = torch.autograd.grad(representation, images, anywhere, create_graph=True)[0]
    squares = torch.zeros_like(representation)
    for _ in range(probes):
        direction = torch.randn(images.shape, generator=generator, dtype=images.dtype)
        squares += torch.autograd.grad(backward, anywhere, direction, retain_graph=True)[0].square()
    return ((squares / probes).sqrt() / (representation.detach().abs() + OFFSET)).sum(0)
