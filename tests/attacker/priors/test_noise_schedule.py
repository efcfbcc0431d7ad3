"""The noise of training by the scheduler's own numbers: predict_x0 is what diffusers takes for x_0."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from priors import edit, scheduler, unet, write_prior
from torch import Tensor, nn

from attacker.priors.noise_schedule import PREDICTIONS, READABLE, read_schedule
from attacker.priors.prior import Prior, load_prior
from fl_sim.config import ConfigError
from fl_sim.seeds import generator

SHAPE = (4, 3, 8, 8)


class Predicts(nn.Module):
    """A U-Net that predicts `output(x_t, t)`."""

    def __init__(self, output: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.output = output

    def forward(self, x_t: Tensor, t: Tensor) -> Any:
        return SimpleNamespace(sample=self.output(x_t, t))


def reading(folder: Path, output: Callable[[Tensor, Tensor], Tensor], noise: Any) -> Prior:
    """A prior that reads `output` by the file of the scheduler `noise`."""
    noise.save_pretrained(folder)
    read = read_schedule(folder)
    return Prior(Predicts(output), read.alphas_cumprod, read.prediction_type, 8, 8, autocast=False)


def drawn(name: str) -> Tensor:
    return torch.randn(SHAPE, generator=generator(0, name))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_optimal_network_of_a_gaussian_gives_the_posterior_mean_in_each_parametrisation(
    tmp_path: Path, prediction: str
) -> None:
    # Of x_0 ~ N(mean, deviation^2) all is known in closed form; the network's output is diffusers' training target.
    mean, deviation, noise = 0.2, 0.1, scheduler(prediction)

    def posterior_mean(x_t: Tensor, t: Tensor) -> Tensor:
        abar = noise.alphas_cumprod[t][:, None, None, None]
        gain = deviation**2 * abar.sqrt() / (deviation**2 * abar + 1 - abar)
        return mean + gain * (x_t - abar.sqrt() * mean)

    def optimal(x_t: Tensor, t: Tensor) -> Tensor:
        x0, abar = posterior_mean(x_t, t), noise.alphas_cumprod[t][:, None, None, None]
        eps = (x_t - abar.sqrt() * x0) / (1 - abar).sqrt()
        return {"epsilon": eps, "sample": x0, "v_prediction": noise.get_velocity(x0, eps, t)}[prediction]

    prior = reading(tmp_path, optimal, noise)
    t = torch.tensor([0, 10, 30, 49])
    x_t = noise.add_noise(mean + deviation * drawn("x0"), drawn("noise"), t)
    assert torch.allclose(prior.predict_x0(x_t, t), posterior_mean(x_t, t), atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_any_output_means_the_image_that_diffusers_sampler_takes_it_for(tmp_path: Path, prediction: str) -> None:
    output = drawn("output")
    prior = reading(tmp_path, lambda x_t, t: output, scheduler(prediction))
    sampler = diffusers.DDIMScheduler.from_config(scheduler(prediction).config, clip_sample=True)
    sampler.set_timesteps(50)
    for t in (3, 25, 49):
        x_t = drawn("x_t")
        expected = sampler.step(output, t, x_t).pred_original_sample
        assert torch.allclose(prior.predict_x0(x_t, torch.full((4,), t)), expected, atol=1e-4)


@pytest.mark.parametrize("kind", READABLE)
def test_each_class_keeps_its_own_numbers(tmp_path: Path, kind: str) -> None:
    noise = getattr(diffusers, kind)()
    noise.save_pretrained(tmp_path)
    assert torch.equal(read_schedule(tmp_path).alphas_cumprod, noise.alphas_cumprod)
    # Of a file that leaves the betas to the class: Heun's defaults are not DDPM's.
    (tmp_path / "scheduler_config.json").write_text(f'{{"_class_name": "{kind}", "num_train_timesteps": 900}}')
    wanted = getattr(diffusers, kind)(num_train_timesteps=900)
    assert torch.equal(read_schedule(tmp_path).alphas_cumprod, wanted.alphas_cumprod)


def test_a_pipeline_whose_sampler_was_swapped_keeps_the_noise_of_its_training(tmp_path: Path) -> None:
    trained = diffusers.DDPMScheduler(beta_start=0.002, beta_end=0.03, prediction_type="v_prediction")
    diffusers.EulerDiscreteScheduler.from_config(trained.config).save_pretrained(tmp_path)
    read = read_schedule(tmp_path)
    assert torch.equal(read.alphas_cumprod, trained.alphas_cumprod)
    assert read.prediction_type == "v_prediction"


def test_the_old_way_to_say_what_is_predicted_is_read(tmp_path: Path) -> None:
    scheduler().save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    edit(path, remove="prediction_type", predict_epsilon=False)
    assert read_schedule(tmp_path).prediction_type == "sample"
    edit(path, predict_epsilon=True)
    assert read_schedule(tmp_path).prediction_type == "epsilon"
    edit(path, predict_epsilon=False, prediction_type="v_prediction")
    with pytest.raises(ConfigError, match="predict_epsilon = false and prediction_type = v_prediction; remove"):
        read_schedule(tmp_path)


def test_eulers_name_for_a_predicted_image_is_read(tmp_path: Path) -> None:
    diffusers.EulerDiscreteScheduler(prediction_type="original_sample").save_pretrained(tmp_path)
    assert read_schedule(tmp_path).prediction_type == "sample"


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", ["DDPMScheduler", "EulerDiscreteScheduler"])
def test_where_nothing_of_the_image_is_left_nothing_is_divided_by_it(
    tmp_path: Path, prediction: str, kind: str
) -> None:
    noise = getattr(diffusers, kind)(rescale_betas_zero_snr=True, prediction_type=prediction)
    write_prior(tmp_path, noise=noise)
    prior = load_prior(str(tmp_path), 16)
    assert prior.steps <= 1000
    assert (prior.steps == 1000) == (prediction != "epsilon")
    x = torch.randn(prior.steps, 3, 16, 16, generator=generator(0, "x"))
    assert torch.isfinite(prior.predict_x0(x, torch.arange(prior.steps))).all()
    assert torch.isfinite(prior.sample(x[:2], 4)).all()
    images = x[:2].clamp(-1, 1)
    last = torch.full((2,), prior.steps - 1)
    assert torch.isfinite(prior.sds_gradient(images, x[2:4], last)).all()


def test_more_sampling_steps_than_the_schedule_has_are_all_of_its_steps(tmp_path: Path) -> None:
    write_prior(tmp_path, noise=scheduler(trained_betas=[0.0, 0.5, 0.9, 0.99]))  # the first adds no noise at all
    prior = load_prior(str(tmp_path), 16)
    noise = torch.randn(2, 3, 16, 16, generator=generator(0, "noise"))
    assert torch.isfinite(prior.sample(noise, 50)).all()
    assert torch.equal(prior.sample(noise, 50), prior.sample(noise, 4))


def test_a_predicted_variance_is_left_aside(tmp_path: Path) -> None:
    write_prior(tmp_path, unet(out_channels=6), scheduler(variance_type="learned_range"))
    prior = load_prior(str(tmp_path), 16)
    assert prior.predict_x0(torch.zeros(2, 3, 16, 16), torch.tensor([0, 9])).shape == (2, 3, 16, 16)
    write_prior(tmp_path, unet(out_channels=6), scheduler())
    with pytest.raises(ConfigError, match="maps 3 to 6 channels; for pixels it must map 3 to 3"):
        load_prior(str(tmp_path), 16)


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}, "flow matching"),
        ("FlowMatchHeunDiscreteScheduler", {}, "flow matching"),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}, "flow matching"),
        ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction"}, "flow matching"),
        ("ScoreSdeVeScheduler", {}, "ScoreSdeVeScheduler, so of a variance-exploding process"),
        ("EDMEulerScheduler", {}, "EDMEulerScheduler, so of the process of Karras"),
        ("EDMDPMSolverMultistepScheduler", {}, "the process of Karras"),
        (
            "EulerDiscreteScheduler",
            {"timestep_type": "continuous", "prediction_type": "v_prediction"},
            "continuous time",
        ),
        ("LCMScheduler", {}, "LCMScheduler, so of a consistency model"),
        ("TCDScheduler", {}, "TCDScheduler, so of a consistency model"),
        ("CMStochasticIterativeScheduler", {}, "a consistency model"),
        ("IPNDMScheduler", {}, "IPNDMScheduler, so of another process"),
        ("DDPMScheduler", {"prediction_type": "score"}, "predicts 'score'; only epsilon, sample, v_prediction"),
        ("DDPMScheduler", {"beta_schedule": "made up"}, "is no DDPMScheduler .*made up"),
        ("DDPMScheduler", {"trained_betas": [0.1, float("nan"), 0.9]}, "are no noise schedule"),
        ("DDPMScheduler", {"trained_betas": [0.1, -0.5, 0.99, 0.99]}, "are no noise schedule"),
        ("DDPMScheduler", {"trained_betas": [0.9, 0.9, 0.9]}, "are no noise schedule"),
        ("DDPMScheduler", {"num_train_timesteps": 50}, "never reaches noise: after its 50 steps 0.60"),
    ],
)
def test_other_processes_are_refused_by_their_name(
    tmp_path: Path, kind: str, settings: dict[str, Any], says: str
) -> None:
    try:
        getattr(diffusers, kind)(**settings).save_pretrained(tmp_path)
    except NotImplementedError:  # diffusers itself refuses to build it
        diffusers.DDPMScheduler().save_pretrained(tmp_path)
        edit(tmp_path / "scheduler_config.json", **settings)
    with pytest.raises(ConfigError, match=says) as failure:
        read_schedule(tmp_path)
    assert str(tmp_path / "scheduler_config.json") in str(failure.value)
    assert "\n" not in str(failure.value)
