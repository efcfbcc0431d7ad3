"""The latent search ends in samples of the prior that match better than the one it began with."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from attacker.attack import Attacker
from attacker.attacks import generative_latent
from attacker.attacks.generative_latent import Settings, on_sphere
from attacker.observation import Observation, Reconstruction
from attacker.priors.prior import Prior, load_prior
from clients.local_training import local_gradient
from clients.user import Faces
from fl_sim.config import ConfigError
from fl_sim.models import build
from fl_sim.seeds import generator

SIZE = 16


class Draws(torch.nn.Module):
    """Stands for a U-Net that draws smooth images: blurs what it sees."""

    def forward(self, x: Tensor, t: Tensor) -> object:
        class Output:
            sample = 3 * torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2)

        return Output()


def prior() -> Prior:
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    return Prior(Draws(), abar, "sample", SIZE, SIZE, autocast=False)


def attacked(space: Prior | None, **settings: float) -> Reconstruction:
    """The attack on three photos, drawn by the prior, of two labels."""
    model = build("convnet", 2, SIZE, generator(0, "model"))
    drawn = prior().sample(torch.randn(1, 3, SIZE, SIZE, generator=generator(0, "truth")), 2)
    faces = Faces(((drawn + 1) / 2).expand(3, -1, -1, -1), torch.tensor([0, 0, 1]), {})
    seen = Observation(1, 0, dict(model.state_dict()), local_gradient(model, faces), 3, None)
    attacker = Attacker(model, SIZE, 2, space, torch.device("cpu"))
    (found,) = generative_latent.attack(
        [seen], attacker, Settings(sampler_steps=2, **settings), [generator(1, "attack")], lambda done, total: None
    )
    return found


def test_more_steps_match_better_with_one_image_a_label() -> None:
    short, long = (attacked(prior(), steps=steps) for steps in (1, 30))
    assert long.matching_loss < 0.5 * short.matching_loss
    assert long.weights.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_the_noise_stays_on_the_sphere_of_gaussian_noise() -> None:
    z = on_sphere(torch.randn(5, 3, SIZE, SIZE, generator=generator(0, "z")) * 7)
    assert torch.allclose(z.square().mean((1, 2, 3)), torch.ones(5), atol=1e-4)


def test_it_needs_a_prior() -> None:
    with pytest.raises(ConfigError, match="was given no prior; name one in its settings"):
        attacked(None)


def test_it_searches_the_latents_of_an_autoencoder_too(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = {"block_out_channels": (8, 8), "norm_num_groups": 4}
        down, up = ("DownBlock2D",) * 2, ("UpBlock2D",) * 2
        unet = UNet2DModel(8, 4, 4, down_block_types=down, up_block_types=up, layers_per_block=1, **blocks)
        down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
        vae = AutoencoderKL(down_block_types=down, up_block_types=up, latent_channels=4, **blocks)
    unet.save_pretrained(tmp_path / "unet")
    vae.save_pretrained(tmp_path / "vae")
    DDPMScheduler(50, beta_end=0.4).save_pretrained(tmp_path / "scheduler")
    found = attacked(load_prior(str(tmp_path), SIZE), steps=2)
    assert found.images.shape == (2, 3, SIZE, SIZE)
    assert float(found.images.std()) > 0
