"""What several faces that one update leaves possible have in common, and where they differ.

What they share, the update says, or the prior draws it for anybody, or it is a flaw of the mean face, near which all
begin. Where they differ, the prior invented it.
"""

import torch
from torch import Tensor

from attacker.observation import Reconstruction

FULL = 0.2  # standard deviation from which on a spot of `heat` has its full colour; black and white differ by 1
HOT = (0.92, 0.38, 0.05)  # its colour: orange, on a grey picture
OPAQUE = 0.85  # how much of the picture the full colour covers
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


def deviation(draws: Tensor) -> Tensor:
    """(H, W), in [0, 0.5]: the standard deviation of each pixel over `draws` (n, 3, H, W) in [0, 1], mean of channels.

    0 where all draws agree, or for one draw.
    """
    return draws.double().std(0, correction=0).mean(0)


def spread(draws: Tensor) -> float:
    """The mean of `deviation` over the picture, in [0, 0.5]; 0 if all draws are the same picture."""
    return float(deviation(draws).mean())


def heat(draws: Tensor) -> Tensor:
    """A picture (3, H, W) in [0, 1]: the mean of `draws` in grey, the more orange the more they differ there."""
    grey = draws.mean((0, 1)).clamp(0, 1)  # (H, W)
    opacity = OPAQUE * (deviation(draws) / FULL).clamp(max=1).to(grey.dtype)
    colour = torch.tensor(HOT, dtype=grey.dtype)[:, None, None]
    return (1 - opacity) * grey + opacity * colour


def most_and_least(draws: Tensor) -> tuple[str, str]:
    """The ninths of the picture in which `draws` differ most and least, in words such as `upper left`."""
    ninths = torch.nn.functional.adaptive_avg_pool2d(deviation(draws)[None], 3).flatten()
    names = [f"{row} {column}".replace("middle centre", "centre") for row in ROWS for column in COLUMNS]
    return names[int(ninths.argmax())], names[int(ninths.argmin())]


def others(reconstruction: Reconstruction) -> Tensor:
    """(n, 3, H, W): the draws but the one that is the answer; all of them where it is none of them."""
    draws = reconstruction.images[:0] if reconstruction.draws is None else reconstruction.draws
    answer = next((i for i, draw in enumerate(draws) if torch.equal(draw, reconstruction.images[0])), None)
    return draws if answer is None else torch.cat([draws[:answer], draws[answer + 1 :]])
