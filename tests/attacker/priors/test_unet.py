"""Our U-Net is diffusers' to the last bit, and what it cannot be diffusers reads itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from priors import edit, unet, write_prior

from attacker.priors.prior import load_prior
from attacker.priors.unet import UNet
from fl_sim.seeds import generator

DOWN, UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "as train-prior makes it": {
        "in_channels": 6,
        "block_out_channels": (8, 16, 32),
        "norm_num_groups": 8,
        "attention_head_dim": 32,
        "down_block_types": (DOWN[0], DOWN[0], DOWN[1]),
        "up_block_types": (UP[1], UP[0], UP[0]),
    },
    "attention everywhere, odd widths, a variance": {
        "out_channels": 6,
        "layers_per_block": 2,
        "block_out_channels": (9, 18),
        "norm_num_groups": 3,
        "attention_head_dim": 2,
        "norm_eps": 1e-6,
        "down_block_types": DOWN[::-1],
        "up_block_types": UP[::-1],
    },
    "one level": {
        "block_out_channels": (8,),
        "down_block_types": DOWN[:1],
        "up_block_types": UP[:1],
    },
}


def read(folder: Path, network: Any) -> Any:
    write_prior(folder, network)
    if network.config.in_channels == 6:
        (folder / "training.json").write_text(json.dumps({"condition": "mean face"}))
    if network.config.out_channels == 6:
        edit(folder / "scheduler" / "scheduler_config.json", variance_type="learned_range")
    return load_prior(str(folder), 16).unet


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_the_function_of_diffusers_with_its_gradient(
    tmp_path: Path, shape: dict[str, Any], bfloat16: bool
) -> None:
    theirs = unet(**shape).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    ours = read(tmp_path, theirs)
    assert isinstance(ours, UNet)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    draw = generator(0, "unet")
    x = torch.randn(3, theirs.config.in_channels, 16, 16, generator=draw).to(memory_format=torch.channels_last)
    x.requires_grad_(True)
    t = torch.randint(50, (3,), generator=draw)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        answers = [network(x, t).sample for network in (ours, theirs)]
    gradients = [torch.autograd.grad(answer.float().square().sum(), x)[0] for answer in answers]
    assert torch.equal(*answers)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    "other",
    [
        {"act_fn": "gelu"},
        {"resnet_time_scale_shift": "scale_shift"},
        {"flip_sin_to_cos": False},
        {"down_block_types": ("SkipDownBlock2D",) * 2, "up_block_types": ("SkipUpBlock2D",) * 2},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_network_is_read_by_diffusers(tmp_path: Path, other: dict[str, Any]) -> None:
    if "down_block_types" in other:
        other = {**other, "block_out_channels": (32, 32)}
    # In the memory format of a prior: the kernels of another round otherwise.
    theirs = unet(**other).eval().to(memory_format=torch.channels_last)
    ours = read(tmp_path, theirs)
    assert type(ours) is type(theirs)
    x, t = torch.randn(1, 3, 16, 16, generator=generator(0, "unet")), torch.tensor([7])
    with torch.no_grad():
        assert torch.equal(ours(x, t).sample, theirs(x, t).sample)


@pytest.mark.slow  # a Python of its own
def test_the_shipped_prior_loads_without_diffusers() -> None:
    code = (
        "import sys; from attacker.priors.prior import load_prior; load_prior('synthetic64', 64); "
        "print([name for name in ('diffusers', 'torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
