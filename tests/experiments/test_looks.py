"""Judges see each picture once, alone, and what they said is what they say."""

import torch

from attacker.observation import Reconstruction
from experiments.evaluate import looks
from experiments.evaluate.remembered import MOST
from fl_sim.seeds import generator

PICTURES = torch.rand(5, 3, 8, 8, generator=generator(0, "looks"))


def counting() -> tuple[looks.Looks, list[int]]:
    asked: list[int] = []

    def embed(photos: torch.Tensor) -> torch.Tensor:
        asked.append(len(photos))
        return photos.mean((2, 3))

    return looks.Looks(embed, lambda photos: {"red": photos[:, 0].mean((1, 2)).round().long()}), asked


def test_a_picture_is_seen_once_and_alone() -> None:
    seen, asked = counting()
    for _ in range(2):
        for picture in PICTURES:
            assert torch.equal(seen.embedding(picture.clone()), picture[None].mean((2, 3))[0])
            assert seen.classes(picture)["red"].shape == (1,)
    assert asked == [1] * 5


def test_the_picture_of_longest_ago_is_forgotten() -> None:
    seen, asked = counting()
    for number in range(MOST + 1):
        seen.embedding(torch.full((3, 1, 1), float(number)))
    seen.embedding(torch.full((3, 1, 1), float(MOST)))
    assert len(asked) == MOST + 1
    seen.embedding(torch.zeros(3, 1, 1))
    assert len(asked) == MOST + 2


def test_what_was_foreseen_is_not_asked_again() -> None:
    seen, asked = counting()
    made = Reconstruction(PICTURES[:2], torch.ones(2) / 2, 0.0, 0.0, draws=PICTURES[1:4], determined=PICTURES[4])
    seen.foresee(made, detects=False)
    assert len(asked) == 5
    for picture in PICTURES:
        seen.embedding(picture)
    assert len(asked) == 5
