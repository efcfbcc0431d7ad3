"""Rays, the head surface and the hair shell: from pixels to points in head coordinates."""

from dataclasses import dataclass

import torch
from torch import Tensor

Fields = dict[str, Tensor]
FRAME = 1.13  # half frame in head units
EYE_LINE = 0.075  # eyes above the frame centre, in half frames


@dataclass(frozen=True)
class Rays:
    """Parallel rays in head coordinates: origin + t * direction; pixel is their spacing."""

    origin: tuple[Tensor, Tensor, Tensor]
    direction: tuple[Tensor, Tensor, Tensor]
    plane: tuple[Tensor, Tensor]
    frame: tuple[Tensor, Tensor]
    light: tuple[Tensor, Tensor, Tensor]
    pixel: float


@dataclass(frozen=True)
class Surface:
    """Where rays meet a surface: the point, its normal, and the inside distance to the outline."""

    point: tuple[Tensor, Tensor, Tensor]
    normal: tuple[Tensor, Tensor, Tensor]
    inside: Tensor


def gauss(x: Tensor, width: Tensor | float) -> Tensor:
    """A smooth bell of height one, about exp(-(x / width)^2), zero beyond twice the width."""
    q = x * (0.5 / width)
    return (1.0 - q * q).clamp(min=0.0).square().square()


def mix(under: Tensor, over: Tensor, cover: Tensor) -> Tensor:
    """Lay `over` on `under` with the given opacity."""
    return under + (over - under) * cover


def edge(distance: Tensor, width: Tensor | float) -> Tensor:
    """Soft step: 0 outside, 1 inside, a ramp of the given width around distance 0."""
    return (distance * (1.0 / width) + 0.5).clamp(0.0, 1.0)


def normalise(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The unit vector along (x, y, z)."""
    r = torch.rsqrt(x * x + y * y + z * z + 1e-8)
    return x * r, y * r, z * r


def cast(size: int, nuisance: Fields) -> Rays:
    """Orthographic rays of all pixels for the pose given by the nuisance values."""
    yaw, pitch, roll = nuisance["yaw"], nuisance["pitch"], nuisance["roll"]
    axis = (torch.arange(size, device=yaw.device, dtype=yaw.dtype) + 0.5) / size * 2.0 - 1.0
    u, v = axis.reshape(1, 1, 1, size), -axis.reshape(1, 1, size, 1)
    scale = FRAME / nuisance["scale"]
    px = (u - nuisance["shift_x"]) * scale
    py = (v - EYE_LINE - nuisance["shift_y"]) * scale
    vx = px * roll.cos() + py * roll.sin()
    vy = py * roll.cos() - px * roll.sin()
    cy, sy, cp, sp = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
    origin = (cy * vx - sy * sp * vy, cp * vy + 0.0 * vx, sy * vx + cy * sp * vy)
    direction = (-sy * cp, -sp, cy * cp)
    lx, ly, lz = normalise(nuisance["light_x"], nuisance["light_y"], torch.full_like(yaw, 0.85))
    ay, az = cp * ly - sp * lz, sp * ly + cp * lz
    light = (cy * lx - sy * az, ay, sy * lx + cy * az)
    return Rays(origin, direction, (vx, vy), (u, v), light, 2.0 * FRAME / size)


def _meet(rays: Rays, rx: Tensor, ry: Tensor, rz: Tensor) -> tuple[Tensor, Tensor]:
    """Parameter t of the front intersection with an ellipsoid, and its normalised discriminant."""
    (ox, oy, oz), (dx, dy, dz) = rays.origin, rays.direction
    ix, iy, iz = 1.0 / (rx * rx), 1.0 / (ry * ry), 1.0 / (rz * rz)
    a = dx * dx * ix + dy * dy * iy + dz * dz * iz
    b = dx * ox * ix + dy * oy * iy + dz * oz * iz
    c = ox * ox * ix + oy * oy * iy + oz * oz * iz - 1.0
    gap = b * b / a - c
    t = -b / a + (gap.clamp(min=0.0) / a).sqrt()
    return t, gap


def _head_profile(y: Tensor, f: Fields) -> tuple[Tensor, Tensor]:
    """Width factor of the head at height y, and its slope."""
    u = (-y - 0.08).clamp(min=0.0) / f["face_length"]
    bump = gauss(y + 0.62 * f["face_length"], 0.24)
    k = 1.0 - f["jaw_taper"] * u * u + f["jaw_square"] * bump
    k = k + f["cheek_fullness"] * gauss(y + 0.38, 0.2) + 0.10 * gauss(y - 0.55, 0.34)
    slope = 2.0 * f["jaw_taper"] * u / f["face_length"]
    return k, slope


def head_surface(rays: Rays, f: Fields) -> Surface:
    """The smooth head: an ellipsoid whose width follows the jaw and cheek profile."""
    width, depth = f["face_width"], 0.60 + 0.35 * f["face_width"]
    y = rays.origin[1] + 0.55 * rays.direction[1]
    for _ in range(2):
        k, slope = _head_profile(y, f)
        ry = torch.where(y > 0.0, 0.95, f["face_length"])
        t, gap = _meet(rays, width * k, ry, depth * (0.45 + 0.55 * k))
        y = rays.origin[1] + t * rays.direction[1]
    x = rays.origin[0] + t * rays.direction[0]
    z = rays.origin[2] + t * rays.direction[2]
    nx, nz = x / (width * k) ** 2, z / depth**2
    ny = y / (ry * ry) - (x * nx + 0.4 * z * nz) * slope
    return Surface((x, y, z), normalise(nx, ny, nz), 0.40 * gap)


def hair_shell(rays: Rays, f: Fields, rough: Tensor) -> Surface:
    """The outer surface of the hair: a larger skull that, when long, hangs down as a curtain."""
    volume, long = f["hair_volume"], f["long"]
    width = f["face_width"] + 0.02 + 0.55 * volume
    depth = 0.64 + 0.35 * f["face_width"] + 0.25 * volume
    y = rays.origin[1] + 0.4 * rays.direction[1]
    for _ in range(2):
        below = (0.25 - y).clamp(min=0.0)
        flare = long * (0.10 * below + 0.35 * volume * gauss(y + 0.55, 0.6)) - (1.0 - long) * (
            (0.05 + 0.5 * volume) * (below * 2.4).clamp(max=1.0)
        )
        ry = torch.where(y > 0.0, 0.97 + volume, 1.0 + 2.2 * long)
        k = 1.0 + flare + rough + 0.08 * gauss(y - 0.60, 0.34)
        t, gap = _meet(rays, width * k, ry * (1.0 + rough), depth)
        y = rays.origin[1] + t * rays.direction[1]
    x = rays.origin[0] + t * rays.direction[0]
    z = rays.origin[2] + t * rays.direction[2]
    nx, ny, nz = x / (width * k) ** 2, y / (ry * ry), z / (depth * depth)
    return Surface((x, y, z), normalise(nx, ny, nz), 0.42 * gap)


def on_plane(rays: Rays, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays cross the head-fixed frontal plane z = depth (for glasses)."""
    t = (depth - rays.origin[2]) / rays.direction[2]
    return rays.origin[0] + t * rays.direction[0], rays.origin[1] + t * rays.direction[1]


def project(rays: Rays, x: Tensor, y: Tensor, z: Tensor, f: Fields) -> tuple[Tensor, Tensor]:
    """Distance of every pixel from the picture of head point (x, y, z), along view axes."""
    cy, sy, cp, sp = f["yaw"].cos(), f["yaw"].sin(), f["pitch"].cos(), f["pitch"].sin()
    ax, az = cy * x + sy * z, cy * z - sy * x
    return rays.plane[0] - ax, rays.plane[1] - (cp * y + sp * az)
