"""Pixel likeness of a picture to a user's photos: PSNR, SSIM, LPIPS, each against the photo it is closest to.

A representative image is no copy of any one photo, so a mean over the photos would say nothing: the best
photo counts (the largest PSNR and SSIM, the smallest LPIPS). These columns tell whether one *picture*
leaked; whether the person did, `facial_similarity` and `rank` tell.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_sim.config import ConfigError, Leakage, short

ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's file name of the backbone that LPIPS uses


def best_psnr(picture: Tensor, photos: Tensor) -> float:
    """max over photos of 10 log10(1 / mean squared error), dB, in [0, inf]; higher is closer.

    `picture` (3, H, W) and `photos` (n, 3, H, W) in [0, 1].
    """
    error = (photos - picture).square().flatten(1).double().mean(1).min()
    return math.inf if error == 0 else float(10 * torch.log10(1 / error))


def ssim_to(photos: Tensor) -> Callable[[Tensor], float]:
    """max over photos of the structural similarity of a picture to them, in [-1, 1], 1 for the same picture.

    Wang et al. 2004: 11 px Gaussian window of sigma 1.5, edges reflected. The windows of the photos are taken once.
    Pictures (3, H, W) and `photos` (n, 3, H, W) in [0, 1].
    """
    photos = F.pad(photos, (5,) * 4, "reflect")
    means = _blurred(photos)
    squares = means.square()
    variances = (_blurred(photos.square()) - squares).clamp_min_(0)
    c1, c2 = 0.01**2, 0.03**2

    def best(picture: Tensor) -> float:
        padded = F.pad(picture, (5,) * 4, "reflect")
        mean = _blurred(padded[None])
        variance = (_blurred(padded[None].square()) - mean.square()).clamp_min(0)
        covariance = _blurred(padded * photos).sub_(mean * means)
        likeness = (2 * mean * means).add_(c1).mul_(covariance.mul_(2).add_(c2))
        each = likeness.div_((mean.square() + squares).add_(c1).mul_((variance + variances).add_(c2)))
        return float(each.flatten(1).mean(1).max())

    return best


def likeness(photos: Tensor, lpips: Path | None) -> Callable[[Tensor], dict[str, float]]:
    """All of these columns, of pictures (3, H, W) to the same photos (n, 3, H, W); LPIPS with its weights alone."""
    ssim = ssim_to(photos)

    def measure(picture: Tensor) -> dict[str, float]:
        row = {"psnr": best_psnr(picture, photos), "ssim": ssim(picture)}
        return row if lpips is None else {**row, "lpips": best_lpips(picture, photos, lpips)}

    return measure


def _blurred(images: Tensor) -> Tensor:
    """(n, 3, H - 10, W - 10): rows, then columns, which takes a fifth of the products of the whole window."""
    window = torch.exp(-torch.arange(-5.0, 6.0).square() / (2 * 1.5**2))
    window = (window / window.sum()).view(1, 1, 11, 1)
    planes = F.conv2d(F.conv2d(images.flatten(0, 1)[:, None], window), window.transpose(2, 3))
    return planes.view(*images.shape[:2], *planes.shape[2:])


def best_lpips(picture: Tensor, photos: Tensor, weights: Path) -> float:
    """min over photos of LPIPS with AlexNet (Zhang et al. 2018), in [0, inf), 0 for the same picture.

    `picture` (3, H, W) and `photos` (n, 3, H, W) in [0, 1]; `weights` is the AlexNet file.
    """
    net = _lpips(weights)
    with torch.no_grad():
        distances: Tensor = net(picture.expand_as(photos), photos, normalize=True)  # normalize: from [0, 1]
    return float(distances.min())


def lpips_weights(leakage: Leakage) -> Path | None:
    """The AlexNet file in `leakage.lpips_weights`, or where torchvision keeps it; None if it is in neither place."""
    return next((file for file in lpips_places(leakage) if file.is_file()), None)


def lpips_places(leakage: Leakage) -> list[Path]:
    """Where the AlexNet file is looked for."""
    folder = leakage.lpips_weights or Path(torch.hub.get_dir())
    return [folder / part / ALEXNET for part in ("", "checkpoints")]


def lpips_available(leakage: Leakage) -> str | None:
    """A sentence where LPIPS was asked for and cannot be computed, and what to do; else None."""
    place = leakage.lpips_weights
    if place is None or lpips_weights(leakage) is not None:
        return None
    return f"LPIPS stays empty: leakage.lpips_weights = {place} has no {ALEXNET}; put torchvision's file there."


def try_lpips(leakage: Leakage, photo: Tensor) -> None:
    """Nothing where its weights are absent; else LPIPS once, on a `photo` (3, H, W) in [0, 1] and its negative.

    Raises ConfigError for a file that is there and holds no AlexNet.
    """
    weights = lpips_weights(leakage)
    if weights is None:
        return
    try:
        same, other = (best_lpips(picture, photo[None], weights) for picture in (photo, 1 - photo))
    except Exception as error:  # torch.load raises many kinds, all with the same remedy
        raise ConfigError(f"LPIPS fails with {weights} ({short(error)}); put torchvision's {ALEXNET} there") from error
    if not 0 <= same < 1e-4 < other < math.inf:
        raise ConfigError(
            f"LPIPS with {weights} is {same:.3g} for a photo and itself and {other:.3g} for its negative; put "
            f"torchvision's {ALEXNET} there"
        )


@lru_cache(maxsize=1)
def _lpips(weights: Path) -> torch.nn.Module:
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    net = _NoTrainLpips(
        net="alex", pnet_rand=True
    )  # pnet_rand: do not download; the linear heads ship with torchmetrics
    state = torch.load(weights, map_location="cpu", weights_only=True)
    backbone = {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}
    for name, layer in net.net.named_modules():
        index = name.rpartition(".")[2]  # slices keep torchvision's layer numbers
        if f"{index}.weight" in backbone:
            layer.load_state_dict({kind: backbone[f"{index}.{kind}"] for kind in ("weight", "bias")})
    return net.eval()
