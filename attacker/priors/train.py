"""Train a conditional diffusion prior: p(photo | damaged mean face), on faces of people who are not victims.

    fl-sim train-prior --out priors/mine -o dataset.name=folder -o dataset.root=FACES --steps 20000

The network is a diffusers UNet2DModel of 6 inputs, x_t and a mean face (concatenated as in SR3, Saharia et al. 2021).
A share of its examples has no mean face, so that it is an ordinary prior, too. The result is a diffusers folder
(`unet/`, `scheduler/`, fp16 safetensors) with `samples.png`, `loss.png` and `training.json`. A stopped training goes on
from its checkpoint when the command is given again.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torchvision.utils import save_image

from attacker.priors.noise_schedule import NoiseSchedule
from attacker.priors.pairs import Album, Pairs, fit_eigenfaces
from attacker.priors.prior import MEAN_FACE, Prior
from attacker.priors.start import Start
from attacker.priors.training_state import State
from fl_sim.seeds import generator

HELD_OUT_BATCHES = 16  # of 32 pairs, on which the held-out losses are measured
SHEET = (3, 6, 8)  # samples.png: rows of plain samples, rows with a mean face, pictures a row
SAMPLING_STEPS = 50  # of its pictures


@dataclass(frozen=True)
class Settings:
    """How a prior is trained. The defaults suit 64 px and an hour or two of one core."""

    steps: int = 8000  # optimiser steps
    batch_size: int = 16
    learning_rate: float = 5e-4  # AdamW; linear warm-up, constant, then linear decay to 0
    warmup: int = 200  # steps
    decay: float = 0.3  # share of `steps`, at the end, over which the rate falls to 0
    ema: float = 0.999  # decay of the averaged weights, which are the ones saved
    without_mean: float = 0.15  # share of examples that have zeros for a mean face
    checkpoint_every: int = 500  # steps
    bf16: bool = True  # autocast; about 1.7 times as fast on CPUs with AVX512-BF16 and on GPUs

    def rate(self, step: int) -> float:
        """The learning rate at `step`."""
        left = (self.steps - step) / max(self.decay * self.steps, 1)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup, left)


@dataclass(frozen=True)
class Outcome:
    """Losses are mean squared errors of what the network predicts, on held-out people; lower is better."""

    steps: int
    held_out_loss: float  # without a mean face, as of any prior
    held_out_loss_given_mean: float
    seconds: float  # of training, over all resumptions


def train(
    album: Album,
    held_out: Album,
    state: State,
    settings: Settings,
    seed: int,
    facts: dict[str, Any],
    progress: Callable[[int, int, float], None],
) -> Outcome:
    """Train `state` on the people of `album` and save the prior to its folder. `held_out` is of other people.

    `progress(step, steps, loss)` is called after every step, the loss averaged. `facts` (what the prior was
    trained on) go into `training.json`. The draws of step k depend on (seed, k) alone, so a resumed training sees
    what an undisturbed one sees.
    """
    device = state.unet.device
    space = fit_eigenfaces(album, seed)
    pairs, others = Pairs(album, space, device), Pairs(held_out, space, device)
    loss = _Loss(state.start.schedule, settings.bf16, device)
    predict = _predictor(state.unet, settings)
    started, before = time.monotonic(), state.seconds
    for step in range(state.step, settings.steps):
        photos, means = pairs.draw(settings.batch_size, settings.without_mean, seed, "prior-batch", step)
        state.update(loss(predict, photos, means, seed, step), settings.rate(step), settings.ema)
        state.seconds = before + time.monotonic() - started
        progress(state.step, settings.steps, state.average_loss)
        if state.step % settings.checkpoint_every == 0:
            state.save()
    state.save()
    averaged = state.averaged()
    outcome = Outcome(state.step, *_evaluate(averaged, loss, others, seed), state.seconds)
    learnt = {"condition": MEAN_FACE, "start": Path(state.start.name).name or None, "train_photos": len(album.photos)}
    _plot(state.curve, outcome, state.out / "loss.png")
    save_image(_sheet(averaged, state.start.schedule, others, settings, seed), state.out / "samples.png", nrow=SHEET[2])
    written = {**facts, **learnt, **asdict(outcome), "settings": asdict(settings), "seed": seed}
    _publish(state.out, averaged, state.start, written)
    return outcome


@torch.no_grad()
def _evaluate(unet: UNet2DModel, loss: "_Loss", pairs: Pairs, seed: int) -> tuple[float, float]:
    """Losses of photos without and of photos with a mean face, at the same noise; the noise levels spread evenly."""
    losses = []
    for index in range(HELD_OUT_BATCHES):
        drawn = [pairs.draw(32, without, seed, "prior-held-out", index) for without in (1.0, 0.0)]
        losses.append([float(loss(_Predictor(unet), *pair, seed, -1 - index)) for pair in drawn])
    plain, given_mean = torch.tensor(losses).mean(0).tolist()
    return plain, given_mean


class _Predictor(nn.Module):
    """x_t with the mean face (n, 6, H, W) and times (n,) to what the U-Net predicts (n, 3, H, W)."""

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
    noisy = torch.zeros(settings.batch_size, 6, size, size, device=device).to(memory_format=torch.channels_last)
    times = torch.zeros(settings.batch_size, dtype=torch.int64, device=device)
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # recording is on a stream of its own
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16, cache_enabled=False):
        torch.cuda.make_graphed_callables(predictor, (noisy, times))  # replaces the module's forward
    return predictor


class _Loss:
    """The denoising loss of a schedule."""

    def __init__(self, schedule: NoiseSchedule, bf16: bool, device: torch.device) -> None:
        self._alphas, self._kind, self._bf16 = schedule.alphas_cumprod.to(device), schedule.prediction_type, bf16

    def __call__(self, predict: nn.Module, photos: Tensor, means: Tensor, seed: int, step: int) -> Tensor:
        """Mean squared error () of the prediction at stratified times: one in each of n equal slices of [0, T).

        `photos` and `means` (n, 3, H, W) in [-1, 1].
        """
        # Drawn where it is used: on a GPU, normals from the CPU take longer than the step itself.
        device = photos.device
        random = generator(seed, "prior-noise", step, device=device)
        noise = torch.randn(photos.shape, generator=random, device=device)
        spread = torch.rand(len(photos), generator=random, device=device)
        times = ((torch.arange(len(photos), device=device) + spread) / len(photos) * len(self._alphas)).long()
        times = times.clamp(max=len(self._alphas) - 1)  # rounding may reach T
        alphas = self._alphas[times][:, None, None, None]
        signal, sigma = alphas.sqrt(), (1 - alphas).sqrt()
        given = torch.cat([signal * photos + sigma * noise, means], dim=1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=False):
            predicted = predict(given, times)
        target = {"epsilon": noise, "sample": photos}.get(self._kind, signal * noise - sigma * photos)
        # Of a network that predicts a variance, too, the channels after those of the picture stay as they are.
        error: Tensor = predicted[:, :3].float() - target
        return error.square().mean()


def _publish(out: Path, unet: UNet2DModel, start: Start, facts: dict[str, Any]) -> None:
    unet.half().save_pretrained(out / "unet")
    config = out / "unet" / "config.json"
    network = json.loads(config.read_text())
    network.pop("_name_or_path", None)  # the folder on this machine of the prior that it began with
    config.write_text(json.dumps(network, indent=2, sort_keys=True) + "\n")
    (out / "scheduler").mkdir(exist_ok=True)
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(start.scheduler, indent=2))
    (out / "training.json").write_text(json.dumps(facts, indent=2))


def _sheet(unet: UNet2DModel, schedule: NoiseSchedule, held_out: Pairs, settings: Settings, seed: int) -> Tensor:
    """Pictures (n, 3, H, W) in [0, 1]: plain samples; then rows of a damaged mean, a photo and draws given the mean."""
    plain, given, width = SHEET
    size, device = unet.config.sample_size, unet.device
    prior = Prior(
        unet, schedule.alphas_cumprod.to(device), schedule.prediction_type, size, size, settings.bf16, conditional=True
    )
    random = generator(seed, "prior-samples")
    photos, means = held_out.draw(given, 0.0, seed, "prior-sheet")
    conditions = torch.cat(
        [torch.zeros_like(means[:1]).expand(plain * width, -1, -1, -1), means.repeat_interleave(width - 2, dim=0)]
    )
    noise = torch.randn(conditions.shape, generator=random).to(device)
    drawn = prior.sample(noise, SAMPLING_STEPS, condition=conditions)
    draws = drawn[plain * width :].view(given, width - 2, *means.shape[1:])
    rows = torch.cat([means[:, None], photos[:, None], draws], dim=1)
    return ((torch.cat([drawn[: plain * width], rows.flatten(0, 1)]) + 1) / 2).clamp(0, 1).cpu()


def _plot(curve: list[float], outcome: Outcome, path: Path) -> None:
    from matplotlib.figure import Figure

    width = max(len(curve) // 200, 1)
    means = [float(part.mean()) for part in torch.split(torch.tensor(curve), width)]
    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).add_subplot()
    axes.plot([(i + 0.5) * width for i in range(len(means))], means, label="training")
    held_out = {"held out, no mean face": outcome.held_out_loss, "with one": outcome.held_out_loss_given_mean}
    for index, (what, loss) in enumerate(held_out.items(), start=1):
        axes.axhline(loss, linestyle="--", color=f"C{index}", label=f"{what} {loss:.4f}")
    axes.set(xlabel="step", ylabel="mean squared error", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=120)
