"""The prior: whatever the U-Net predicts, predict_x0 of an exact prediction is the image."""

import dataclasses
import itertools
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from priors import scheduler, unet, write_prior, write_vae
from torch import Tensor, nn

from attacker.priors.noise_schedule import PREDICTIONS
from attacker.priors.prior import Prior, load_prior, noise_levels, resize
from fl_sim.seeds import generator


class Oracle(nn.Module):
    """A U-Net that knows the image and so predicts exactly."""

    def __init__(self, x0: Tensor, abar: Tensor, prediction: str) -> None:
        super().__init__()
        self.x0, self.abar, self.prediction = x0, abar, prediction

    def forward(self, x_t: Tensor, t: Tensor) -> Any:
        abar = self.abar[t][:, None, None, None]
        noise = (x_t - abar.sqrt() * self.x0) / (1 - abar).sqrt()
        velocity = abar.sqrt() * noise - (1 - abar).sqrt() * self.x0
        return SimpleNamespace(sample={"epsilon": noise, "sample": self.x0, "v_prediction": velocity}[self.prediction])


def oracle(prediction: str, size: int = 8) -> tuple[Prior, Tensor]:
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    x0 = torch.rand(4, 3, size, size, generator=generator(0, "x0")) * 2 - 1
    return Prior(Oracle(x0, abar, prediction), abar, prediction, size, size, autocast=False), x0


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_an_exact_prediction_gives_the_image_back(prediction: str) -> None:
    prior, x0 = oracle(prediction)
    t = torch.tensor([0, 100, 500, 800])
    noise = torch.randn(x0.shape, generator=generator(0, "noise"))
    assert torch.allclose(prior.predict_x0(prior.add_noise(x0, noise, t), t), x0, atol=1e-3)
    assert prior.sds_gradient(x0, noise, t).abs().max() < 1e-3


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_sampling_with_an_exact_prediction_ends_at_the_image(prediction: str) -> None:
    prior, x0 = oracle(prediction)
    noise = torch.randn(x0.shape, generator=generator(0, "noise"))
    assert torch.allclose(prior.sample(noise, 10), x0, atol=1e-3)


def test_times_fall_to_zero_and_are_denser_there() -> None:
    times = noise_levels(1000, 12)
    assert (times[0], times[-1], len(times)) == (999, 0, 12)
    gaps = [one - other for one, other in itertools.pairwise(times)]
    assert gaps == sorted(gaps, reverse=True)
    assert noise_levels(4, 50) == [3, 2, 1, 0]


def test_noising_has_the_schedule_s_variance() -> None:
    prior, _ = oracle("epsilon", size=64)
    t = torch.full((4,), 500)
    noise = torch.randn(4, 3, 64, 64, generator=generator(0, "noise"))
    x_t = prior.add_noise(torch.zeros(4, 3, 64, 64), noise, t)
    assert float(x_t.var()) == pytest.approx(float(1 - prior.alphas_cumprod[500]), rel=0.05)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("nested", [True, False])
def test_folders_of_diffusers_load(tmp_path: Path, prediction: str, nested: bool) -> None:
    from diffusers import DDPMPipeline

    if nested:
        write_prior(tmp_path, noise=scheduler(prediction))
    else:
        DDPMPipeline(unet(), scheduler(prediction)).save_pretrained(tmp_path)
    prior = load_prior(str(tmp_path), 16)
    assert (prior.size, prior.steps, prior.prediction_type) == (16, 50, prediction)
    x = torch.randn(2, 3, 16, 16, generator=generator(0, "x"))
    t = torch.tensor([3, 40])
    assert prior.predict_x0(x, t).shape == x.shape
    assert torch.equal(prior.predict_x0(x, t), prior.predict_x0(x, t))


def test_half_precision_weights_become_single(tmp_path: Path) -> None:
    write_prior(tmp_path, unet().half())
    prior = load_prior(str(tmp_path), 16)
    assert {parameter.dtype for parameter in prior.unet.parameters()} == {torch.float32}


def test_an_attack_of_another_size_is_resized_inside(tmp_path: Path) -> None:
    write_prior(tmp_path)
    prior = load_prior(str(tmp_path), 32)
    x = torch.zeros(2, 3, 32, 32)
    noise = torch.randn(2, 3, 16, 16, generator=generator(0, "noise"))
    assert prior.sds_gradient(x, noise, torch.tensor([5, 5])).shape == x.shape
    assert prior.sample(noise, 3).shape == x.shape


def test_resizing_keeps_a_flat_image() -> None:
    flat = torch.full((1, 3, 64, 64), 0.3)
    assert torch.allclose(resize(flat, 16), torch.full((1, 3, 16, 16), 0.3), atol=1e-6)


def test_missing_weights_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="neither a folder nor a hub name"):
        load_prior("no-such-prior", 64)
    with pytest.raises(ValueError, match="neither a folder nor a hub name"):
        load_prior("~nobody-at-all", 64)
    with pytest.raises(ValueError, match="neither a folder nor a hub name"):
        load_prior(str(tmp_path / "absent"), 64)
    with pytest.raises(ValueError, match="cannot be loaded") as failure:
        load_prior(str(tmp_path), 64)
    assert "\n" not in str(failure.value)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", offline)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub client waits between its tries
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="check the name and the network") as failure:
        load_prior("nobody/no-such-prior", 64)
    assert "\n" not in str(failure.value)


def test_a_prior_of_grey_images_is_refused(tmp_path: Path) -> None:
    write_prior(tmp_path, unet(1))
    with pytest.raises(ValueError, match="must map 3 to 3"):
        load_prior(str(tmp_path), 16)


def test_a_sample_has_a_gradient_in_its_noise_only_where_one_is_asked_for(tmp_path: Path) -> None:
    write_prior(tmp_path)
    prior = dataclasses.replace(load_prior(str(tmp_path), 16), autocast=False)
    noise = torch.randn(2, 3, 16, 16, generator=generator(0, "noise"))
    free = noise.clone().requires_grad_(True)
    image = prior.sample(free, 3, differentiable=True)
    assert torch.allclose(image, prior.sample(noise, 3), atol=1e-6)
    assert not prior.sample(free, 3).requires_grad
    direction = torch.randn(image.shape, generator=generator(0, "direction"))
    (grad,) = torch.autograd.grad((image * direction).sum(), free)
    assert grad.abs().sum() > 0
    push = 1e-3 * grad / grad.norm()
    ahead, behind = (float((prior.sample(noise + sign * push, 3) * direction).sum()) for sign in (1, -1))
    assert ahead - behind == pytest.approx(2e-3 * float(grad.norm()), rel=0.05)


def test_pixel_priors_work_on_the_images_themselves(tmp_path: Path) -> None:
    write_prior(tmp_path)
    prior = load_prior(str(tmp_path), 16)
    images = torch.rand(2, 3, 16, 16, generator=generator(0, "images")) * 2 - 1
    assert (prior.latent, prior.channels) == (False, 3)
    assert torch.equal(prior.encode(images), images)
    assert torch.equal(prior.decode(images), images)


def test_latent_priors_work_on_codes_of_their_autoencoder(tmp_path: Path) -> None:
    write_prior(tmp_path, unet(4))
    write_vae(tmp_path / "vae", scaling_factor=0.5)
    prior = dataclasses.replace(load_prior(str(tmp_path), 64), autocast=False)
    assert (prior.latent, prior.channels, prior.size) == (True, 4, 16)
    images = torch.rand(2, 3, 64, 64, generator=generator(0, "images")) * 2 - 1
    code = prior.encode(images)
    assert code.shape == (2, 4, 16, 16)
    assert prior.autoencoder is not None
    vae = prior.autoencoder.network
    raw = vae.encode(resize(images, 32)).latent_dist.mean  # two pixels to a latent: 32 of them
    assert torch.allclose(code, 0.5 * raw, atol=1e-6)
    assert torch.allclose(prior.decode(code), resize(vae.decode(raw).sample, 64), atol=1e-5)

    t, noise = torch.tensor([5, 40]), torch.randn(code.shape, generator=generator(0, "noise"))
    for jacobian in (False, True):
        assert prior.sds_gradient(images, noise, t, jacobian).shape == images.shape
    seen = prior.decode(prior.predict_x0(prior.add_noise(code, noise, t), t))
    assert torch.allclose(prior.sds_gradient(images, noise, t), prior.decode(code) - seen, atol=1e-5)
    assert prior.sample(noise, 2).shape == images.shape
    free = code.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(prior.decode(free).square().sum(), free)
    assert grad.abs().sum() > 0
