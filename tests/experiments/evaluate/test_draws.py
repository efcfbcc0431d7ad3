"""Laws of what draws share and where they differ."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacker.observation import Reconstruction
from experiments.evaluate.draws import FULL, HOT, OPAQUE, deviation, heat, most_and_least, others, spread
from fl_sim.seeds import generator


def random_draws(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 12, 12, generator=generator(seed, "draws"))


@given(st.integers(1, 6), st.integers(0, 5))
def test_the_spread_is_that_of_numpy_and_within_its_range(count: int, seed: int) -> None:
    draws = random_draws(count, seed)
    assert spread(draws) == pytest.approx(draws.double().numpy().std(axis=0).mean())
    assert 0 <= spread(draws) <= 0.5
    assert spread(draws) == pytest.approx(spread(draws.flip(0)))


def test_draws_that_agree_have_no_spread_and_a_grey_map() -> None:
    one = random_draws(1)
    assert spread(one) == spread(one.expand(4, -1, -1, -1)) == 0
    torch.testing.assert_close(heat(one.expand(4, -1, -1, -1)), one[0].mean(0).expand(3, -1, -1))


def test_black_and_white_differ_most_and_are_of_the_full_colour() -> None:
    draws = torch.stack([torch.zeros(3, 6, 6), torch.ones(3, 6, 6)])
    assert spread(draws) == 0.5
    expected = (1 - OPAQUE) * 0.5 + OPAQUE * torch.tensor(HOT)
    torch.testing.assert_close(heat(draws), expected[:, None, None].expand(3, 6, 6))
    assert float(heat(random_draws(5)).min()) >= 0
    assert float(heat(random_draws(5)).max()) <= 1


def test_the_map_is_the_more_orange_the_more_they_differ() -> None:
    draws = torch.full((2, 3, 3, 3), 0.5)
    for pixel, half in enumerate((0.0, FULL / 2, FULL, 2 * FULL)):
        row, column = divmod(pixel, 3)
        draws[:, :, row, column] = torch.tensor([0.5 - half, 0.5 + half])[:, None]
    shown = heat(draws).flatten(1)  # (3, 9)
    blue = shown[2, :4].tolist()
    assert blue[0] > blue[1] > blue[2]
    assert blue[2] == pytest.approx(blue[3])  # full is full


def test_the_words_name_where_they_differ() -> None:
    draws = torch.full((2, 3, 9, 9), 0.5)
    draws[0, :, :3, 6:] = 1.0
    draws[0, :, 3:, :] = 0.6
    draws[0, :, 3:6, 3:6] = 0.5
    draws[0, :, :3, :6] = 0.7
    assert most_and_least(draws) == ("upper right", "centre")
    assert float(deviation(draws)[0, 8]) == pytest.approx(0.25)


@given(st.integers(1, 5), st.integers(0, 4))
def test_others_are_all_but_the_answer_in_their_order(count: int, at: int) -> None:
    draws = random_draws(count)
    at %= count
    found = others(Reconstruction(draws[at : at + 1], torch.ones(1), 0.0, 0.0, draws))
    assert torch.equal(found, torch.cat([draws[:at], draws[at + 1 :]]))


def test_an_answer_that_is_no_draw_leaves_all_of_them_and_equal_draws_are_counted() -> None:
    draws = random_draws(3)
    assert len(others(Reconstruction(draws[:1] / 2, torch.ones(1), 0.0, 0.0, draws))) == 3
    assert len(others(Reconstruction(draws[:1], torch.ones(1), 0.0, 0.0, draws[:1].repeat(4, 1, 1, 1)))) == 3
    assert len(others(Reconstruction(draws[:1], torch.ones(1), 0.0, 0.0))) == 0
