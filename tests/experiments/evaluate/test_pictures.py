"""Judges see each picture once, in a batch with nothing else than its reconstruction, and what they said stays."""

import torch
from torch import Tensor

from attacker.observation import Reconstruction
from experiments.evaluate import pictures
from experiments.evaluate.pictures import MOST, Eye
from experiments.evaluate.realism import BANDS, Reference
from fl_sim.seeds import generator

IMAGES = torch.rand(5, 3, 8, 8, generator=generator(0, "pictures"))
UNDETECTED = Reference(torch.ones(len(BANDS)), (), 0.0)


def counting() -> tuple[Eye, list[int]]:
    asked: list[int] = []

    def embed(photos: Tensor) -> Tensor:
        asked.append(len(photos))
        return photos.mean((2, 3))

    return Eye(embed, lambda photos: {"red": photos[:, 0].mean((1, 2)).round().long()}, UNDETECTED), asked


def test_a_reconstruction_is_seen_once_as_one_batch_and_keeps_its_own_figures() -> None:
    eye, asked = counting()
    made = Reconstruction(IMAGES[:2], torch.ones(2) / 2, 0.5, 1.0, draws=IMAGES[1:4], determined=IMAGES[4])
    first = eye.answer(made)
    again = eye.answer(Reconstruction(IMAGES[:2].clone(), torch.ones(2), 0.25, 2.0, IMAGES[1:4], IMAGES[4]))
    assert asked == [6]
    assert [picture.embedding.tolist() for picture in first.pictures if picture] == IMAGES[:2].mean((2, 3)).tolist()
    assert again.pictures[0] is first.pictures[0]
    assert (again.matching_loss, again.seconds) == (0.25, 2.0)


def test_other_pictures_or_another_order_are_other_batches() -> None:
    eye, asked = counting()
    eye.look([IMAGES[0], IMAGES[1]])
    eye.look([IMAGES[1], IMAGES[0]])
    eye.look([IMAGES[0]], IMAGES[1:2])
    assert asked == [2, 2, 2]


def test_an_image_that_is_not_finite_is_no_picture_and_spoils_no_other() -> None:
    eye, _ = counting()
    seen, draws = eye.look([IMAGES[0], torch.full((3, 8, 8), torch.nan)], torch.full((2, 3, 8, 8), torch.inf))
    assert seen[0] is not None
    assert seen[1] is None
    assert draws is None


def test_the_batch_of_longest_ago_is_forgotten(monkeypatch) -> None:
    assert MOST > 2
    monkeypatch.setattr(pictures, "MOST", 2)
    eye, asked = counting()
    for number in (0, 1, 2, 2, 0):
        eye.look([IMAGES[number]])
    assert len(asked) == 4
