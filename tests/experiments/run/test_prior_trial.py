"""A prior that does not do what its files say is found out on noisy grey images, whatever network it is."""

import dataclasses
import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from priors import edit, scheduler, unet, write_prior, write_vae
from torch import Tensor, nn

from attacker import attacks
from attacker.priors.noise_schedule import PREDICTIONS
from attacker.priors.prior import Prior, load_prior
from experiments.run.prior_trial import doubt, doubts
from fl_sim.config import ConfigError


class Predicting(nn.Module):
    """The network of `prior`, with its output turned into another prediction."""

    def __init__(self, prior: Prior, prediction: str) -> None:
        super().__init__()
        self.prior, self.prediction = prior, prediction

    def forward(self, x_t: Tensor, t: Tensor) -> Any:
        signal, sigma = self.prior._scales(t)
        x_t = x_t[:, : self.prior.channels]  # a mean face may follow
        x0 = self.prior.predict_x0(x_t, t)
        eps = (x_t - signal * x0) / sigma
        outputs = {"epsilon": eps, "sample": x0, "v_prediction": signal * eps - sigma * x0}
        return SimpleNamespace(sample=outputs[self.prediction])


@pytest.mark.parametrize(("predicts", "says"), product(PREDICTIONS, PREDICTIONS))
def test_a_network_is_read_as_what_it_predicts_or_refused(predicts: str, says: str) -> None:
    shipped = load_prior("synthetic64", 64)
    prior = dataclasses.replace(shipped, unet=Predicting(shipped, predicts), prediction_type=says)
    if predicts == says:
        assert doubt(prior, "p") is None
    else:
        with pytest.raises(ConfigError, match=f"predicts {says}, but .* only if read as {predicts} "):
            doubt(prior, "p")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("size", [16, 64])
def test_a_network_that_was_never_trained_is_told_of(tmp_path: Path, prediction: str, size: int) -> None:
    write_prior(tmp_path, unet(), scheduler(prediction))
    sentence = doubt(load_prior(str(tmp_path), size), "p")
    assert sentence is not None
    assert "prior 'p': its network does not take the noise off grey images" in sentence


def test_an_autoencoder_that_was_never_trained_is_told_of(tmp_path: Path) -> None:
    write_prior(tmp_path, unet(4))
    write_vae(tmp_path / "vae")
    sentence = doubt(load_prior(str(tmp_path), 16), "p")
    assert sentence is not None
    assert "its autoencoder does not give grey images back" in sentence
    assert "and its network does not" in sentence


def test_a_network_that_gives_no_numbers_is_told_of() -> None:
    shipped = load_prior("synthetic64", 64)
    lost = dataclasses.replace(shipped, unet=lambda x_t, t: SimpleNamespace(sample=x_t * float("nan")))
    sentence = doubt(lost, "p")
    assert sentence is not None
    assert "mean square error nan" in sentence


def test_networks_that_fail_on_such_images_are_refused(tmp_path: Path) -> None:
    write_prior(tmp_path)
    prior = dataclasses.replace(load_prior(str(tmp_path), 16), size=17)  # which two levels cannot halve
    with pytest.raises(ConfigError, match="cannot be used on images of 16 px") as failure:
        doubt(prior, "p")
    assert "\n" not in str(failure.value)


def test_the_prior_of_an_attack_is_tried(tmp_path: Path) -> None:
    write_prior(tmp_path)
    named = attacks.load("a", {"name": "prior_only", "prior": str(tmp_path)})
    assert len(doubts(named, 16)) == 1
    assert doubts(attacks.load("inverting_gradients", {}), 16) == []
    edit(tmp_path / "unet" / "config.json", num_class_embeds=2)
    with pytest.raises(ConfigError, match="class-conditional"):
        doubts(named, 16)


def test_an_attack_that_would_draw_photos_is_told_of_a_prior_that_has_not_learnt_mean_faces(tmp_path: Path) -> None:
    plain, able = tmp_path / "plain", tmp_path / "able"
    write_prior(plain)
    write_prior(able, network=unet(in_channels=6))
    (able / "training.json").write_text(json.dumps({"condition": "mean face"}))

    def said(prior: Path, size: int = 16, name: str = "user_diffusion", **settings: int) -> list[str]:
        attack = attacks.load("a", {"name": name, "prior": str(prior), **settings})
        return [sentence for sentence in doubts(attack, size) if "mean faces" in sentence]

    (sentence,) = said(plain)
    assert sentence == (
        f"prior '{plain}' has not learnt mean faces, so user_diffusion shows the mean that the update determines, "
        f"which is no photo; fl-sim train-prior --start {plain} makes one that draws photos"
    )
    assert "--start" not in said(plain, size=32)[0]  # train-prior refuses a prior of another size
    assert said(plain, draws=0) == said(plain, name="prior_only") == said(able) == []
