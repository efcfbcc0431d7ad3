"""What the pictures of an inversion were on its way: copies of them at a few of its steps."""

import torch
from torch import Tensor


class Trail:
    """Keeps the images at `count` of `steps` steps: the first before any step, the last after all of them.

    The others lie evenly between. Of fewer steps all are kept; of a single frame the last.
    """

    def __init__(self, count: int, steps: int) -> None:
        apart = min(count - 1, steps)
        self._wanted = {steps - i * steps // max(apart, 1) for i in range(apart + 1)}
        self._kept: list[Tensor] = []

    def __call__(self, done: int, images: Tensor) -> None:
        """Look at `images` (n, 3, H, W) after `done` steps; steps come in order."""
        if done in self._wanted:
            self._kept.append(images.detach().clone())

    def frames(self, like: Tensor) -> Tensor:
        """(n, frames, 3, H, W): the images that were kept, of as many as `like` (n, 3, H, W) has."""
        return torch.stack(self._kept, 1) if self._kept else like[:, None][:, :0]
