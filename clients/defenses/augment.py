"""Augmentation: each photo is trained on mirrored, turned, shifted and relit at random, drawn anew every round.

As a defense against reconstruction, with policies searched for it: Gao et al. 2021 (ATS).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from clients.training import Training
from fl_sim.traits import OFF, Traits


@dataclass(frozen=True)
class Settings:
    flip: float = 0.5  # probability of being mirrored
    rotate: float = 15.0  # degrees, at most, either way
    shift: float = 0.1  # of the photo's width and height, at most, either way; what moves in repeats the border
    brightness: float = 0.2  # change of all pixels, at most, either way

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is {self.flip}; the probability of being mirrored must be in [0, 1]")
        limits = {"rotate": 180.0, "shift": 1.0, "brightness": 1.0}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, {limit}]")


def traits(settings: Settings) -> Traits:
    """Nothing that an attack here goes by."""
    off = not (settings.flip or settings.rotate or settings.shift or settings.brightness)
    return OFF if off else Traits()


def prepare(training: Training, settings: Settings, generator: torch.Generator) -> Training:
    """The same labels, each photo changed by draws of its own; all settings 0: off."""
    photos = training.photos
    count = len(photos)

    def drawn(limit: float) -> Tensor:  # (n,) uniform in [-limit, limit]
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    mirrored = torch.rand(count, generator=generator) < settings.flip
    angle, across, down, light = (
        drawn(limit) for limit in (settings.rotate, settings.shift, settings.shift, settings.brightness)
    )
    if settings.flip:
        photos = torch.where(mirrored[:, None, None, None], photos.flip(-1), photos)
    if settings.rotate or settings.shift:
        photos = _moved(photos, angle.deg2rad(), across, down)
    if settings.brightness:
        photos = (photos + light[:, None, None, None].to(photos.dtype)).clamp(0, 1)
    return replace(training, photos=photos)


def _moved(photos: Tensor, angle: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """`photos` (n, 3, H, W) turned by `angle` (n,) in radians and shifted by fractions of their sides (n,)."""
    cos, sin = angle.cos(), angle.sin()
    # The grid's coordinates run from -1 to 1, so a whole side is 2.
    rows = torch.stack([torch.stack([cos, -sin, 2 * across], 1), torch.stack([sin, cos, 2 * down], 1)], 1)  # (n, 2, 3)
    grid = functional.affine_grid(rows.to(photos.dtype), list(photos.shape), align_corners=False)
    moved = functional.grid_sample(photos, grid, padding_mode="border", align_corners=False)
    return moved.clamp(0, 1)  # interpolation rounds
