"""The U-Net of a prior in plain torch: what diffusers' UNet2DModel computes, to the last bit, without importing it.

That import takes three times as long as torch's own, in every process that attacks. `UNet` is a network as
`fl-sim train-prior` makes it: the standard blocks of Ho et al. 2020, every setting but sizes at its usual value. All
others diffusers reads.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacker.priors.files import WEIGHTS, read_network
from fl_sim.tensors import read_tensors

DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}  # diffusers' names of blocks; whether they attend
UP = {"UpBlock2D": False, "AttnUpBlock2D": True}
NEEDED = {
    "act_fn": "silu",
    "add_attention": True,
    "attn_norm_num_groups": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "num_class_embeds": None,
    "num_train_timesteps": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "upsample_type": "conv",
}
"""What a config must say, word for word."""


class Prediction(NamedTuple):
    """What a U-Net answers, in the form of diffusers' UNet2DOutput."""

    sample: Tensor  # (n, out_channels, H, W)


class Sizes(NamedTuple):
    """The sizes of a network, in diffusers' words."""

    in_channels: int
    out_channels: int
    block_out_channels: Sequence[int]  # of each resolution; each but the last halves the side
    layers_per_block: int  # residual blocks of each resolution on the way down; one more on the way up
    norm_num_groups: int
    norm_eps: float
    attention_head_dim: int  # channels of a head
    down_block_types: Sequence[str]
    up_block_types: Sequence[str]


def read_unet(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    """The network that `config` and the weights in `folder` describe, in float32, or ConfigError as `read_network`."""
    network = _plain(folder, config)
    if network is None:
        from diffusers import UNet2DModel

        return read_network(UNet2DModel, folder)  # type: ignore[no-any-return]
    return network


def _plain(folder: Path, config: Mapping[str, Any]) -> "UNet | None":
    """The same where it is a `UNet`, and its weights fill it; else None: of misfits, too, diffusers tells."""
    path = folder / f"{WEIGHTS}.safetensors"
    if any(key not in config or config[key] != value for key, value in NEEDED.items()) or not path.is_file():
        return None
    weights, _ = read_tensors(path)
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        return None
    try:
        with torch.random.fork_rng(devices=[]):  # for weights that the file replaces
            network = UNet(Sizes(**{name: config[name] for name in Sizes._fields}))
        # A copy: where in memory a file's tensors begin would decide the last bits of a matrix product.
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError, IndexError):  # of any config or weights
        return None
    return network.eval().requires_grad_(False)


class UNet(nn.Module):
    """A network of `Sizes`. Its parts have diffusers' names, as their weights have."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        widths, layers = list(sizes.block_out_channels), sizes.layers_per_block
        self.conv_in = nn.Conv2d(sizes.in_channels, widths[0], 3, padding=1)
        self.time_embedding = _TimeEmbedding(widths[0])
        self.down_blocks = nn.ModuleList()
        left = [widths[0]]  # channels of what the way down leaves for the way up
        for kind, width in zip(sizes.down_block_types, widths, strict=True):
            block = _Block(sizes, [left[-1]] + [width] * (layers - 1), width, DOWN[kind])
            if len(self.down_blocks) < len(widths) - 1:
                block.downsamplers = nn.ModuleList([_Downsample(width)])
            left += [width] * (layers + len(block.downsamplers))
            self.down_blocks.append(block)
        self.mid_block = _Block(sizes, [widths[-1]] * 2, widths[-1], attends=False)
        self.mid_block.attentions = nn.ModuleList([_Attention(sizes, widths[-1])])
        self.up_blocks = nn.ModuleList()
        below = widths[-1]
        for kind, width in zip(sizes.up_block_types, reversed(widths), strict=True):
            inputs = [channels + left.pop() for channels in [below] + [width] * layers]
            block = _Block(sizes, inputs, width, UP[kind])
            if len(self.up_blocks) < len(widths) - 1:
                block.upsamplers = nn.ModuleList([_Upsample(width)])
            self.up_blocks.append(block)
            below = width
        self.conv_norm_out = nn.GroupNorm(sizes.norm_num_groups, widths[0], sizes.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], sizes.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Prediction:
        """What the network predicts of `x` (n, in_channels, H, W) at times `t` (n,)."""
        time = self.time_embedding(t)
        x = self.conv_in(x)
        left = [x]
        block: Any  # _Block, which ModuleList forgets
        for block in self.down_blocks:
            for layer in range(len(block.resnets)):
                x = block(layer, x, time)
                left.append(x)
            for downsample in block.downsamplers:
                x = downsample(x)
                left.append(x)
        x = self.mid_block.resnets[0](x, time)
        x = self.mid_block.resnets[1](self.mid_block.attentions[0](x), time)
        for block in self.up_blocks:
            for layer in range(len(block.resnets)):
                x = block(layer, torch.cat([x, left.pop()], dim=1), time)
            for upsample in block.upsamplers:
                x = upsample(x)
        return Prediction(self.conv_out(F.silu(self.conv_norm_out(x))))


class _Block(nn.Module):
    """The layers of one resolution: residual blocks, each followed by self-attention if the block `attends`."""

    def __init__(self, sizes: Sizes, inputs: Sequence[int], width: int, attends: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Resnet(sizes, channels, width) for channels in inputs)
        self.attentions = nn.ModuleList(_Attention(sizes, width) for _ in inputs if attends)
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()

    def forward(self, layer: int, x: Tensor, time: Tensor) -> Tensor:
        x = self.resnets[layer](x, time)
        if self.attentions:
            x = self.attentions[layer](x)
        return x


class _Resnet(nn.Module):
    def __init__(self, sizes: Sizes, channels: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(sizes.norm_num_groups, channels, sizes.norm_eps)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * sizes.block_out_channels[0], width)
        self.norm2 = nn.GroupNorm(sizes.norm_num_groups, width, sizes.norm_eps)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(F.silu(time))[:, :, None, None]
        added: Tensor = self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(hidden)))
        return added


class _Attention(nn.Module):
    """Self-attention over pixels, in heads of `attention_head_dim` channels."""

    def __init__(self, sizes: Sizes, width: int) -> None:
        super().__init__()
        self.head, self.heads = sizes.attention_head_dim, width // sizes.attention_head_dim
        inner = self.head * self.heads
        self.group_norm = nn.GroupNorm(sizes.norm_num_groups, width, sizes.norm_eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])

    def forward(self, x: Tensor) -> Tensor:
        n, width, height, breadth = x.shape
        pixels = x.view(n, width, height * breadth)
        pixels = self.group_norm(pixels).transpose(1, 2)  # (n, pixels, width)
        query, key, value = (
            project(pixels).view(n, -1, self.heads, self.head).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        seen = F.scaled_dot_product_attention(query, key, value)  # (n, heads, pixels, head)
        seen = self.to_out[0](seen.transpose(1, 2).reshape(n, -1, self.heads * self.head))
        added: Tensor = seen.transpose(-1, -2).reshape(x.shape) + x
        return added


class _Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(x)
        return halved


class _Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


class _TimeEmbedding(nn.Module):
    """Cosines and sines of t at `channels` / 2 frequencies, and two layers that make 4 `channels` of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, 4 * channels)
        self.linear_2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, t: Tensor) -> Tensor:
        half = self.channels // 2
        steps = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t[:, None].float() * torch.exp(-math.log(10_000) * steps / half)
        waves = F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, self.channels % 2))
        embedded: Tensor = self.linear_2(F.silu(self.linear_1(waves)))
        return embedded
