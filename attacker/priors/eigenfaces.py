"""What anybody may know of faces in general: the mean face, and how faces differ from it.

A diffusion prior knows which pictures are faces, but a small one forgets who it is shown. The principal components
of public people's photos (Turk and Pentland 1991) know less and forget nothing: they say along which directions
faces vary, and by how much. Attacks move their images along them, in place of a blur that treats all pixels alike.

How strong they vary at each spatial frequency is known beside it. A mean of a person's photos varies less.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from attacker.gaussian_blur import frequency_bands
from attacker.priors.prior import resize
from fl_sim.tensors import DamagedFile, read_tensors

COMPONENTS = 400  # of photos of 64 px these hold about 96 % of the variance
RMS_PHOTOS = 500  # at most, by which the strength of the frequencies is told
TENSORS = ("mean", "components", "deviations", "band_rms")  # in a file


@dataclass(frozen=True)
class Eigenfaces:
    """Mean and principal components of images in [-1, 1]."""

    mean: Tensor  # (3, H, W)
    components: Tensor  # (q, 3 * H * W), orthonormal
    deviations: Tensor  # (q,) standard deviation along each component, falling
    band_rms: Tensor  # (5,) root mean square of a photo less the mean, in each of `frequency_bands`

    def precondition(self, grad: Tensor, power: Tensor) -> Tensor:
        """A gradient (n, 3, H, W) of some loss, scaled along each component by a `power` (n,) of its deviation.

        At 1, the square root of their covariance, descent moves as faces do, and leaves alone what no face shows. At 2,
        their covariance, it comes first to what faces differ in most, which stands out of noise the longest.
        """
        along = grad.flatten(1) @ self.components.T * self.deviations ** power[:, None]  # (n, q)
        return (along @ self.components).view_as(grad)

    def draw(self, noise: Tensor) -> Tensor:
        """Differences (n, 3, H, W) of random faces from the mean, for standard normal `noise` (n, q)."""
        return (noise * self.deviations @ self.components).view(-1, *self.mean.shape)

    def at(self, size: int, device: torch.device) -> "Eigenfaces":
        """The same for images of another size (approximately: resized components are not orthonormal)."""
        ratio = size / self.mean.shape[-1]  # an image of twice the side has twice the norm
        mean, components, rms = self.mean.to(device), self.components.to(device), self.band_rms.to(device)
        if ratio == 1:
            return Eigenfaces(mean, components, self.deviations.to(device), rms)
        components = resize(components.view(-1, *mean.shape), size).flatten(1)
        components = components / components.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return Eigenfaces(resize(mean[None], size)[0], components, self.deviations.to(device) * ratio, rms)


def fit(photos: Tensor) -> Eigenfaces:
    """The space of `photos` (n, 3, H, W) in [0, 1]; mirror images count too. ValueError for less than two photos."""
    if len(photos) < 2:
        raise ValueError(f"{len(photos)} photos given; a face space needs two or more")
    images = photos * 2 - 1
    mean = (images.mean(0) + images.mean(0).flip(-1)) / 2
    some = frequency_bands(images[:: -(-len(images) // RMS_PHOTOS)] - mean)
    centred = torch.cat([images, images.flip(-1)]).sub_(mean).flatten(1)  # (2 n, 3 * H * W)
    del images  # as large as half of that
    directions, sizes = _principal(centred.T, min(COMPONENTS, len(photos)))
    rms = torch.stack([band.square().mean().sqrt() for band in some])
    return Eigenfaces(mean, directions.T.contiguous(), sizes / len(centred) ** 0.5, rms)


def _principal(columns: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Left singular vectors (m, rank) and values (rank,), falling, of `columns` (m, n).

    The randomised decomposition of Halko et al. 2009, algorithm 5.1, with two power iterations: `torch.svd_lowrank`,
    which draws from the global generator, so that it may not run beside anything else that does.
    """
    wide = columns.shape[0] < columns.shape[1]
    tall = columns.mH if wide else columns
    draw = torch.Generator(tall.device).manual_seed(0)
    basis = torch.linalg.qr(tall @ torch.randn(tall.shape[1], rank, generator=draw, device=tall.device)).Q
    for _ in range(2):
        basis = torch.linalg.qr(tall.mH @ basis).Q
        basis = torch.linalg.qr(tall @ basis).Q
    left, sizes, right = torch.linalg.svd(basis.mH @ tall, full_matrices=False)
    return right.mH if wide else basis @ left, sizes


def encode(space: Eigenfaces) -> bytes:
    """A safetensors file, components with 16 bits."""
    tensors = {name: getattr(space, name) for name in TENSORS} | {"components": space.components.half()}
    return save({name: value.contiguous() for name, value in tensors.items()})


def read(path: Path) -> Eigenfaces | None:
    """What `encode` wrote; None if there is no such file."""
    if not path.exists():
        return None
    tensors, _ = read_tensors(path)
    if not set(TENSORS) <= tensors.keys():
        raise DamagedFile(f"{path} is no face space; remove it and give the command again, which writes it anew")
    return Eigenfaces(**{name: tensors[name].float() for name in TENSORS})
