"""Draws of photos given a mean face: they follow the mean, not each other, and the answer is one of them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from priors import unet, write_prior
from torch import Tensor, nn

from attacker.posterior import draw_faces, draw_users, most_typical
from attacker.prior import Prior, load_prior
from fl_sim.config import ConfigError
from fl_sim.seeds import generator

SIZE = 8


class Mirror(nn.Module):
    """A conditional U-Net that predicts the image: the mean face, and a tenth of what it sees beside it."""

    def forward(self, seen: Tensor, t: Tensor) -> Any:
        x_t, mean = seen.chunk(2, dim=1)
        return SimpleNamespace(sample=mean + 0.1 * x_t.clamp(-1, 1))


def prior(conditional: bool = True) -> Prior:
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    return Prior(Mirror(), abar, "sample", SIZE, SIZE, autocast=False, conditional=conditional)


def means(count: int) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=generator(0, "means")) - 0.5


def noise(count: int, name: str = "noise") -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=generator(0, name))


def test_draws_follow_the_mean_face_and_differ_by_the_noise() -> None:
    mean = means(2)
    drawn = draw_faces(prior(), mean[[0, 0, 1]], noise(3), 4)
    assert (drawn - mean[[0, 0, 1]]).abs().max() < 0.3
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(draw_faces(prior(), mean[:1], noise(1), 4), draw_faces(prior(), mean[:1], noise(1), 4))


def test_many_draws_are_as_if_each_were_alone() -> None:
    mean, z = means(40), noise(40)
    together = draw_faces(prior(), mean, z, 3)
    assert torch.allclose(together[35:36], draw_faces(prior(), mean[35:36], z[35:36], 3), atol=1e-6)


def test_without_a_mean_face_a_conditional_prior_is_a_prior_as_any() -> None:
    z = noise(2)
    assert torch.equal(prior().sample(z, 3), prior().sample(z, 3, condition=torch.zeros_like(z)))


def test_a_prior_that_has_not_learnt_mean_faces_draws_none() -> None:
    with pytest.raises(ValueError, match="not conditional"):
        draw_faces(prior(conditional=False), means(1), noise(1), 3)


def test_the_most_typical_draw_is_the_nearest_to_their_mean() -> None:
    draws = torch.stack([torch.full((3, 2, 2), value) for value in (0.0, 0.9, 0.4)])
    assert most_typical(draws) == 2
    assert most_typical(draws[:1].expand(3, -1, -1, -1)) == 0


def test_each_user_has_an_answer_a_label_and_the_draws_of_the_first() -> None:
    given = [means(3)[:2], means(3)[2:]]
    (two, first), (one, second) = draw_users(prior(), given, [noise(5), noise(5, "other")], 3)
    assert two.shape == (2, 3, SIZE, SIZE)
    assert one.shape == (1, 3, SIZE, SIZE)
    assert any(torch.equal(two[0], draw) for draw in first)
    assert any(torch.equal(one[0], draw) for draw in second)
    assert (two[1] - given[0][1]).abs().max() < 0.3


def test_a_user_s_draws_do_not_depend_on_who_else_is_there() -> None:
    given, drawn = [means(3)[:2], means(3)[2:]], [noise(5), noise(5, "other")]
    together = draw_users(prior(), given, drawn, 3)
    for k in range(2):
        (alone,) = draw_users(prior(), given[k : k + 1], drawn[k : k + 1], 3)
        assert torch.allclose(alone[0], together[k][0], atol=1e-6)
        assert torch.allclose(alone[1], together[k][1], atol=1e-6)


def test_a_network_of_twice_the_channels_is_conditional_only_if_its_training_says_so(tmp_path: Path) -> None:
    write_prior(tmp_path, network=unet(in_channels=6))
    with pytest.raises(ConfigError, match="6 to 3 channels"):
        load_prior(str(tmp_path), 16)
    (tmp_path / "training.json").write_text(json.dumps({"condition": "mean face"}))
    loaded = load_prior(str(tmp_path), 16)
    assert loaded.conditional
    z = torch.randn(2, 3, 16, 16, generator=generator(0, "z"))
    assert loaded.sample(z, 2).shape == z.shape
    assert not torch.equal(loaded.sample(z, 2), loaded.sample(z, 2, condition=z))
