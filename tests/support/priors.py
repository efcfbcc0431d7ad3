"""Tiny priors in folders, as diffusers itself writes them."""

import json
from pathlib import Path
from typing import Any

import torch

BLOCKS = {"block_out_channels": (8, 8), "norm_num_groups": 4}


def seeded(build: Any, **settings: Any) -> Any:
    """`build(**settings)` with weights that are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(**settings)


def unet(channels: int = 3, **settings: Any) -> Any:
    """A tiny UNet2DModel at 16 pixels."""
    from diffusers import UNet2DModel

    given = {
        "sample_size": 16,
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        **BLOCKS,
        **settings,
    }
    return seeded(UNet2DModel, **given)


def scheduler(prediction: str = "epsilon", **settings: Any) -> Any:
    """A DDPMScheduler of 50 steps that end in noise."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(**{"num_train_timesteps": 50, "beta_end": 0.4, "prediction_type": prediction, **settings})


def write_prior(folder: Path, network: Any = None, noise: Any = None) -> None:
    """`unet/` and `scheduler/` of a prior."""
    (network or unet()).save_pretrained(folder / "unet")
    (noise or scheduler()).save_pretrained(folder / "scheduler")


def write_vae(folder: Path, latent_channels: int = 4, **settings: Any) -> None:
    """A tiny AutoencoderKL, two pixels to a code along each side."""
    from diffusers import AutoencoderKL

    seeded(AutoencoderKL, latent_channels=latent_channels, **_coder(), **settings).save_pretrained(folder)


def write_vqvae(folder: Path, latent_channels: int = 3, **settings: Any) -> None:
    """A tiny VQModel, likewise."""
    from diffusers import VQModel

    seeded(VQModel, latent_channels=latent_channels, **_coder(), **settings).save_pretrained(folder)


def edit(path: Path, remove: str | None = None, **values: Any) -> None:
    """Change keys of a JSON file."""
    config = {**json.loads(path.read_text()), **values}
    config.pop(remove, None)
    path.write_text(json.dumps(config))


def _coder() -> dict[str, Any]:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        **BLOCKS,
    }
