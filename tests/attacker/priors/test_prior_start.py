import json

import priors
import pytest
import torch

from attacker.priors import start as prior_start
from attacker.priors.prior import load_prior
from fl_sim.config import ConfigError


def conditional(folder):
    """A tiny prior of 6 inputs."""
    priors.write_prior(folder, priors.unet(6, out_channels=3))
    (folder / "training.json").write_text(json.dumps({"condition": "mean face"}))


def test_a_prior_without_a_condition_begins_by_ignoring_the_mean_face(tmp_path):
    priors.write_prior(tmp_path)
    start = prior_start.of_prior(str(tmp_path), 16)
    x, mean, t = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.tensor([3, 40])
    seen = load_prior(str(tmp_path), 16).unet(x, t).sample
    assert torch.allclose(start.unet(torch.cat([x, mean], dim=1), t).sample, seen, atol=1e-5)
    assert all(parameter.requires_grad for parameter in start.unet.parameters())
    assert start.unet.training


def test_a_conditional_prior_is_taken_as_it_is(tmp_path):
    conditional(tmp_path)
    own = load_prior(str(tmp_path), 16).unet.state_dict()
    taken = prior_start.of_prior(str(tmp_path), 16).unet.state_dict()
    assert all(torch.equal(own[name], taken[name]) for name in own)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_prediction_type_and_schedule_are_taken_over(prediction, tmp_path):
    priors.write_prior(tmp_path, noise=priors.scheduler(prediction))
    start = prior_start.of_prior(str(tmp_path), 16)
    assert start.schedule.prediction_type == prediction == start.scheduler["prediction_type"]
    assert len(start.schedule.alphas_cumprod) == 50 == start.scheduler["num_train_timesteps"]


def test_a_prior_of_another_size_is_refused(tmp_path):
    priors.write_prior(tmp_path)
    with pytest.raises(ConfigError, match=r"is of 16 px, dataset.image_size is 32"):
        prior_start.of_prior(str(tmp_path), 32)


def test_a_latent_prior_is_refused(tmp_path):
    priors.write_prior(tmp_path, priors.unet(4))
    priors.write_vae(tmp_path / "vae")
    with pytest.raises(ConfigError, match="is a latent prior"):
        prior_start.of_prior(str(tmp_path), 32)


def test_a_prior_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match="neither a folder nor a hub name"):
        prior_start.of_prior("./nowhere", 16)


def test_fresh_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    one, same, other = (prior_start.fresh(16, (8, 32), seed).unet.state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])
