"""Every random draw of a run comes from here: one seed, and the names of what is being drawn.

A stream depends on (seed, names) alone, never on who asked first. So clients and workers may
finish in any order, on any engine, and the result is the same.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *names: int | str) -> int:
    """A 63-bit seed for the stream `names` of the run seed `seed`; distinct names, distinct streams."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh torch generator for the stream `names`; the global generators stay untouched."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


@contextmanager
def global_generators(seed: int, *names: int | str) -> Iterator[None]:
    """Numpy's and Python's global generators at the start of the stream `names`; as they were, afterwards.

    For code of others that draws from them, such as Flower's noise: for this process's one thread that does.
    """
    before = np.random.get_state(), random.getstate()  # noqa: NPY002
    seed_global_generators(seed, *names)
    try:
        yield
    finally:
        np.random.set_state(before[0])  # noqa: NPY002
        random.setstate(before[1])


def seed_global_generators(seed: int, *names: int | str) -> None:
    """Start numpy's and Python's global generators on the stream `names`; call it inside `global_generators`."""
    np.random.seed(derive(seed, *names) % 2**32)  # noqa: NPY002
    random.seed(derive(seed, *names))
