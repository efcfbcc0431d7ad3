"""The autoencoder of a latent prior (Rombach et al. 2022): images to codes of about unit variance, and back.

Read are diffusers' AutoencoderKL and VQModel. What the prior's network works on is

    code = (encode(image) - shift) * scale,

the mean of the posterior of an AutoencoderKL, and what a VQModel gives before it is quantised (its decoder quantises).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacker.priors.files import Parts, read_config, read_network
from fl_sim.config import ConfigError

READABLE = ("AutoencoderKL", "VQModel")


@dataclass(frozen=True)
class Autoencoder:
    """A network with `encode` and `decode`, and how its codes are normalised."""

    network: Any  # AutoencoderKL or VQModel
    shift: Tensor  # (1, c or 1, 1, 1)
    scale: Tensor  # (1, c or 1, 1, 1)
    channels: int  # c, of a code
    factor: int  # pixels to a code along each side

    def encode(self, images: Tensor) -> Tensor:
        """Codes (n, c, H, W) float32 of images (n, 3, H factor, W factor) in [-1, 1]. Differentiable."""
        seen = self.network.encode(images)
        code: Tensor = seen.latent_dist.mean if hasattr(seen, "latent_dist") else seen.latents
        return (code.float() - self.shift) * self.scale

    def decode(self, code: Tensor) -> Tensor:
        """Images (n, 3, H factor, W factor) float32, in about [-1, 1], of codes (n, c, H, W). Differentiable."""
        images: Tensor = self.network.decode(code / self.scale + self.shift).sample
        return images.float()

    def to(self, device: torch.device | str) -> "Autoencoder":
        network: nn.Module = self.network.to(device)
        return Autoencoder(network, self.shift.to(device), self.scale.to(device), self.channels, self.factor)


def read_autoencoder(parts: Parts) -> Autoencoder | None:
    """The autoencoder of a prior, None for one of pixels. Raises ConfigError for one that cannot be read."""
    if parts.autoencoder is None:
        return None
    import diffusers

    path = parts.autoencoder / "config.json"
    kind = read_config(path)["_class_name"]
    if kind not in READABLE:
        raise ConfigError(f"{path} is of {kind}; only the codes of {' and '.join(READABLE)} can be read")
    if kind == "VQModel" and "scaling_factor" not in read_config(path):
        # The class has Stable Diffusion's 0.18215 for a default; older files, and their codes, know no factor.
        raise ConfigError(f"{path} does not say scaling_factor; add it, 1.0 if the codes were not scaled in training")
    parts.fetch(parts.autoencoder)
    network = read_network(getattr(diffusers, kind), parts.autoencoder)
    config = network.config
    if (config.in_channels, config.out_channels) != (3, 3):
        raise ConfigError(f"{path} is of images of {config.in_channels} channels; give an autoencoder of RGB images")
    channels = (config.vq_embed_dim if kind == "VQModel" else None) or config.latent_channels
    shift, scale = _normalisation(path, config, channels)
    return Autoencoder(network, shift, scale, channels, 2 ** (len(config.block_out_channels) - 1))


def _normalisation(path: Path, config: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Shift and scale, (1, c or 1, 1, 1) each, as the pipelines of Stable Diffusion 1, XL and 3 apply them."""
    shift, means = config.get("shift_factor"), config.get("latents_mean")
    if shift is not None and means is not None:
        raise ConfigError(f"{path} says shift_factor and latents_mean; remove the one that training did not use")
    try:
        shifts = torch.tensor(means if means is not None else [shift or 0.0], dtype=torch.float32)
        deviations = torch.tensor(config.get("latents_std") or [1.0], dtype=torch.float32)
        scales = float(config.scaling_factor) / deviations
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not give numbers for shift and scale ({error}); mend it") from error
    if any(part.shape not in ((1,), (channels,)) for part in (shifts, scales)):
        raise ConfigError(f"{path} must give one mean and deviation, or {channels}, of its codes; mend it")
    if not (shifts.isfinite().all() and scales.isfinite().all() and (scales > 0).all()):
        raise ConfigError(f"the scaling_factor and shift of {path} must be finite, the former positive; mend it")
    return shifts[None, :, None, None], scales[None, :, None, None]
