"""Which entries of a vector a defense keeps: exactly k, the largest or any."""

import torch
from torch import Tensor


def count(fraction: float, total: int) -> int:
    """How many of `total` entries a fraction in (0, 1] of them is: rounded, at least one of any."""
    return min(total, max(1, round(fraction * total)))


def largest(values: Tensor, k: int) -> Tensor:
    """(n,) bool, true at the k entries of `values` (n,) with the largest magnitude; of equal ones the first."""
    size = values.abs()
    threshold = size.kthvalue(len(size) - k + 1).values  # the k-th largest
    kept = size > threshold
    ties = (size == threshold).nonzero().flatten()
    kept[ties[: k - int(kept.sum())]] = True
    return kept


def random(total: int, k: int, generator: torch.Generator) -> Tensor:
    """(total,) bool, true at k entries, every choice of them alike."""
    kept = torch.zeros(total, dtype=torch.bool)
    kept[torch.randperm(total, generator=generator)[:k]] = True
    return kept
