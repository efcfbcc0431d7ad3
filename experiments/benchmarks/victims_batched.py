"""Are eight victims together cheaper than eight in a row? Prints the model part, the U-Net part and the whole attack.

    python -m experiments.benchmarks.victims_batched            # about a minute, one torch thread

Model part: three ways to batch the double backward of gradient matching over victims, and the loop of
`attacker.inversion.matching.match` with a difference in its place, as attacks call it. U-Net part: one pass over all
victims' images against one a victim. The U-Net has the shipped prior's shape and random weights; speed does not depend
on them.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from attacker.attacks import Attacker, user_diffusion
from attacker.inversion.finite_difference import FiniteDifference
from attacker.inversion.matching import ObservedGradient, Representatives, cosine, matching_loss_and_grad
from attacker.observation import Observation
from attacker.priors.prior import Prior, fast_bfloat16
from fl_sim.models import build, trainable
from fl_sim.seeds import generator

VICTIMS, IMAGES, SIZE, STEPS, REPEATS = 8, 2, 64, 10, 5
WEIGHTS = torch.tensor([0.6, 0.4])
LABELS = torch.tensor([0, 1])


def seconds(call: Callable[[], Any]) -> float:
    """The fastest of several calls, after one to warm up."""
    call()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def with_vmap(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Dummy gradients (victims, p) by torch.func; weight gradients become grouped convolutions."""
    parameters = trainable(model)

    def one(images: Tensor) -> Tensor:
        def loss(values: dict[str, Tensor]) -> Tensor:
            losses = F.cross_entropy(functional_call(model, values, (images,)), LABELS, reduction="none")
            return (losses * WEIGHTS).sum()

        return torch.cat([value.reshape(-1) for value in grad(loss)(parameters).values()])

    return vmap(one)


class VictimConv(torch.autograd.Function):
    """A convolution with shared weights whose weight gradient is taken per victim, by unfold + bmm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, own: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, len(own)
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (x, weight), (stride, padding, victims), (slope,) = ctx.saved_tensors, ctx.geometry, outputs
        extra = x.shape[-1] - ((slope.shape[-1] - 1) * stride - 2 * padding + weight.shape[-1])
        to_input = F.conv_transpose2d(slope, weight, None, stride, padding, extra)
        patches = F.unfold(x, weight.shape[2:], padding=padding, stride=stride)
        patches = patches.view(victims, -1, *patches.shape[1:]).transpose(1, 2).flatten(2)
        slopes = slope.flatten(2).view(victims, -1, slope.shape[1], patches.shape[2] // (len(x) // victims))
        to_weight = torch.bmm(slopes.transpose(1, 2).flatten(2), patches.transpose(1, 2))
        return to_input, None, to_weight.view(victims, *weight.shape), None, None


def with_unfold(model: nn.Sequential) -> Callable[[Tensor], Tensor]:
    """Dummy gradients (victims, p) of a plain Sequential of convolutions and linear layers."""
    parameters = trainable(model)

    def all_victims(images: Tensor) -> Tensor:
        victims = len(images)
        own = {name: torch.zeros(victims, *value.shape, requires_grad=True) for name, value in parameters.items()}
        hidden = images.flatten(0, 1)
        for name, layer in model.named_children():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                hidden = layer(hidden)
                continue
            weight, bias = own[f"{name}.weight"], parameters[f"{name}.bias"] + own[f"{name}.bias"]
            if isinstance(layer, nn.Conv2d):
                stride, padding = int(layer.stride[0]), int(layer.padding[0])
                hidden = VictimConv.apply(hidden, layer.weight, weight, stride, padding)
                hidden = hidden + bias.repeat_interleave(IMAGES, 0)[..., None, None]
            else:
                rows = hidden.view(victims, IMAGES, -1)
                hidden = (torch.bmm(rows, (layer.weight + weight).transpose(1, 2)) + bias[:, None]).flatten(0, 1)
        losses = F.cross_entropy(hidden, LABELS.repeat(victims), reduction="none")
        total = (losses * WEIGHTS.repeat(victims)).sum()
        gradients = torch.autograd.grad(total, list(own.values()), create_graph=True)
        return torch.cat([gradient.flatten(1) for gradient in gradients], 1)

    return all_victims


def matched(dummy: Callable[[Tensor], Tensor], images: Tensor, observed: Tensor) -> Tensor:
    """The matching gradient (victims, images, 3, H, W)."""
    pixels = images.detach().requires_grad_(True)
    return torch.autograd.grad(cosine(dummy(pixels), observed).sum(), pixels)[0]


def row(what: str, together: float, alone: float) -> None:
    """One line of the table, in milliseconds; `alone` is one victim's time."""
    ratio = together / (VICTIMS * alone)
    print(f"{what:36s} {together * 1e3:9.0f} {VICTIMS * alone * 1e3:9.0f} {ratio:7.2f}", flush=True)


def random_prior() -> Prior:
    from diffusers import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=SIZE,
            layers_per_block=1,
            block_out_channels=(24, 48, 96, 128),
            down_block_types=("DownBlock2D",) * 4,
            up_block_types=("UpBlock2D",) * 4,
            norm_num_groups=8,
        )
    unet = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    return Prior(unet, alphas, "epsilon", SIZE, SIZE, fast_bfloat16(torch.device("cpu")))


def main() -> None:
    torch.set_num_threads(1)
    print(f"{VICTIMS} victims, {IMAGES} images each, {SIZE} px, one thread")
    print(f"{'milliseconds':36s} {'together':>9s} {'in a row':>9s} {'ratio':>7s}")
    draw = generator(0, "benchmark")
    images = torch.rand(VICTIMS, IMAGES, 3, SIZE, SIZE, generator=draw) * 2 - 1
    model = build("convnet", 2, SIZE, generator(0, "model"))
    observed = torch.randn(VICTIMS, sum(value.numel() for value in trainable(model).values()), generator=draw)

    representatives = [Representatives(LABELS, WEIGHTS)] * VICTIMS
    observed_gradients = [ObservedGradient(vector, torch.ones_like(vector)) for vector in observed]
    flat = images.flatten(0, 1)
    shipped = matching_loss_and_grad(model, flat, representatives, observed_gradients, cosine)[1].view_as(images)
    for name, how in (("loop", None), ("loop, difference (shipped)", FiniteDifference(model))):
        call = partial(matching_loss_and_grad, model, distance=cosine, finite_difference=how)
        together = seconds(partial(call, flat, representatives, observed_gradients))
        row(
            f"model: {name}",
            together,
            seconds(partial(call, flat[:IMAGES], representatives[:1], observed_gradients[:1])),
        )
    assert isinstance(model, nn.Sequential)
    for name, dummy in (("vmap, grouped convolutions", with_vmap(model)), ("unfold + bmm", with_unfold(model))):
        error = (matched(dummy, images, observed) - shipped).norm() / shipped.norm()
        assert float(error) < 1e-3, f"{name} differs from the loop by {float(error):.1e}"
        together = seconds(lambda dummy=dummy: matched(dummy, images, observed))  # type: ignore[misc]
        alone = seconds(lambda dummy=dummy: matched(dummy, images[:1], observed[:1]))  # type: ignore[misc]
        row(f"model: {name}", together, alone)

    prior = random_prior()
    t = torch.full((VICTIMS * IMAGES,), 300)
    together = seconds(lambda: prior.predict_x0(flat, t))
    row("U-Net", together, seconds(lambda: prior.predict_x0(flat[:IMAGES], t[:IMAGES])))

    attacker = Attacker(model, SIZE, 2, prior, torch.device("cpu"))
    names = list(trainable(model))
    shapes = trainable(model)
    seen = []
    for user, vector in enumerate(observed):
        parts = vector.split([shapes[name].numel() for name in names])
        gradient = {name: part.view_as(shapes[name]) for name, part in zip(names, parts, strict=True)}
        seen.append(Observation(1, user, dict(model.state_dict()), gradient, 30, WEIGHTS))
    settings = user_diffusion.Settings(steps=STEPS)

    def attack(count: int) -> None:
        sources = [generator(0, "attack", user) for user in range(count)]
        user_diffusion.attack(seen[:count], attacker, settings, sources, lambda done, total: None)

    row(f"user_diffusion, {STEPS} steps", seconds(lambda: attack(VICTIMS)), seconds(lambda: attack(1)))


if __name__ == "__main__":
    main()
