"""A diffusion prior over faces: a diffusers UNet2DModel and its noise schedule, on pixels or on latents.

`load_prior(name, image_size, device)` takes the shipped prior (`synthetic64`), a folder written by
`save_pretrained` (of a DDPM pipeline, or of `unet/` and `scheduler/`), or a hub name such as
`google/ddpm-celebahq-256`. `Prior.x0_hat` turns whatever the U-Net predicts (noise, image or velocity)
into the denoised image, so that attacks never branch on it. A folder with `vae/` (an AutoencoderKL) beside
`unet/` is a latent prior (Rombach et al. 2022): the U-Net works on `encode(images)`, and `decode` leads back.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fl_sim.tensors import check

SHIPPED = Path(__file__).parent / "weights"
PREDICTIONS = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True)
class Prior:
    """q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I), and a network that undoes it (Ho et al. 2020)."""

    unet: nn.Module  # (n, c, S, S), (n,) -> object with .sample (n, c, S, S)
    alphas_cumprod: Tensor  # (T,) abar_t, falling from about 1 to about 0
    prediction_type: str  # "epsilon", "sample" or "v_prediction"
    size: int  # S, the size that the U-Net was trained at, in its own pixels
    image_size: int  # pixels: the size that the attack works at; resized and back inside
    autocast: bool  # bfloat16 arithmetic inside the networks
    vae: Any = None  # AutoencoderKL, if the U-Net works on its latents instead of pixels

    @property
    def steps(self) -> int:
        """T, the number of diffusion steps; t is in [0, T)."""
        return len(self.alphas_cumprod)

    @property
    def latent(self) -> bool:
        """Whether the U-Net works on latents."""
        return self.vae is not None

    @property
    def channels(self) -> int:
        """c, of what the U-Net works on: 3, or those of the latents."""
        return int(self.vae.config.latent_channels) if self.latent else 3

    def encode(self, images: Tensor) -> Tensor:
        """What the U-Net works on (n, c, S, S), for images (n, 3, image_size, image_size) in [-1, 1].

        Of a pixel prior the images themselves, at S pixels; of a latent one the mean latents, of about unit
        variance. Differentiable.
        """
        if not self.latent:
            return resize(images, self.size)
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)  # pixels of the autoencoder to a latent
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            code: Tensor = self.vae.encode(resize(images, self.size * factor)).latent_dist.mean
        return code.float() * float(self.vae.config.scaling_factor)

    def decode(self, code: Tensor) -> Tensor:
        """Images (n, 3, image_size, image_size), in about [-1, 1], of a code (n, c, S, S). Differentiable."""
        if not self.latent:
            return resize(code, self.image_size)
        with torch.autocast(code.device.type, torch.bfloat16, enabled=self.autocast):
            images = self.vae.decode(code / float(self.vae.config.scaling_factor)).sample
        return resize(images.float(), self.image_size)

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (n, c, H, W) = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, for t (n,) int64."""
        signal, sigma = self._scales(t)
        return signal * x0 + sigma * noise

    def x0_hat(self, x_t: Tensor, t: Tensor, differentiable: bool = False) -> Tensor:
        """What the U-Net sees in x_t (n, c, H, W), t (n,) int64, without the noise: (n, c, H, W), pixels in [-1, 1].

        Of a latent prior it is a latent, of no fixed range. Any H, W that equals `image_size` for images of the
        attack. Gradients flow through the U-Net only if `differentiable`.
        """
        with (
            torch.set_grad_enabled(differentiable and torch.is_grad_enabled()),
            torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.autocast),
        ):
            prediction = self.unet(x_t.contiguous(memory_format=torch.channels_last), t).sample
        x0 = self._x0(x_t, prediction.float(), t)
        return x0 if self.latent else x0.clamp(-1, 1)

    def residual(self, x: Tensor, noise: Tensor, t: Tensor, jacobian: bool = False) -> Tensor:
        """x - x0_hat(x_t, t), in images (n, 3, H, W): where the prior wants less of x; the plug-and-play gradient.

        It is the gradient of the denoising loss || eps - eps_phi(x_t, t) ||^2 of Graikos et al. 2022 up to
        a factor that depends on t alone, with the Jacobian of the U-Net left out (as in score distillation) unless
        `jacobian`; then it is the gradient of half of || x - x0_hat ||^2. A latent prior looks at the code of x, and
        its answer is decoded; x itself is then taken as the autoencoder shows it, whose blur is not the prior's wish.
        `x` (n, 3, H, W) in [-1, 1] at the attack's size; `noise` (n, c, S, S).
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
        seen = self.decode(self.x0_hat(self.noised(code, noise, t), t, differentiable))
        return (self.decode(code) if self.latent else x) - seen

    def denoised(self, x: Tensor, t: Tensor) -> Tensor:
        """Images (n, 3, H, W) in [-1, 1] without the noise that they have themselves: that of step t (n,) int64.

        x, or its code, is taken for x_0 + noise of variance (1 - abar_t) / abar_t; nothing is added.
        """
        with torch.no_grad():
            code = self.encode(x)
            clean = self.x0_hat(code * self._scales(t)[0], t)
            return self.decode(clean) if self.latent else x + resize(clean - code, x.shape[-1])

    def sample(self, noise: Tensor, steps: int, differentiable: bool = False) -> Tensor:
        """Images (n, 3, image_size, image_size) in [-1, 1] drawn by `steps` DDIM steps (Song et al. 2021, eta = 0).

        `noise` (n, c, S, S) standard normal decides the image. Gradients flow back to it only if `differentiable`;
        each step is then computed again in the backward pass, so that memory does not grow with the steps.
        """
        times = torch.linspace(self.steps - 1, 0, steps).round().long().tolist()
        x = noise
        for t, following in zip(times, [*times[1:], None], strict=True):
            now = torch.full((len(x),), t, device=x.device)
            x0 = checkpoint(self.x0_hat, x, now, True, use_reentrant=False) if differentiable else self.x0_hat(x, now)
            if following is None:
                with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
                    return self.decode(x0).clamp(-1, 1)
            signal, sigma = self._scales(now)
            x = self.noised(x0, (x - signal * x0) / sigma, torch.full_like(now, following))
        raise ValueError("a sample takes at least 1 step")

    def _scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod[t][:, None, None, None]  # (n, 1, 1, 1)
        return abar.sqrt(), (1 - abar).sqrt()

    def _x0(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        signal, sigma = self._scales(t)
        if self.prediction_type == "sample":
            return prediction
        if self.prediction_type == "v_prediction":  # v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans & Ho 2022)
            return signal * x_t - sigma * prediction
        return (x_t - sigma * prediction) / signal


def resize(images: Tensor, size: int) -> Tensor:
    """Images (n, c, H, W) at `size` pixels, antialiased; unchanged if they have that size."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


def load_prior(name: str, image_size: int, device: torch.device | str = "cpu") -> Prior:
    """The prior `name`, for attacks at `image_size` pixels, in float32 on `device`.

    Raises ValueError, in one sentence, where weights are missing or are no such prior.
    """
    folder = SHIPPED / name if (SHIPPED / name).is_dir() else Path(name).expanduser()
    local = folder.is_dir()
    if not local and (name.startswith(("/", ".", "~")) or name.count("/") != 1):
        shipped = sorted(path.name for path in SHIPPED.glob("*") if path.is_dir())
        raise ValueError(
            f"prior {name!r} is neither a folder nor a hub name; give a diffusers folder (fl-sim train-prior writes "
            f"one), a hub name such as google/ddpm-celebahq-256, or a shipped prior ({', '.join(shipped) or 'none'})"
        )
    unet, scheduler = _read(str(folder) if local else name, local)
    vae = _read_vae(folder / "vae")
    prediction, channels = scheduler.config.prediction_type, (unet.config.in_channels, unet.config.out_channels)
    if prediction not in PREDICTIONS:
        raise ValueError(f"prior {name!r} predicts {prediction!r}; only {', '.join(PREDICTIONS)} can be read")
    wanted = 3 if vae is None else vae.config.latent_channels
    if channels != (wanted, wanted):
        space = "pixels" if vae is None else "the latents of its vae/"
        raise ValueError(
            f"prior {name!r} maps {channels[0]} to {channels[1]} channels; for {space} it must map {wanted} to {wanted}"
        )
    size = unet.config.sample_size or image_size
    if vae is not None:
        vae = vae.float().eval().requires_grad_(False).to(device)
    return Prior(
        unet=unet.float().eval().requires_grad_(False).to(device, memory_format=torch.channels_last),
        alphas_cumprod=scheduler.alphas_cumprod.to(device),
        prediction_type=prediction,
        size=size if isinstance(size, int) else size[0],
        image_size=image_size,
        autocast=fast_bfloat16(torch.device(device)),
        vae=vae,
    )


def _read_vae(folder: Path) -> Any:
    """The AutoencoderKL in `folder`, None if there is no such folder; ValueError in one sentence where that fails."""
    if not folder.is_dir():
        return None
    from diffusers import AutoencoderKL

    try:
        return AutoencoderKL.from_pretrained(str(folder), low_cpu_mem_usage=False, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{folder} is no AutoencoderKL ({reason}); save one there, or remove the folder") from error


def _read(source: str, local: bool) -> Any:
    """The UNet2DModel and DDPMScheduler of `source`; ValueError in one sentence where that fails."""
    from diffusers import DDPMScheduler, UNet2DModel

    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it advertises `accelerate` at each load
    unet_below, scheduler_below = {"subfolder": "unet"}, {"subfolder": "scheduler"}
    # A folder says by itself which of the two layouts it has; of a hub name, try the pipeline's first.
    flat = local and not (Path(source) / "unet").is_dir()
    layouts = [({}, {})] if flat else [(unet_below, scheduler_below)] + ([] if local else [({}, {})])
    reason = ""
    for unet_at, scheduler_at in layouts:
        try:
            weights = Path(source, unet_at.get("subfolder", ""), "diffusion_pytorch_model.safetensors")
            if local and weights.is_file():
                check(weights)  # diffusers would not say which file is cut off, nor notice other damage
            unet = UNet2DModel.from_pretrained(source, low_cpu_mem_usage=False, local_files_only=local, **unet_at)
            return unet, DDPMScheduler.from_pretrained(source, local_files_only=local, **scheduler_at)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
    remedy = (
        "it must hold unet/ and scheduler/ as save_pretrained writes them"
        if local
        else "check the name and the network, or give a folder"
    )
    raise ValueError(f"prior {source!r} cannot be loaded ({reason}); {remedy}")


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 pays: on GPUs, and on CPUs with its instructions (1.7 times faster at one thread)."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type == "cuda"
