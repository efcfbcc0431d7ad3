"""How real a picture looks, whomever it shows: a detector's probability of a face, its sharpness, its texture.

A face recogniser forgives blur, so a leakage table without these can be won by a smear. All three are measured against
photos of public people: nobody in them is a user.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attacker.gaussian_blur import gaussian_blur
from fl_sim import seeds

BANDS = (0.7, 1.4, 2.8)  # pixels, standard deviations of the blurs that sharpness is taken against
SHARPNESS = ("sharpness_fine", "sharpness_middle", "sharpness_coarse")  # columns of the leakage table, a band each
SCALES = (1, 2, 4)  # by which images are reduced before their patches are compared
SWD = ("patch_swd_full", "patch_swd_half", "patch_swd_quarter")  # columns, a scale each
PATCH, DIRECTIONS, RESIDUAL = 7, 128, 1.4  # pixels; projections; pixels of blur that a residual is left of
MOST_PATCHES = 4096  # of a group of images at one scale
LEVELS = 1024  # quantiles that stand for a distribution
UNFOLDED = 16  # images at once: each takes 2 MB at 64 px
DETECTOR_SIDE = 256  # pixels: MTCNN looks for faces of 20 and more
TEXTURED = ("attack", "determined", "prior_only", "own_photo", "own_mean")  # arms whose patches are compared
FACES = 0.9  # mean probability that a detector must give to photos, to say anything of pictures


def face_probability(images: Tensor) -> Tensor:
    """Of each of `images` (n, 3, H, W) in [0, 1], how sure MTCNN (Zhang et al. 2016) is of its surest face.

    (n,) in [0, 1], 0 where it finds none; higher is more real. By facenet-pytorch, on the image enlarged to 256 px.
    """
    large = F.interpolate(images, size=(DETECTOR_SIDE, DETECTOR_SIDE), mode="bilinear", antialias=True)
    pixels = (large.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    # One at a time: of a batch in which a stage finds nothing the detector returns nothing.
    probabilities = [_detector().detect(image)[1] for image in pixels]
    return torch.tensor([max((float(p) for p in faces if p is not None), default=0.0) for faces in probabilities])


def band_contrast(images: Tensor, sigma: float) -> Tensor:
    """RMS (n,), in [0, 1], of `images` (n, 3, H, W) in [0, 1] less their Gaussian blur of `sigma` pixels."""
    return (images - gaussian_blur(images, sigma)).square().mean((1, 2, 3)).sqrt()


@dataclass(frozen=True)
class Reference:
    """What photos of public people are like."""

    contrast: Tensor  # (BANDS,) mean of `band_contrast`
    quantiles: tuple[Tensor, ...]  # one a scale: (LEVELS, DIRECTIONS) of projected patches
    detected: float  # mean of `face_probability`

    def sharpness(self, images: Tensor) -> Tensor:
        """(n, BANDS): the contrast of each of `images` (n, 3, H, W) as a part of a photo's; 0 is flat, 1 as sharp."""
        return torch.stack([band_contrast(images, sigma) for sigma in BANDS], dim=1) / self.contrast

    def patch_swd(self, patches: Sequence[Tensor]) -> list[float]:
        """1,000 times the sliced Wasserstein distance of projected `patches` to a photo's, a scale each.

        0 or more, lower is more real; `patches` as `projected_patches` gives them, of all images of a group together.
        """
        pairs = zip(patches, self.quantiles, strict=True)
        return [1000 * float((quantiles(own) - photos).abs().mean()) for own, photos in pairs]


def reference(photos: Tensor) -> Reference:
    """`photos` (n, 3, H, W) in [0, 1] as what pictures are compared to."""
    contrast = torch.stack([band_contrast(photos, sigma).mean() for sigma in BANDS])
    patches = tuple(quantiles(projected) for projected in projected_patches(photos, len(photos)))
    return Reference(contrast, patches, float(face_probability(photos[:64]).mean()))


def projected_patches(images: Tensor, of: int) -> tuple[Tensor, ...]:
    """Patches of the residual of `images` (n, 3, H, W), those of a group of `of` images, along fixed directions.

    One (n * k, DIRECTIONS) a scale. A residual is what a Gaussian blur takes away; its patches of 7 x 7 pixels, in a
    random order that is the same for all images, are what Karras et al. 2018 compare on a Laplacian pyramid.
    """
    projected = []
    for scale in SCALES:
        small = F.avg_pool2d(images, scale) if scale > 1 else images
        if min(small.shape[-2:]) < PATCH:
            projected.append(torch.zeros(0, DIRECTIONS))
            continue
        places = (small.shape[-2] - PATCH + 1) * (small.shape[-1] - PATCH + 1)
        order = torch.randperm(places, generator=seeds.generator(0, "patches", scale))[: max(MOST_PATCHES // of, 1)]
        chosen = torch.cat([_patches(part, order) for part in torch.split(small, UNFOLDED)])
        projected.append(chosen @ _directions(chosen.shape[1]))
    return tuple(projected)


def _patches(images: Tensor, places: Tensor) -> Tensor:
    """(n * places, 3 * 49): the patches of the residual of `images` (n, 3, H, W) at `places`, counted row by row."""
    patches = F.unfold(images - gaussian_blur(images, RESIDUAL), PATCH)  # (n, 3 * 49, all places)
    return patches[:, :, places].transpose(1, 2).flatten(0, 1)


def quantiles(values: Tensor) -> Tensor:
    """(LEVELS, d): quantiles of each column of `values` (m, d), whose mean distance is Wasserstein's; NaN if empty."""
    if not len(values):
        return torch.full((LEVELS, values.shape[1]), torch.nan)
    levels = (torch.arange(LEVELS, dtype=torch.float32) + 0.5) / LEVELS
    return torch.quantile(values.float(), levels, dim=0)


@lru_cache(maxsize=4)
def _directions(size: int) -> Tensor:
    """(size, DIRECTIONS) of norm 1, the same in each process."""
    drawn = torch.randn(size, DIRECTIONS, generator=seeds.generator(0, "directions", size))
    return F.normalize(drawn, dim=0)


@lru_cache(maxsize=1)
def _detector() -> Any:
    from facenet_pytorch import MTCNN

    # Channels last: its many small convolutions and poolings take 0.64 of the time (one thread, 64 px enlarged).
    return MTCNN(select_largest=False).to(memory_format=torch.channels_last)
