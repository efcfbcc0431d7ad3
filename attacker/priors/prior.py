"""A diffusion prior over faces: a U-Net as diffusers writes it and its noise schedule, on pixels or on latents.

`load_prior(name, image_size, device)` takes the shipped prior (`synthetic64`), a folder written by
`save_pretrained` (of a DDPM pipeline, or of `unet/` and `scheduler/`), or a hub name such as
`google/ddpm-celebahq-256`. `Prior.predict_x0` turns whatever the U-Net predicts (noise, image or velocity)
into the denoised image, so that attacks never branch on it. A prior with an autoencoder is a latent one
(Rombach et al. 2022): the U-Net works on `encode(images)`, and `decode` leads back.

A conditional prior (concatenated channels, as SR3 of Saharia et al. 2021) has learnt p(photo | mean face): what a
person's photo may look like, given a blurred and damaged mean of others. Without a mean face it is a prior as any.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attacker.priors.autoencoder import Autoencoder, read_autoencoder
from attacker.priors.files import find_parts, read_config
from attacker.priors.noise_schedule import PREDICTIONS, NoiseSchedule, read_schedule
from attacker.priors.unet import read_unet
from fl_sim.config import ConfigError

SHIPPED = Path(__file__).parent / "weights"
MEAN_FACE = "mean face"  # `condition` in the training.json of a conditional prior


@dataclass(frozen=True)
class Prior:
    """q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I), and a network that undoes it (Ho et al. 2020)."""

    unet: nn.Module  # (n, c, S, S), (n,) -> object with .sample (n, c, S, S), or (n, 2 c, S, S) with a variance;
    # of a conditional prior, which works on pixels, it takes (n, 6, S, S), the mean face after x_t, zeros for none
    alphas_cumprod: Tensor  # (T,) abar_t, falling from about 1 to about 0
    prediction_type: str  # "epsilon", "sample" or "v_prediction"
    size: int  # S, the size that the U-Net was trained at, in its own pixels
    image_size: int  # pixels: the size that the attack works at; resized and back inside
    autocast: bool  # bfloat16 arithmetic inside the networks
    autoencoder: Autoencoder | None = None  # if the U-Net works on its codes instead of pixels
    conditional: bool = False  # on a mean face

    @property
    def steps(self) -> int:
        """T, the number of diffusion steps; t is in [0, T)."""
        return len(self.alphas_cumprod)

    @property
    def latent(self) -> bool:
        """Whether the U-Net works on latents."""
        return self.autoencoder is not None

    @property
    def channels(self) -> int:
        """c, of what the U-Net works on: 3, or those of the latents."""
        return self.autoencoder.channels if self.autoencoder is not None else 3

    def encode(self, images: Tensor) -> Tensor:
        """What the U-Net works on (n, c, S, S), for images (n, 3, image_size, image_size) in [-1, 1].

        Of a pixel prior the images themselves, at S pixels; of a latent one the mean latents, of about unit
        variance. Differentiable.
        """
        if self.autoencoder is None:
            return resize(images, self.size)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            return self.autoencoder.encode(resize(images, self.size * self.autoencoder.factor))

    def decode(self, code: Tensor) -> Tensor:
        """Images (n, 3, image_size, image_size), in about [-1, 1], of a code (n, c, S, S). Differentiable."""
        if self.autoencoder is None:
            return resize(code, self.image_size)
        with torch.autocast(code.device.type, torch.bfloat16, enabled=self.autocast):
            images = self.autoencoder.decode(code)
        return resize(images, self.image_size)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (n, c, H, W) = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, for t (n,) int64."""
        signal, sigma = self._scales(t)
        return signal * x0 + sigma * noise

    def predict_x0(
        self, x_t: Tensor, t: Tensor, differentiable: bool = False, condition: Tensor | None = None
    ) -> Tensor:
        """What the U-Net sees in x_t (n, c, H, W), t (n,) int64, without the noise: (n, c, H, W), pixels in [-1, 1].

        Of a latent prior it is a latent, of no fixed range. Gradients flow through the U-Net only if `differentiable`.
        The `condition` (n, c, H, W) of a conditional prior is the mean face, as `encode` gives it.
        """
        return self._x0(self.prediction_type, x_t, self._predict(x_t, t, differentiable, condition), t)

    def readings(self, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        """What `predict_x0` is if the U-Net predicts what its scheduler says, and what it is if it predicts another."""
        prediction = self._predict(x_t, t, False)
        return {kind: self._x0(kind, x_t, prediction, t) for kind in PREDICTIONS}

    def sds_gradient(self, x: Tensor, noise: Tensor, t: Tensor, jacobian: bool = False) -> Tensor:
        """x - x0, in images (n, 3, H, W), of the x0 predicted from x_t: the gradient of score distillation (SDS).

        Up to a factor of t alone it is that of the denoising loss || eps - eps_phi(x_t, t) ||^2 (Graikos et al. 2022),
        without the Jacobian of the U-Net; with `jacobian` it is the gradient of half of || x - x0 ||^2. A latent prior
        looks at the code of x, and its answer is decoded; x itself is then taken as the autoencoder shows it, whose
        blur is not the prior's wish. `x` (n, 3, H, W) in [-1, 1] at the attack's size; `noise` (n, c, S, S).
        """
        if jacobian:
            with torch.enable_grad():
                image = x.detach().requires_grad_(True)
                error = self._disagreement(image, noise, t, True).square().sum() / 2
                return torch.autograd.grad(error, image)[0]
        with torch.no_grad():
            return self._disagreement(x, noise, t, False)

    def _disagreement(self, x: Tensor, noise: Tensor, t: Tensor, differentiable: bool) -> Tensor:
        code = self.encode(x)
        seen = self.decode(self.predict_x0(self.add_noise(code, noise, t), t, differentiable))
        return (self.decode(code) if self.latent else x) - seen

    def sample(
        self, noise: Tensor, steps: int, differentiable: bool = False, condition: Tensor | None = None
    ) -> Tensor:
        """Images (n, 3, image_size, image_size) in [-1, 1] drawn by `steps` DDIM steps (Song et al. 2021, eta = 0).

        `noise` (n, c, S, S) standard normal decides the image. Gradients flow back to it only if `differentiable`;
        each step is then computed again in the backward pass, so that memory does not grow with the steps.
        `condition` is that of `predict_x0`.
        """
        if steps < 1:
            raise ValueError(f"{steps} steps given; a sample takes at least 1")
        times = noise_levels(self.steps, steps)

        def seen(x_t: Tensor, t: int) -> Tensor:
            now = torch.full((len(x_t),), t, device=x_t.device)
            if not differentiable:
                return self.predict_x0(x_t, now, condition=condition)
            x0: Tensor = checkpoint(self.predict_x0, x_t, now, True, condition, use_reentrant=False)
            return x0

        x = noise
        for t, following in pairwise(times):
            now, then = (torch.full((len(x),), time, device=x.device) for time in (t, following))
            x = self.step(x, seen(x, t), now, then)
        x0 = seen(x, times[-1])
        with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
            return self.decode(x0).clamp(-1, 1)

    def step(self, x_t: Tensor, x0: Tensor, t: Tensor, following: Tensor) -> Tensor:
        """x (n, c, H, W) at an earlier time than t, given the x0 seen in x_t: DDIM, eta = 0 (Song et al. 2021).

        Both times are (n,) int64.
        """
        signal, sigma = self._scales(t)
        return self.add_noise(x0, (x_t - signal * x0) / sigma.clamp_min(1e-6), following)

    def _scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod[t][:, None, None, None]  # (n, 1, 1, 1)
        return abar.sqrt(), (1 - abar).sqrt()

    def _predict(self, x_t: Tensor, t: Tensor, differentiable: bool, condition: Tensor | None = None) -> Tensor:
        channels = x_t.shape[1]
        if self.conditional:
            x_t = torch.cat([x_t, torch.zeros_like(x_t) if condition is None else condition], dim=1)
        with (
            torch.set_grad_enabled(differentiable and torch.is_grad_enabled()),
            torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.autocast),
        ):
            prediction: Tensor = self.unet(x_t.contiguous(memory_format=torch.channels_last), t).sample
        return prediction[:, :channels].float()

    def _x0(self, kind: str, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        signal, sigma = self._scales(t)
        if kind == "sample":
            x0 = prediction
        elif kind == "v_prediction":  # v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans & Ho 2022)
            x0 = signal * x_t - sigma * prediction
        else:
            x0 = (x_t - sigma * prediction) / signal
        return x0 if self.latent else x0.clamp(-1, 1)


def noise_levels(total: int, steps: int) -> list[int]:
    """Times to visit, falling from `total` - 1 to 0: `steps` at most, denser towards 0, where details are drawn.

    Quadratic, as in Song et al. 2021 (DDIM), appendix D.2.
    """
    if steps >= total:
        return list(range(total - 1, -1, -1))
    return sorted(set((torch.linspace(1, 0, steps).square() * (total - 1)).round().long().tolist()), reverse=True)


def resize(images: Tensor, size: int) -> Tensor:
    """Images (n, c, H, W) at `size` pixels, antialiased; unchanged if they have that size."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


def load_prior(name: str, image_size: int, device: torch.device | str = "cpu") -> Prior:
    """The prior `name`, for attacks at `image_size` pixels, in float32 on `device`.

    Raises ConfigError, in one sentence, where files are missing, do not fit together or are of no such prior.
    """
    parts = find_parts(name, SHIPPED)
    schedule, path = read_schedule(parts.scheduler), parts.unet / "config.json"
    config = read_config(path)
    size = _checked_size(path, config, schedule)
    autoencoder = read_autoencoder(parts)
    parts.fetch(parts.unet)
    unet: Any = read_unet(parts.unet, config)
    conditional = is_conditional(parts.unet)
    _check_channels(path, unet, schedule, autoencoder, conditional)
    return Prior(
        unet=unet.to(device, memory_format=torch.channels_last),
        alphas_cumprod=schedule.alphas_cumprod.to(device),
        prediction_type=schedule.prediction_type,
        size=size,
        image_size=image_size,
        autocast=fast_bfloat16(torch.device(device)),
        autoencoder=None if autoencoder is None else autoencoder.to(device),
        conditional=conditional,
    )


def _checked_size(path: Path, config: dict[str, Any], schedule: NoiseSchedule) -> int:
    """The size S of a U-Net, by its config at `path`. ConfigError for a network that is no function of (x_t, t)."""
    kind = config["_class_name"]
    if kind == "UNet2DConditionModel":
        raise ConfigError(f"{path} is of {kind}, which needs a text or another condition; a prior is a UNet2DModel")
    if kind != "UNet2DModel":
        raise ConfigError(f"{path} is of {kind}; a prior is a UNet2DModel")
    for key in ("num_class_embeds", "class_embed_type"):
        if config.get(key) is not None:
            raise ConfigError(
                f"{path} is of a class-conditional network ({key} = {config[key]}), and diffusers does not say which "
                "class stands for none; give an unconditional prior"
            )
    if config.get("center_input_sample"):
        raise ConfigError(f"{path} says center_input_sample, so of images in [0, 1]; a prior is of images in [-1, 1]")
    if config.get("time_embedding_type") == "fourier":
        raise ConfigError(f"{path} says time_embedding_type = fourier, of a score network; a prior counts steps")
    learned = config.get("num_train_timesteps") if config.get("time_embedding_type") == "learned" else None
    if isinstance(learned, int) and learned < len(schedule.alphas_cumprod):
        raise ConfigError(
            f"{path} knows {learned} steps, its scheduler {len(schedule.alphas_cumprod)}; give those of one training"
        )
    widths = config.get("block_out_channels")
    return _square(path, config.get("sample_size"), len(widths) if isinstance(widths, list) else 1)


def is_conditional(unet: Path) -> bool:
    """Whether `training.json` beside the folder `unet` says that the network learnt to draw photos of mean faces.

    Its channels alone would not tell: other networks of so many draw what nobody here knows.
    """
    try:
        facts = json.loads((unet.parent / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("condition") == MEAN_FACE


def _square(path: Path, given: Any, levels: int) -> int:
    """The one side of `sample_size`, an int or a pair; each of `levels` resolutions but the last halves it."""
    sides = given if isinstance(given, list) else [given, given]
    size = sides[0] if len(sides) == 2 and sides[0] == sides[1] else None
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigError(
            f"{path} says sample_size = {json.dumps(given)}; only square images can be read, so give the side of those "
            "of training, in pixels or codes"
        )
    if size % 2 ** (levels - 1):
        raise ConfigError(
            f"{path} says sample_size = {size}, which {levels} levels cannot halve {levels - 1} times; mend it"
        )
    return size


def _check_channels(
    path: Path, unet: Any, schedule: NoiseSchedule, autoencoder: Autoencoder | None, conditional: bool
) -> None:
    given = unet.conv_in.in_channels, unet.conv_out.out_channels
    wanted = 3 if autoencoder is None else autoencoder.channels
    if conditional and autoencoder is not None:
        raise ConfigError(f"{path} is of a conditional prior on codes; give one on pixels, as fl-sim train-prior makes")
    inputs = 2 * wanted if conditional else wanted
    outputs = 2 * wanted if schedule.learned_variance else wanted
    if given != (inputs, outputs):
        space = "pixels" if autoencoder is None else "the codes of its autoencoder"
        known = "" if conditional else '; 6 inputs only where training.json says "condition": "mean face"'
        raise ConfigError(
            f"{path} maps {given[0]} to {given[1]} channels; for {space} it must map {inputs} to {outputs}{known}"
        )


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 pays: on GPUs, and on CPUs with its instructions (1.7 times faster at one thread)."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type == "cuda"
