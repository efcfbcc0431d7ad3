"""A Gaussian blur of images, differentiable and of any width, and the frequency bands that blurs part."""

import torch
from torch import Tensor
from torch.nn import functional as F

BLURS = (0.7, 1.4, 2.8, 5.6)  # pixels of 64, of the Gaussians that part the frequency bands


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Images (n, 3, H, W) blurred by a Gaussian of `sigma` pixels; unchanged below a quarter of a pixel."""
    if sigma < 0.25:
        return images
    radius = int(3 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = F.pad(images, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def frequency_bands(images: Tensor) -> list[Tensor]:
    """Images (n, 3, H, W) parted by spatial frequency, the finest first: five of them, which sum to the images."""
    parts, rest = [], images
    for blur in BLURS:
        low = gaussian_blur(rest, blur * images.shape[-1] / 64)
        parts.append(rest - low)
        rest = low
    return [*parts, rest]
