"""A look through a dataset before anything is trained: how many photos users have, and whose they are."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from clients.datasets import open_dataset
from clients.datasets.duplicates import Whose
from clients.datasets.people import PeopleDataset
from clients.user import FaceDataset
from fl_sim.config import ConfigError, Dataset

_PUBLIC_PEOPLE = 200  # of one's own dataset, whose photos are compared with the users'


@dataclass(frozen=True)
class Examined:
    synthetic: bool  # rendered faces, which the shipped judges and priors know
    photos: tuple[int, int] | None  # the fewest and the most private photos of a user; None: not counted
    notes: tuple[str, ...]  # sentences that the user should read


@lru_cache(maxsize=4)
def examine(dataset: Dataset, seed: int) -> Examined:
    """Look through the dataset of a config; asking again in the same process costs nothing.

    Raises ConfigError for a photo that is under two people or both private and held out, and for a user who cannot
    be read. Synthetic people are drawn one by one, so they are not looked through.
    """
    faces = open_dataset(dataset, seed)
    if getattr(faces, "synthetic", False):
        return Examined(True, None, ())
    if isinstance(faces, PeopleDataset):
        photos, notes = faces.examine()
        return Examined(False, photos, tuple(notes))
    try:
        return Examined(False, _look(faces), ())
    except ConfigError:
        raise
    except Exception as error:  # third-party code
        raise ConfigError(f"the photos of dataset {dataset.name!r} cannot be read ({error!r}); mend it") from error


def _look(faces: FaceDataset) -> tuple[int, int]:
    """The fewest and the most private photos of a user of one's own dataset. Raises ConfigError as `examine`."""
    whose, counts = Whose(), []
    for partition in range(faces.num_users):
        user = faces.user(partition)
        person = f"user {partition} ({user.identity})"
        counts.append(len(user.private.photos))
        private, held_out = map(_fingerprints, (user.private.photos, user.held_out.photos))
        if set(private) & set(held_out):
            raise ConfigError(f"a photo of {person} is both private and held out; the dataset must give it to one side")
        for side, prints in (("private", private), ("held-out", held_out)):
            for number, fingerprint in enumerate(prints):
                whose.again(fingerprint, person, f"{side} photo {number}")
    for index in range(min(faces.num_public, _PUBLIC_PEOPLE)):
        for number, fingerprint in enumerate(_fingerprints(faces.public(index).photos)):
            whose.again(fingerprint, f"public person {index}", f"photo {number}")
    return min(counts), max(counts)


def _fingerprints(photos: Tensor) -> list[bytes]:
    return [hashlib.sha256(photo.contiguous().numpy().tobytes()).digest() for photo in photos]
