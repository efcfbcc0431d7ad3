"""What anybody may know of faces in general: the mean face, and how faces differ from it.

A diffusion prior knows which pictures are faces, but a small one forgets who it is shown. The principal components
of public people's photos (Turk and Pentland 1991) know less and forget nothing: they say along which directions
faces vary, and by how much. Attacks move their images along them, in place of a blur that treats all pixels alike.

Photos of one person vary too, by pose, light and expression. Where it is known whose the photos are, Fisher's linear
discriminants (Belhumeur et al. 1997) part the two: what differs from person to person, and what from photo to photo.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from attacker.priors.prior import resize
from fl_sim.tensors import DamagedFile, read_tensors

COMPONENTS = 400  # of photos of 64 px these hold about 96 % of the variance
WITHIN_FLOOR = 1e-3  # part of the mean variance within a person that every component has at least
LEAST_BETWEEN = 0.25  # variance between people, of that within a person, below which a direction tells nobody apart
DISCRIMINANTS = ("analysis", "synthesis", "between")  # tensors in a file


@dataclass(frozen=True)
class Discriminants:
    """Directions that tell people apart, in the components' coordinates, the best first."""

    analysis: Tensor  # (k, q) to coordinates in which photos of one person have variance 1 along each
    synthesis: Tensor  # (q, k) back
    between: Tensor  # (k,) variance from person to person along each, falling

    @property
    def reliability(self) -> Tensor:
        """(k,) in [0, 1]: what part of the variance of a photo is due to whom it shows."""
        return self.between / (1 + self.between)


@dataclass(frozen=True)
class Eigenfaces:
    """Mean and principal components of images in [-1, 1]."""

    mean: Tensor  # (3, H, W)
    components: Tensor  # (q, 3 * H * W), orthonormal
    deviations: Tensor  # (q,) standard deviation along each component, falling
    discriminants: Discriminants | None = None  # None: it is not known whose the photos are

    def identity(self, images: Tensor) -> Tensor:
        """Coordinates (n, k) along the discriminants of images (n, 3, H, W), or of differences of images."""
        if self.discriminants is None:
            raise ValueError("this face space does not know what tells people apart")
        return images.flatten(1) @ self.components.T @ self.discriminants.analysis.T

    def of_identity(self, coordinates: Tensor) -> Tensor:
        """Differences (n, 3, H, W) of images for differences (n, k) along the discriminants."""
        if self.discriminants is None:
            raise ValueError("this face space does not know what tells people apart")
        return (coordinates @ self.discriminants.synthesis.T @ self.components).view(-1, *self.mean.shape)

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
        was, discriminants = self.mean.shape[-1], self.discriminants
        ratio = size / was  # an image of twice the side has twice the norm
        if discriminants is not None:
            between = discriminants.between.to(device)
            discriminants = Discriminants(
                discriminants.analysis.to(device) / ratio, discriminants.synthesis.to(device) * ratio, between
            )
        if was == size:
            return Eigenfaces(
                self.mean.to(device), self.components.to(device), self.deviations.to(device), discriminants
            )
        components = resize(self.components.view(-1, *self.mean.shape), size).flatten(1)
        components = components / components.norm(dim=1, keepdim=True).clamp_min(1e-12)
        scaled = self.deviations.to(device) * ratio
        return Eigenfaces(resize(self.mean[None], size)[0].to(device), components.to(device), scaled, discriminants)


def fit(photos: Tensor, people: Tensor | None = None) -> Eigenfaces:
    """The space of `photos` (n, 3, H, W) in [0, 1]; mirror images count too. ValueError for less than two photos.

    `people` (n,) int64 says whom each shows; with several people, and several photos of some, there are discriminants.
    """
    if len(photos) < 2:
        raise ValueError(f"{len(photos)} photos given; a face space needs two or more")
    images = photos * 2 - 1
    mean = (images.mean(0) + images.mean(0).flip(-1)) / 2
    centred = torch.cat([images, images.flip(-1)]).sub_(mean).flatten(1)  # (2 n, 3 * H * W)
    del images  # as large as half of that
    rank = min(COMPONENTS, len(photos))
    directions, sizes = _principal(centred.T, rank)
    components = directions.T.contiguous()
    discriminants = None if people is None else _discriminants(centred[: len(photos)] @ directions, people)
    return Eigenfaces(mean, components, sizes / len(centred) ** 0.5, discriminants)


def _discriminants(along: Tensor, people: Tensor) -> Discriminants | None:
    """Of photos' coordinates `along` the components (n, q), of `people` (n,); None where too few photos part them."""
    _, owner = torch.unique(people, return_inverse=True)
    counts = owner.bincount().to(along)  # (p,)
    if len(counts) < 3 or len(along) - len(counts) < along.shape[1]:
        return None
    means = torch.zeros(len(counts), along.shape[1]).to(along).index_add_(0, owner, along) / counts[:, None]
    apart = along - means[owner]
    within = (apart.T @ apart / (len(along) - len(counts))).double()
    within += WITHIN_FLOOR * within.diagonal().mean() * torch.eye(len(within), dtype=torch.float64, device=along.device)
    # Means of few photos differ by their photos, too.
    between = torch.cov(means.T).double() - within * (1 / counts).mean()
    root = torch.linalg.cholesky(within)
    left = torch.linalg.solve_triangular(root, between, upper=False)
    values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(root, left.T, upper=False))
    analysis = torch.linalg.solve_triangular(root.T, vectors, upper=True).T.flip(0)
    values, synthesis = values.flip(0), (root @ vectors).flip(1)
    kept = int((values > LEAST_BETWEEN).sum())
    if not kept:
        return None
    return Discriminants(analysis[:kept].float(), synthesis[:, :kept].float().contiguous(), values[:kept].float())


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
    tensors = {"mean": space.mean, "components": space.components.half(), "deviations": space.deviations}
    if space.discriminants is not None:
        tensors |= {name: getattr(space.discriminants, name) for name in DISCRIMINANTS}
    return save({name: value.contiguous() for name, value in tensors.items()})


def read(path: Path) -> Eigenfaces | None:
    """What `encode` wrote; None if there is no such file."""
    if not path.exists():
        return None
    tensors, _ = read_tensors(path)
    if not {"mean", "components", "deviations"} <= tensors.keys():
        raise DamagedFile(f"{path} is no face space; remove it and give the command again, which writes it anew")
    discriminants = None
    if set(DISCRIMINANTS) <= tensors.keys():
        discriminants = Discriminants(*(tensors[name] for name in DISCRIMINANTS))
    return Eigenfaces(tensors["mean"], tensors["components"].float(), tensors["deviations"], discriminants)
