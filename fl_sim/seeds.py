"""Every random draw of a run comes from here: one seed, and the names of what is being drawn.

A stream depends on (seed, names) alone, never on who asked first. So clients and workers may
finish in any order, on any engine, and the result is the same.
"""

import hashlib

import torch


def derive(seed: int, *names: int | str) -> int:
    """A 63-bit seed for the stream `names` of the run seed `seed`; distinct names, distinct streams."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh torch generator for the stream `names`; the global generators stay untouched."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))
