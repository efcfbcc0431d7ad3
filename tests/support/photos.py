"""Photos as the data sets read them."""

from pathlib import Path

from torch import Tensor

from clients.datasets.images import centre_square, decode, fit


def read_photo(path: Path) -> Tensor:
    """The central square of a photo: uint8 (3, 32, 32)."""
    return fit(decode(path), 32, centre_square())
