"""What anybody may know of faces in general: the mean face, and how faces differ from it.

A diffusion prior knows which pictures are faces, but a small one forgets who it is shown. The principal components
of public people's photos (Turk and Pentland 1991) know less and forget nothing: they say along which directions
faces vary, and by how much. Attacks move their images along them, in place of a blur that treats all pixels alike.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from attacker.prior import resize
from fl_sim.tensors import DamagedFile, read_tensors

COMPONENTS = 400  # of photos of 64 px these hold about 96 % of the variance


@dataclass(frozen=True)
class FaceSpace:
    """Mean and principal components of images in [-1, 1]."""

    mean: Tensor  # (3, H, W)
    components: Tensor  # (q, 3 * H * W), orthonormal
    deviations: Tensor  # (q,) standard deviation along each component, falling

    def condition(self, slope: Tensor, power: Tensor) -> Tensor:
        """A gradient (n, 3, H, W) of some loss, scaled along each component by a `power` (n,) of its deviation.

        At 1, the square root of their covariance, descent moves as faces do, and leaves alone what no face shows. At 2,
        their covariance, it comes first to what faces differ in most, which stands out of noise the longest.
        """
        along = slope.flatten(1) @ self.components.T * self.deviations ** power[:, None]  # (n, q)
        return (along @ self.components).view_as(slope)

    def draw(self, noise: Tensor) -> Tensor:
        """Differences (n, 3, H, W) of random faces from the mean, for standard normal `noise` (n, q)."""
        return (noise * self.deviations @ self.components).view(-1, *self.mean.shape)

    def at(self, size: int, device: torch.device) -> "FaceSpace":
        """The same for images of another size (approximately: resized components are no longer orthonormal)."""
        if self.mean.shape[-1] == size:
            return FaceSpace(self.mean.to(device), self.components.to(device), self.deviations.to(device))
        was = self.mean.shape[-1]
        components = resize(self.components.view(-1, *self.mean.shape), size).flatten(1)
        components = components / components.norm(dim=1, keepdim=True).clamp_min(1e-12)
        scaled = self.deviations * (size / was)  # an image of twice the side has twice the norm
        return FaceSpace(resize(self.mean[None], size)[0].to(device), components.to(device), scaled.to(device))


def fit(photos: Tensor) -> FaceSpace:
    """The space of `photos` (n, 3, H, W) in [0, 1]; mirror images count too. ValueError for less than two photos."""
    if len(photos) < 2:
        raise ValueError(f"{len(photos)} photos given; a face space needs two or more")
    images = photos * 2 - 1
    mean = (images.mean(0) + images.mean(0).flip(-1)) / 2
    centred = (torch.cat([images, images.flip(-1)]) - mean).flatten(1)  # (2 n, 3 * H * W)
    rank = min(COMPONENTS, len(photos))
    with torch.random.fork_rng(devices=[]):  # the randomised decomposition draws from the global generator
        torch.manual_seed(0)
        directions, sizes, _ = torch.svd_lowrank(centred.T, q=rank, niter=2)
    return FaceSpace(mean, directions.T.contiguous(), sizes / len(centred) ** 0.5)


def encode(space: FaceSpace) -> bytes:
    """A safetensors file, components with 16 bits."""
    return save(
        {"mean": space.mean, "components": space.components.half().contiguous(), "deviations": space.deviations}
    )


def read(path: Path) -> FaceSpace | None:
    """What `encode` wrote; None if there is no such file."""
    if not path.exists():
        return None
    found, _ = read_tensors(path)
    if not {"mean", "components", "deviations"} <= found.keys():
        raise DamagedFile(f"{path} is no face space; remove it and give the command again, which writes it anew")
    return FaceSpace(found["mean"], found["components"].float(), found["deviations"])
