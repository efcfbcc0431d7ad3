"""What a conditional prior learns from: a mean of some of a person's photos, damaged, and one photo of that person."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attacker.priors import eigenfaces, mean_faces
from fl_sim.models import normalise
from fl_sim.seeds import generator

MEAN_OF = (3, 30)  # photos of which a mean is taken, where the person has that many; each number is as likely
TYPICAL = 3  # photos nearest to their mean, of which one is shown with it
SPACE_PHOTOS = 4000  # on which the principal components are found


@dataclass(frozen=True)
class Album:
    """Photos of people who are nobody's victim. ValueError for photos that are not square, or labels of others."""

    photos: Tensor  # (n, 3, H, H) uint8
    people: Tensor  # (n,) int64, whom each shows
    labels: Tensor  # (n,) int64 of the federation's task; negative: unknown

    def __post_init__(self) -> None:
        photos = self.photos
        if photos.dtype != torch.uint8 or photos.ndim != 4 or photos.shape[1:] != (3, *photos.shape[-1:] * 2):
            raise ValueError(f"photos of shape {tuple(photos.shape)}, {photos.dtype} given; (n, 3, H, H) uint8 needed")
        if not self.people.shape == self.labels.shape == photos.shape[:1]:
            raise ValueError(
                f"{len(photos)} photos with {tuple(self.people.shape)} people and {tuple(self.labels.shape)} labels "
                "given; each photo needs a person and a label"
            )

    @property
    def size(self) -> int:
        """H, pixels."""
        return self.photos.shape[-1]

    def sets(self) -> list[Tensor]:
        """Indices of photos, (k,) each, k > 0: all of a person, and those of each of a person's known labels."""
        kept: dict[tuple[int, ...], None] = {}  # a dict, to hold each set once and in order
        for person in sorted(set(self.people.tolist())):
            own = self.people == person
            labels = {label for label in self.labels[own].tolist() if label >= 0}
            for part in [own, *(own & (self.labels == label) for label in sorted(labels))]:
                kept[tuple(part.nonzero().flatten().tolist())] = None
        return [torch.tensor(places) for places in kept]


class Pairs:
    """Draws pairs from an album, on a device."""

    def __init__(self, album: Album, space: eigenfaces.Eigenfaces, device: torch.device) -> None:
        self._photos = album.photos.to(device)
        self._sets = album.sets()
        self._space = space.at(album.size, device)

    def draw(self, count: int, without: float, seed: int, *names: int | str) -> tuple[Tensor, Tensor]:
        """`count` pairs of the stream `names`: photos and damaged mean faces, (count, 3, H, H) in [-1, 1] both.

        A mean is that of photos of one set (one person, one label or all). The photo is one of those nearest to it:
        what a mean tells best is what a person looks like in a typical pose. A share `without` has zeros for a mean,
        and any photo. Half of the pairs are mirrored. Of a set of one photo, that photo is the mean.
        """
        random = generator(seed, *names, "pairs")
        chosen = [self._choose(random) for _ in range(count)]
        lacking = torch.rand(count, generator=random) < without
        ranks = torch.randint(TYPICAL, (count,), generator=random).tolist()
        mirrored = (torch.rand(count, generator=random) < 0.5).to(self._photos.device)[:, None, None, None]
        means = self._means(chosen)
        drawn = zip(chosen, means, lacking.tolist(), ranks, strict=True)
        photos = [
            self._photos[places[0]].float() if lost else self._typical(places, mean, rank)
            for places, mean, lost, rank in drawn
        ]
        pictures = torch.stack([torch.stack(photos), means])
        pictures = normalise(torch.where(mirrored, pictures.flip(-1), pictures) / 255)
        noise = generator(seed, *names, "damage", device=self._photos.device)
        damaged = mean_faces.damaged(pictures[1], self._space, noise)
        return pictures[0], damaged * ~lacking.to(damaged.device)[:, None, None, None]

    def _choose(self, random: torch.Generator) -> Tensor:
        """The indices (k,) of photos of a random set, in random order."""
        places = self._sets[int(torch.randint(len(self._sets), (), generator=random))]
        shuffled = places[torch.randperm(len(places), generator=random)]
        return shuffled[: int(torch.randint(MEAN_OF[0], MEAN_OF[1] + 1, (), generator=random))]

    def _typical(self, chosen: Tensor, mean: Tensor, rank: int) -> Tensor:
        """Of the photos `chosen` (k,), that (3, H, H) which is the `rank`-th nearest to their mean (3, H, H)."""
        photos = self._photos[chosen.to(self._photos.device)].float()
        order = (photos - mean).square().sum((1, 2, 3)).argsort()
        return photos[order[rank % len(order)]]

    def _means(self, chosen: list[Tensor]) -> Tensor:
        """The mean photos (n, 3, H, H) in [0, 255] of n lists of indices."""
        sizes = torch.tensor([len(places) for places in chosen], device=self._photos.device)
        pictures = self._photos[torch.cat(chosen).to(self._photos.device)].float()
        owner = torch.arange(len(chosen), device=self._photos.device).repeat_interleave(sizes)
        sums = pictures.new_zeros(len(chosen), *pictures.shape[1:]).index_add_(0, owner, pictures)
        return sums / sizes[:, None, None, None]


def fit_eigenfaces(album: Album, seed: int) -> eigenfaces.Eigenfaces:
    """How faces differ, by some of an album's photos. ValueError for less than two."""
    order = torch.randperm(len(album.photos), generator=generator(seed, "prior-space"))
    return eigenfaces.fit(album.photos[order[:SPACE_PHOTOS]].float() / 255)
