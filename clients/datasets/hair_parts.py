"""Hair as a shell around the head: strands, hairline, fringe, curls, and its shading."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from clients.datasets.head_geometry import Fields, Rays, edge, gauss, hair_shell, normalise

_CELLS = 256


@lru_cache(maxsize=4)
def _texture(device: str) -> Tensor:
    """A fixed texture: channel 0 soft blotches, channel 1 fine grain, both about uniform."""
    generator = torch.Generator().manual_seed(20240)
    with torch.inference_mode(False):  # the cached texture must serve gradients too
        white = torch.rand(1, 2, _CELLS + 2, _CELLS + 2, generator=generator, device="cpu")
        soft = avg_pool2d(white[:, :1], 3, 1)
        soft = (0.5 + (soft - 0.5) * 2.2).clamp(0.0, 1.0)
        return torch.cat((soft, white[:, 1:, 1:-1, 1:-1]), dim=1).to(device)


def grain(x: Tensor, y: Tensor) -> Tensor:
    """Texture values (n, 2, H, W) at texture cell (x, y); reflected beyond its borders."""
    grid = torch.stack((x.squeeze(1), y.squeeze(1)), dim=-1) * (2.0 / _CELLS) - 1.0
    texture = _texture(str(x.device)).to(x.dtype).expand(x.shape[0], -1, -1, -1)
    return grid_sample(texture, grid, padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class Hair:
    """Layers of the hair: opacity before and behind the head, colours, shadow on the face."""

    front: Tensor
    back: Tensor
    colour: Tensor
    back_colour: Tensor
    shadow: Tensor


def grow_hair(rays: Rays, f: Fields, sky: Tensor) -> Hair:
    """All hair layers; sky is the ambient light, the key light comes from the rays."""
    px, py = rays.plane
    seed = 190.0 * f["strand_pattern"]
    curl = f["curl"]
    clumps = grain(px * 7.0 + seed, py * 7.0 + 60.0)
    rough = (clumps[:, 0:1] - 0.5) * (0.03 + 0.15 * curl * curl)
    shell = hair_shell(rays, f, rough * f["hairy"])
    (x, y, z), (nx, ny, nz) = shell.point, shell.normal
    side = x - f["parting"]
    top = 0.97 + f["hair_volume"]
    hang = (top - y + 0.30).clamp(min=0.12).sqrt()
    wave = curl * (0.10 * torch.sin(11.0 * y + 9.0 * f["strand_pattern"] + 4.0 * x))
    across = (side + wave) / hang + 0.5 * f["sweep"] * (y - 0.6).clamp(min=0.0)
    bend = curl * 1.6 * (clumps[:, 0:1] - 0.5)
    strand = grain((across + 0.12 * bend) * 30.0 + seed, y * (2.2 + 5.0 * curl) + 3.0 * bend + 40.0)
    lock = 0.60 * strand[:, 0:1] + 0.35 * strand[:, 1:2] + 0.20 * clumps[:, 1:2] - 0.075
    lock = (0.5 + 1.35 * (lock - 0.5)).clamp(0.0, 1.1)

    # where on the shell hair grows
    ax = x.abs()
    q = z * torch.rsqrt((x * x) / f["face_width"] ** 2 * 0.75 + z * z + 1e-4)
    recede = f["recede"]
    brow_line = f["hairline_y"] + recede * (0.75 + 0.7 * gauss(ax - 0.42, 0.22))
    fringe = f["fringe_on"] * (0.29 + 0.35 * f["sweep"] * side + 0.05 * (strand[:, 0:1] - 0.5))
    combed = (1.0 - f["fringe_on"]) * 0.30 * (ax * ax - 0.55 * gauss(side, 0.12))
    line = brow_line - fringe - combed - 0.16 * (lock - 0.5) * (0.4 + curl)
    from_top = y - line
    wall = 0.36 + 0.17 * f["long"] + 0.16 * f["long"] * f["curtain"]
    wall = wall - 0.55 * (1.0 - f["long"]) * (0.22 - y).clamp(min=0.0)
    from_side = (wall - q + 0.10 * (lock - 0.5)) * 0.62
    bottom = f["hair_bottom"] + 0.22 * (lock - 0.5) * (0.35 + f["long"])
    grows = torch.maximum(from_top, torch.minimum(from_side, y - bottom))
    soft = 0.9 * rays.pixel + 0.05
    outline = edge(shell.inside + 0.05 * (lock - 0.6), 0.7 * rays.pixel + 0.035)
    front = outline * edge(grows, soft) * f["hairy"]
    back = outline * edge(py - f["hair_bottom"] - 0.2 * (lock - 0.5), 0.10) * f["hairy"]
    shadow = edge(grows + 0.03 + 0.05 * rays.light[1], 0.16) * f["hairy"]

    # strand shading: diffuse on the shell, a highlight band across the strands
    lx, ly, lz = rays.light
    diffuse = nx * lx + ny * ly + nz * lz
    diffuse = (0.75 * diffuse + 0.25).clamp(min=0.0)
    hx, hy, hz = normalise(*(a + b for a, b in zip(rays.light, rays.direction, strict=True)))
    tilt = 0.35 * (strand[:, 1:2] - 0.5) + 0.5 * bend
    sheen = (hy - ny * (nx * hx + ny * hy + nz * hz)) + 0.30 * tilt
    band = gauss(sheen + 0.02, 0.17) * (0.35 + 0.9 * strand[:, 1:2]) * (1.0 - 0.5 * curl)
    depth = 0.22 + 1.25 * lock
    depth = depth * (1.0 - 0.45 * gauss(side, 0.028) * edge(y - line, 0.1) * (1.0 - f["fringe_on"]))
    depth = depth * (0.55 + 0.45 * edge(grows - 0.05, 0.22))
    base = f["hair_tone"]
    colour = base * depth * (0.85 * sky + f["key"] * diffuse)
    glow = (0.03 + 0.30 * base.clamp(max=0.5).sqrt()) * f["key"]
    colour = colour + band * depth * diffuse * glow
    inner = base * (0.34 + 0.45 * lock) * (0.55 * sky + 0.18 * f["key"])
    return Hair(front, back, colour, inner, shadow)
