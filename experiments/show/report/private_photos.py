"""Which private photos a page may show: those of people who do not exist, and of others only if somebody asks."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from clients.datasets import open_dataset
from experiments.show.report.run_data import RunData

LEFT_OUT = (
    "The private photos are not shown: they are of real people, and this page may travel. {command} puts them in."
)


class PrivatePhotos(NamedTuple):
    of: Callable[[int], Tensor | None]  # (n, 3, H, W) in [0, 1] of a user; None: not shown
    notes: list[str]  # why not, a sentence


def left_out(command: str) -> PrivatePhotos:
    """None of them; `command` makes the page that has them."""
    return PrivatePhotos(lambda user: None, [LEFT_OUT.format(command=command)])


def private_photos(run_data: RunData, with_private_photos: bool) -> PrivatePhotos:
    """Those of a run's users: of synthetic people, else only if `with_private_photos`."""
    if not (run_data.synthetic or with_private_photos):
        return left_out("fl-sim report RUN --with-private-photos")
    try:
        dataset = open_dataset(run_data.config.dataset, run_data.config.seed)
    except Exception as error:  # a dataset may be third-party code; the page must come out all the same
        note = f"The private photos are not shown: the dataset cannot be opened ({error})."
        return PrivatePhotos(lambda user: None, [note])
    return PrivatePhotos(lambda user: dataset.user(user).private.photos if user < dataset.num_users else None, [])
