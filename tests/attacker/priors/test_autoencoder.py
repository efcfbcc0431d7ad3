"""The codes of a latent prior are normalised as in training, whichever autoencoder made them."""

from pathlib import Path

import pytest
import torch
from priors import edit, unet, write_prior, write_vae, write_vqvae
from torch import Tensor

from attacker.priors.autoencoder import Autoencoder, read_autoencoder
from attacker.priors.files import find_parts
from attacker.priors.prior import load_prior
from fl_sim.config import ConfigError
from fl_sim.seeds import generator


def read(folder: Path) -> Autoencoder:
    found = read_autoencoder(find_parts(str(folder), Path()))
    assert found is not None
    return found


def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=generator(0, "images")) * 2 - 1


def test_shift_and_scale_are_those_of_stable_diffusion_3(tmp_path: Path) -> None:
    write_vae(tmp_path / "vae", scaling_factor=1.5, shift_factor=0.25)
    coder = read(tmp_path)
    raw = coder.network.encode(images()).latent_dist.mean
    assert torch.allclose(coder.encode(images()), (raw - 0.25) * 1.5, atol=1e-6)
    assert torch.allclose(coder.decode(coder.encode(images())), coder.network.decode(raw).sample, atol=1e-5)


def test_means_and_deviations_of_each_channel_are_those_of_sdxl(tmp_path: Path) -> None:
    mean, deviation = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    write_vae(tmp_path / "vae", scaling_factor=0.5, latents_mean=mean, latents_std=deviation)
    coder = read(tmp_path)
    raw = coder.network.encode(images()).latent_dist.mean
    per_channel = [torch.tensor(one)[None, :, None, None] for one in (mean, deviation)]
    assert torch.allclose(coder.encode(images()), (raw - per_channel[0]) * 0.5 / per_channel[1], atol=1e-6)
    assert torch.allclose(coder.decode(coder.encode(images())), coder.network.decode(raw).sample, atol=1e-5)


def test_codes_of_a_vq_model_are_scaled_as_the_pipeline_scales_them_and_quantised_when_decoded(tmp_path: Path) -> None:
    write_prior(tmp_path, unet(3))
    write_vqvae(tmp_path / "vqvae", scaling_factor=0.5)
    prior = load_prior(str(tmp_path), 32)
    assert prior.autoencoder is not None
    assert (prior.latent, prior.channels, prior.size) == (True, 3, 16)
    raw = prior.autoencoder.network.encode(images()).latents
    code = prior.autoencoder.encode(images())
    assert torch.allclose(code, 0.5 * raw, atol=1e-6)
    assert torch.allclose(prior.autoencoder.decode(code), prior.autoencoder.network.decode(raw).sample, atol=1e-5)
    free = code.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(prior.decode(free).square().sum(), free)
    assert grad.abs().sum() > 0


def test_a_vq_model_must_say_its_scale(tmp_path: Path) -> None:
    write_vqvae(tmp_path / "vqvae")
    edit(tmp_path / "vqvae" / "config.json", remove="scaling_factor")
    with pytest.raises(ConfigError, match=r"does not say scaling_factor; add it, 1.0 if"):
        read(tmp_path)


def test_an_autoencoder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_prior(tmp_path)
    write_vae(tmp_path / "vae")
    with pytest.raises(ConfigError, match="for the codes of its autoencoder it must map 4 to 4"):
        load_prior(str(tmp_path), 16)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"_class_name": "AutoencoderTiny"}, "is of AutoencoderTiny; only the codes of AutoencoderKL and VQModel"),
        ({"latent_channels": 8}, "of another shape"),
        ({"in_channels": 1, "out_channels": 1}, "of another shape"),
        ({"shift_factor": 0.1, "latents_mean": [0.0] * 4}, "shift_factor and latents_mean; remove"),
        ({"scaling_factor": 0}, "must be finite, the former positive"),
        ({"scaling_factor": "much"}, "does not give numbers"),
        ({"latents_std": [1.0, 2.0]}, "one mean and deviation, or 4"),
    ],
)
def test_what_cannot_be_read_of_it_is_said_in_a_sentence(tmp_path: Path, values: dict[str, object], says: str) -> None:
    write_vae(tmp_path / "vae")
    edit(tmp_path / "vae" / "config.json", **values)
    with pytest.raises(ConfigError, match=says) as failure:
        read(tmp_path)
    assert "\n" not in str(failure.value)


def test_an_autoencoder_of_grey_images_is_refused(tmp_path: Path) -> None:
    write_vae(tmp_path / "vae", in_channels=1, out_channels=1)
    with pytest.raises(ConfigError, match="images of 1 channels; give an autoencoder of RGB images"):
        read(tmp_path)
