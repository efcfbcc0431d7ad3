"""Train a diffusion prior: a diffusers UNet2DModel on faces of people who are not victims.

    fl-sim train-prior --out priors/mine -o dataset.name=folder -o dataset.root=FACES --steps 20000

The result is a diffusers folder (`unet/`, `scheduler/`, fp16 safetensors) with `samples.png`, `loss.png`
and `training.json`. A stopped training goes on from its checkpoint when the command is given again.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.utils import save_image

from fl_sim.models import normalise
from fl_sim.seeds import generator

DIFFUSION_STEPS = 1000


@dataclass(frozen=True)
class Settings:
    """How a prior is trained. The defaults suit 64 px and an hour or two of one core."""

    steps: int = 8000  # optimiser steps
    batch_size: int = 16
    learning_rate: float = 5e-4  # AdamW; linear warm-up, constant, then linear decay to 0
    warmup: int = 200  # steps
    decay: float = 0.3  # share of `steps`, at the end, over which the rate falls to 0
    ema: float = 0.999  # decay of the averaged weights, which are the ones saved
    channels: tuple[int, ...] = (24, 48, 96, 128)  # of each resolution level, halving the side each time
    layers: int = 1  # residual blocks a level
    attention: bool = True  # self-attention at the lowest resolution
    checkpoint_every: int = 500  # steps
    bf16: bool = True  # autocast; about 1.7 times as fast on CPUs with AVX512-BF16 and on GPUs


@dataclass(frozen=True)
class Outcome:
    steps: int
    held_out_loss: float  # mean squared error of the predicted v on held-out photos, lower is better
    seconds: float  # of training, over all resumptions


def build_unet(image_size: int, settings: Settings) -> UNet2DModel:
    """A UNet2DModel of the standard block types; no attention but at the lowest resolution."""
    levels = len(settings.channels)
    attention = "Attn" if settings.attention else ""
    return UNet2DModel(
        sample_size=image_size,
        layers_per_block=settings.layers,
        block_out_channels=settings.channels,
        norm_num_groups=8,
        attention_head_dim=32,
        down_block_types=("DownBlock2D",) * (levels - 1) + (f"{attention}DownBlock2D",),
        up_block_types=(f"{attention}UpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        add_attention=settings.attention,
    )


def build_scheduler() -> DDPMScheduler:
    """Linear betas as in Ho et al. 2020; v-prediction (Salimans and Ho 2022) learns faster at high noise."""
    return DDPMScheduler(DIFFUSION_STEPS, beta_schedule="linear", prediction_type="v_prediction")


def train(
    photos: Tensor,
    held_out: Tensor,
    out: Path,
    settings: Settings,
    seed: int,
    device: torch.device,
    facts: dict[str, Any],
    progress: Callable[[int, int, float], None],
) -> Outcome:
    """Train on `photos` (n, 3, H, W) uint8, save to the folder `out`; `held_out` likewise, of other people.

    `progress(step, steps, loss)` is called after every step, the loss averaged. `facts` (what the prior was
    trained on) go into `training.json`. The draws of step k depend on (seed, k) alone, so a resumed
    training sees what an undisturbed one sees. Raises ValueError for photos that are not square.
    """
    size = photos.shape[-1]
    if photos.dtype != torch.uint8 or photos.ndim != 4 or photos.shape[1:] != (3, size, size):
        raise ValueError(f"photos of shape {tuple(photos.shape)}, {photos.dtype} given; (n, 3, H, H) uint8 needed")
    state = _State(size, settings, seed, device, out / "checkpoint.safetensors")
    photos = photos.to(device)
    started = time.monotonic()
    before = state.seconds
    scheduler = build_scheduler()
    predict = _predictor(state.unet, settings)
    for step in range(state.step, settings.steps):
        images = _batch(photos, seed, step, settings.batch_size, device)
        loss = _loss(predict, scheduler, images, seed, step, settings)
        state.update(float(loss.detach()), loss, settings)
        state.seconds = before + time.monotonic() - started
        progress(state.step, settings.steps, state.average_loss)
        if state.step % settings.checkpoint_every == 0:
            state.save()
    state.save()
    held_out_loss = evaluate(state.averaged(), scheduler, held_out, seed, settings)
    outcome = Outcome(state.step, held_out_loss, state.seconds)
    _publish(out, state, scheduler, settings, seed, {**facts, **asdict(outcome), "train_photos": len(photos)})
    return outcome


@torch.no_grad()
def evaluate(unet: UNet2DModel, scheduler: DDPMScheduler, photos: Tensor, seed: int, settings: Settings) -> float:
    """Mean squared error of v over `photos` (n, 3, H, W) uint8, the noise levels spread evenly; >= 0."""
    device = next(unet.parameters()).device
    losses = []
    for start, chunk in enumerate(torch.split(photos, 32)):
        images = normalise(chunk.to(device).float() / 255)
        losses.append(_loss(_Predictor(unet), scheduler, images, seed, -1 - start, settings).cpu() * len(chunk))
    return float(torch.stack(losses).sum()) / len(photos)


@torch.no_grad()
def sample(unet: UNet2DModel, scheduler: DDPMScheduler, count: int, random: torch.Generator, steps: int = 25) -> Tensor:
    """`count` faces drawn from the prior, (count, 3, H, W) in [0, 1]; DDIM with eta 1 (Song et al. 2021)."""
    parameter = next(unet.parameters())
    size = unet.config.sample_size
    ddim = DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    ddim.set_timesteps(steps)
    images = torch.randn(count, 3, size, size, generator=random).to(parameter.device)
    for t in ddim.timesteps:
        noise = torch.randn(images.shape, generator=random).to(parameter.device)
        with torch.autocast(parameter.device.type, torch.bfloat16):
            velocity = unet(images, t).sample.float()
        images = ddim.step(velocity, t, images, eta=1.0, variance_noise=noise).prev_sample
    return ((images + 1) / 2).clamp(0, 1).cpu()


class _State:
    """Network, averaged weights, optimiser and curve; all that a checkpoint holds."""

    def __init__(self, size: int, settings: Settings, seed: int, device: torch.device, path: Path) -> None:
        self.path, self.step, self.seconds, self.curve = path, 0, 0.0, list[float]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(seed, "prior-init").initial_seed())
            self.unet = build_unet(size, settings).to(device)
        self.ema = {name: value.detach().clone() for name, value in self.unet.named_parameters()}
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), settings.learning_rate, weight_decay=1e-4, fused=device.type == "cuda"
        )
        if path.exists():
            self._load()

    @property
    def average_loss(self) -> float:
        recent = self.curve[-100:]
        return sum(recent) / max(len(recent), 1)

    def update(self, value: float, loss: Tensor, settings: Settings) -> None:
        if not math.isfinite(value):
            raise ValueError(f"the loss is {value} at step {self.step}; give a lower --learning-rate and start again")
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(self.step, settings)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.curve.append(value)
        # A young average forgets faster, so that it does not drag the random start along.
        decay = min(settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            names, parameters = zip(*self.unet.named_parameters(), strict=True)
            torch._foreach_lerp_([self.ema[name] for name in names], parameters, 1 - decay)

    def averaged(self) -> UNet2DModel:
        """The network with the averaged weights."""
        unet = copy.deepcopy(self.unet)
        unet.load_state_dict(self.ema)
        return unet.eval()

    def save(self) -> None:
        tensors = {f"unet.{name}": value.detach() for name, value in self.unet.named_parameters()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in slots.items()}
        tensors["curve"] = torch.tensor(self.curve)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        save_file(
            {name: value.contiguous().cpu() for name, value in tensors.items()},
            temporary,
            metadata={"step": str(self.step), "seconds": str(self.seconds)},
        )
        temporary.replace(self.path)

    def _load(self) -> None:
        from safetensors import safe_open

        tensors = load_file(self.path)
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
        self.curve = tensors.pop("curve").tolist()
        try:
            self.unet.load_state_dict(_part(tensors, "unet."))
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint {self.path} belongs to another network; give the same settings or another --out"
            ) from error
        self.ema = {name: value.to(self.unet.device) for name, value in _part(tensors, "ema.").items()}
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "adam.").items():
            index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _rate(step: int, settings: Settings) -> float:
    """Share of the learning rate at `step`: warm-up, constant, decay."""
    left = (settings.steps - step) / max(settings.decay * settings.steps, 1)
    return min(1.0, (step + 1) / settings.warmup, left)


def _batch(photos: Tensor, seed: int, step: int, size: int, device: torch.device) -> Tensor:
    """Random photos, half of them mirrored, (size, 3, H, W) in [-1, 1] on `device`."""
    random = generator(seed, "prior-batch", step)
    images = photos[torch.randint(len(photos), (size,), generator=random).to(photos.device)].to(device)
    mirrored = torch.rand(size, generator=random).to(device) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return normalise(images.float() / 255)


class _Predictor(nn.Module):
    """Noisy images (n, 3, H, W) and times (n,) to what the U-Net predicts (n, 3, H, W)."""

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, times: Tensor) -> Tensor:
        predicted: Tensor = self.unet(noisy, times).sample
        return predicted


def _predictor(unet: UNet2DModel, settings: Settings) -> nn.Module:
    """The same for batches of the settings' size; on a GPU its kernels are replayed, which launching would outlast."""
    predictor, device, size = _Predictor(unet), unet.device, unet.config.sample_size
    if device.type != "cuda":
        return predictor
    noisy = torch.zeros(settings.batch_size, 3, size, size, device=device)
    times = torch.zeros(settings.batch_size, dtype=torch.int64, device=device)
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # recording is on a stream of its own
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16, cache_enabled=False):
        torch.cuda.make_graphed_callables(predictor, (noisy, times))  # replaces the module's forward
    return predictor


def _loss(
    predict: nn.Module, scheduler: DDPMScheduler, images: Tensor, seed: int, step: int, settings: Settings
) -> Tensor:
    """Mean squared error of the predicted v at stratified times: one in each of n equal slices of [0, T)."""
    # Drawn where it is used: on a GPU, normals from the CPU take longer than the step itself.
    random = generator(seed, "prior-noise", step, device=images.device)
    noise = torch.randn(images.shape, generator=random, device=images.device)
    spread = torch.rand(len(images), generator=random, device=images.device)
    slots = (torch.arange(len(images), device=images.device) + spread) / len(images)
    times = (slots * DIFFUSION_STEPS).long()
    noisy = scheduler.add_noise(images, noise, times)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.bf16, cache_enabled=False):
        predicted = predict(noisy, times)
    target: Tensor = scheduler.get_velocity(images, noise, times)
    error: Tensor = predicted.float() - target
    return error.square().mean()


def _publish(
    out: Path, state: _State, scheduler: DDPMScheduler, settings: Settings, seed: int, facts: dict[str, Any]
) -> None:
    unet = state.averaged()
    save_image(sample(unet, scheduler, 48, generator(seed, "prior-samples")), out / "samples.png", nrow=8)
    _plot(state.curve, facts["held_out_loss"], out / "loss.png")
    unet.half().save_pretrained(out / "unet")
    scheduler.save_pretrained(out / "scheduler")
    (out / "training.json").write_text(json.dumps({**facts, "settings": asdict(settings), "seed": seed}, indent=2))


def _plot(curve: list[float], held_out_loss: float, path: Path) -> None:
    from matplotlib.figure import Figure

    width = max(len(curve) // 200, 1)
    means = [float(part.mean()) for part in torch.split(torch.tensor(curve), width)]
    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).add_subplot()
    axes.plot([(i + 0.5) * width for i in range(len(means))], means, label="training")
    axes.axhline(held_out_loss, linestyle="--", color="C1", label=f"held out {held_out_loss:.4f}")
    axes.set(xlabel="step", ylabel="mean squared error of v", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=120)
