"""Where the training of a conditional prior begins: at random weights, or at those of another prior."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from attacker.priors.files import find_parts, read_network
from attacker.priors.noise_schedule import NoiseSchedule, read_schedule
from attacker.priors.prior import SHIPPED, load_prior
from fl_sim.config import ConfigError
from fl_sim.seeds import generator

DIFFUSION_STEPS = 1000


@dataclass(frozen=True)
class Start:
    """A network of 6 inputs (x_t, then the mean face), in float32, and what it is trained on."""

    unet: UNet2DModel
    schedule: NoiseSchedule
    scheduler: dict[str, Any]  # the scheduler_config.json that says so
    name: str  # of the prior whose weights these are; "" for random ones


def fresh(size: int, channels: tuple[int, ...], seed: int) -> Start:
    """Random weights for images of `size` pixels; `channels` of each resolution level, halving the side each time.

    Standard block types with one residual block a level, and self-attention at the lowest resolution alone, where
    `channels` ends in a multiple of 32. Linear betas as in Ho et al. 2020; v-prediction (Salimans and Ho 2022) learns
    faster at high noise.
    """
    levels = len(channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "prior-init").initial_seed())
        unet = UNet2DModel(
            sample_size=size,
            in_channels=6,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=channels,
            norm_num_groups=8,
            attention_head_dim=32,
            down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        )
    scheduler = DDPMScheduler(DIFFUSION_STEPS, beta_schedule="linear", prediction_type="v_prediction")
    schedule = NoiseSchedule(scheduler.alphas_cumprod, "v_prediction", learned_variance=False)
    return Start(unet, schedule, json.loads(scheduler.to_json_string()), "")


def of_prior(name: str, size: int) -> Start:
    """The weights, prediction type and schedule of the pixel prior `name` for images of `size` pixels.

    One without a condition gets weights of zero for the mean face: it begins by ignoring it. ConfigError for latent
    priors, for those of another size, and for what `load_prior` refuses.
    """
    prior = load_prior(name, size)
    if prior.latent:
        raise ConfigError(
            f"--start {name} is a latent prior; give one on pixels, or leave it out to train from nothing"
        )
    if prior.size != size:
        raise ConfigError(
            f"--start {name} is of {prior.size} px, dataset.image_size is {size}; give a prior of that size, or "
            f"-o dataset.image_size={prior.size}"
        )
    parts = find_parts(name, SHIPPED)
    config = json.loads((parts.scheduler / "scheduler_config.json").read_text(encoding="utf-8"))
    unet = read_network(UNet2DModel, parts.unet)  # the prior's own may be one that cannot be trained
    unet = unet if prior.conditional else _widened(unet)
    return Start(unet.train().requires_grad_(True), read_schedule(parts.scheduler), config, name)


def _widened(unet: Any) -> UNet2DModel:
    """The same network with 3 more inputs, which it ignores."""
    weights: dict[str, Tensor] = unet.state_dict()
    kernel = weights["conv_in.weight"]  # (c, 3, h, w)
    wide: UNet2DModel = UNet2DModel.from_config({**unet.config, "in_channels": 6})
    wide.load_state_dict({**weights, "conv_in.weight": torch.cat([kernel, torch.zeros_like(kernel)], dim=1)})
    return wide
