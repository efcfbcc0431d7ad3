"""A vectorised renderer of synthetic portraits: the same codes always give the same picture.

`render` turns identity and nuisance codes into pictures by casting rays on a head, painting and
lighting its surface, and laying background, clothes, neck, ears, hair and glasses around it.
"""

import torch
from torch import Tensor

from clients.datasets.face_parameters import (
    BEARD_FROM,
    GLASSES_FROM,
    IDENTITY_PARAMETERS,
    LONG_FROM,
    NUISANCE_PARAMETERS,
    attributes,
    code,
    physical,
    sample_identity,
    sample_nuisance,
)
from clients.datasets.face_parts import (
    glasses_cover,
    nose_height,
    paint_beard,
    paint_brows,
    paint_eyes,
    paint_mouth,
    relief,
    skin_albedo,
    tint,
)
from clients.datasets.hair_parts import grain, grow_hair
from clients.datasets.head_geometry import (
    Fields,
    Rays,
    cast,
    edge,
    gauss,
    head_surface,
    mix,
    normalise,
    on_plane,
    project,
)

__all__ = [
    "IDENTITY_PARAMETERS",
    "NUISANCE_PARAMETERS",
    "attributes",
    "render",
    "sample_identity",
    "sample_nuisance",
]

_PIXELS_PER_CHUNK = 16 * 64 * 64
_HAIR = (
    (0.10, 0.085, 0.08),
    (0.33, 0.215, 0.14),
    (0.80, 0.64, 0.40),
    (0.60, 0.25, 0.11),
    (0.74, 0.715, 0.68),
)


def _hue(hue: Tensor, saturation: Tensor, light: Tensor) -> Tensor:
    """A colour from hue, saturation and lightness, in linear light, (n, 3, 1, 1)."""
    turn = hue + hue.new_tensor([0.0, -1.0 / 3.0, 1.0 / 3.0]).reshape(1, 3, 1, 1)
    return light * (1.0 - saturation * (0.5 - 0.5 * torch.cos(6.2832 * turn)))


def _fields(identity: Tensor, nuisance: Tensor) -> Fields:
    """Physical values of all parameters, and the values that follow from several of them."""
    f = physical(identity, IDENTITY_PARAMETERS) | physical(nuisance, NUISANCE_PARAMETERS)

    def above(name: str, start: float) -> Tensor:
        part = (code(identity, name) - start) / (1.0 - start)
        return part.reshape(-1, 1, 1, 1)

    f["mouth_y"] = -f["nose_length"] - f["mouth_height"] * (f["face_length"] - f["nose_length"])
    f["brow_y"] = f["brow_height"] + f["brow_raise"]
    f["lid"] = (1.0 - 0.85 * f["blink"]) * (1.0 - 0.20 * f["smile"])
    kinds = attributes(identity)
    tones = identity.new_tensor(_HAIR) ** 2
    tone = tones[kinds["hair_color"]].reshape(-1, 3, 1, 1) * f["hair_shade"]
    tone = tone * (1.0 - 0.45 * f["skin_tone"] ** 2)
    f["hair_tone"] = tone
    f["brow_colour"] = tone * 0.34 + 0.003
    f["beard_colour"] = tone * 0.60 + 0.004
    beard = above("beard", BEARD_FROM)
    f["beard_on"] = (beard > 0).float() * (0.62 + 0.38 * beard.clamp(min=0.0))
    f["lip_colour"] = f["lip_colour"] * (1.0 - 0.4 * f["beard_on"])
    f["lashes"] = f["lashes"] * (1.0 - 0.4 * f["beard_on"])
    glasses = above("glasses", GLASSES_FROM)
    f["glasses_on"] = (glasses > 0).float()
    f["glasses_light"] = 0.10 * (1.0 - glasses.clamp(min=0.0))
    long = above("hair_length", LONG_FROM)
    is_long = (long > 0).float()
    f["long"] = is_long * (0.55 + 0.45 * long.clamp(min=0.0))
    f["hair_bottom"] = torch.where(long > 0, -0.72 - 1.0 * long, -0.06 - 0.20 * f["hair_length"])
    crop = (f["hair_length"] / LONG_FROM).clamp(max=1.0)
    f["hair_volume"] = f["hair_volume"] * (0.22 + 0.78 * crop) + 0.02
    bald = above("hairline_recede", 0.70).clamp(min=0.0) * (1.0 - 0.6 * is_long)
    f["recede"] = 0.55 * bald * bald + 0.12 * bald
    f["hair_volume"] = f["hair_volume"] * (1.0 - 0.7 * bald)
    f["fringe_on"] = (
        (above("fringe", 0.55).clamp(min=0.0) * 2.5).clamp(max=1.0)
        * (0.25 + 0.75 * crop)
        * (1.0 - 2.5 * bald).clamp(min=0.0)
    )
    f["hairline_y"] = f["hairline"] + 0.5 * f["hair_volume"]
    f["curtain"] = 0.5 + f["sweep"]
    f["hairy"] = torch.ones_like(crop)
    warm = f["light_warmth"]
    f["key"] = f["light_strength"] * torch.cat((1.0 + 0.12 * warm, 1.0 + 0.0 * warm, 1.0 - 0.16 * warm), dim=1)
    return f


def _background(rays: Rays, f: Fields) -> Tensor:
    """An out-of-focus background: a gradient and soft blobs."""
    u, v = rays.frame
    base = _hue(f["back_hue"], f["back_saturation"], f["back_light"])
    shade = 1.0 + f["back_gradient"] * (0.6 * u + v)
    picture = base * shade
    for i in range(4):
        angle = 6.2832 * (f["back_pattern"] * (1.0 + i) + 0.27 * i)
        bx, by = 1.05 * angle.cos(), 0.85 * torch.sin(2.3 * angle + i)
        blob = gauss(u - bx, 0.22 + 0.09 * i) * gauss(v - by, 0.55 - 0.1 * i)
        colour = _hue(f["back_hue"] + 0.17 * (i - 1), f["back_saturation"], 1.0 - f["back_light"])
        picture = mix(picture, colour * (0.4 + 0.2 * i), 0.75 * f["back_blobs"] * blob)
    return picture.clamp(min=0.0)


def _light(nx: Tensor, ny: Tensor, nz: Tensor, rays: Rays, f: Fields, gloss: Tensor | float) -> tuple[Tensor, Tensor]:
    """Light arriving on skin (with a warm terminator), and the specular highlight."""
    lx, ly, lz = rays.light
    lambert = nx * lx + ny * ly + nz * lz
    wrap = tint(nx, 0.36, 0.20, 0.13)
    key = ((lambert + wrap) / (1.0 + wrap)).clamp(min=0.0)
    sky = 0.25 + 0.09 * ny - 0.05 * (nx * lx)
    hx, hy, hz = normalise(*(a + b for a, b in zip(rays.light, rays.direction, strict=True)))
    shine = (nx * hx + ny * hy + nz * hz).clamp(min=0.0) ** 2
    shine = shine * shine
    shine = shine * shine
    shine = shine * (0.15 + 0.85 * shine)
    return f["key"] * key + sky, shine * gloss * f["light_strength"]


def _bust(picture: Tensor, rays: Rays, f: Fields, inside: Tensor, skin: Tensor) -> Tensor:
    """Neck with the shadow of the chin, shoulders and clothes."""
    zero = torch.zeros_like(f["yaw"])
    nx, _ = project(rays, zero, -f["face_length"], zero - 0.25, f)
    vy = rays.plane[1]
    chin = -f["face_length"]
    below = (chin - 0.05 - vy).clamp(min=0.0)
    width = f["neck_width"] + 0.6 * below * below
    u = nx / width
    neck = edge((1.0 - u.abs()) * width, 1.2 * rays.pixel) * edge(-0.3 - vy, 0.1)
    cu = u.clamp(-0.97, 0.97)
    light, _ = _light(cu, 0.0 * cu - 0.1, (1.0 - cu * cu).sqrt(), rays, f, 0.0)
    shade = 1.0 - 0.68 * edge(inside + 0.10 + 0.14 * rays.light[1], 0.34)
    tendon = 1.0 - 0.12 * gauss(u.abs() - 0.45, 0.13)
    picture = mix(picture, skin * light * shade * tendon * 0.92, neck)
    shoulder = chin - 0.16 - 0.34 * (nx.abs() - 0.30).clamp(min=0.0)
    shoulder = shoulder - 0.10 * (nx * nx)
    cut = chin - 0.26 - f["cloth_cut"] * 0.16 + (0.6 + 0.5 * f["cloth_cut"]) * nx * nx / 0.5
    inset = torch.minimum(shoulder - vy, cut - vy)
    cloth = edge(inset, 1.2 * rays.pixel)
    body = edge(shoulder - 0.03 - vy, 0.10)
    bare = skin * (0.30 + f["key"] * (0.62 + 0.2 * nx * rays.light[0])) * shade
    picture = mix(picture, bare, body)
    colour = _hue(f["cloth_hue"], torch.full_like(f["yaw"], 0.62), f["cloth_light"])
    fold = 0.85 + 0.15 * torch.sin(7.0 * nx + 5.0 * vy) - 0.35 * gauss(inset - 0.045, 0.016)
    cloth_light = 0.30 + f["key"] * (0.55 + 0.30 * nx * rays.light[0])
    return mix(picture, colour * fold * cloth_light, cloth)


def _ears(picture: Tensor, rays: Rays, f: Fields, skin: Tensor) -> Tensor:
    """Both ears, which slide along the head as it turns."""
    size = f["ear_size"]
    for sign in (-1.0, 1.0):
        reach = sign * (f["face_width"] - 0.02)
        ex, ey = project(rays, reach, -0.10 + 0.0 * reach, 0.0 * reach - 0.08, f)
        ex = ex * sign - 0.10 * ey
        radius = ((ex / (0.10 * size)) ** 2 + (ey / (0.22 * size)) ** 2 + 1e-6).sqrt()
        cover = edge(1.0 - radius, 14.0 * rays.pixel)
        rim = 0.62 + 0.42 * edge(radius - 0.62, 0.35)
        lit = 0.28 + f["key"] * (0.50 + 0.28 * sign * rays.light[0])
        picture = mix(picture, skin * rim * lit * tint(ex, 1.0, 0.86, 0.84), cover)
    return picture


def _face(rays: Rays, f: Fields) -> tuple[Tensor, Tensor, Tensor]:
    """The lit head without hair: its colour, opacity, and inside distance to the outline."""
    head = head_surface(rays, f)
    (x, y, _), (nx, ny, nz) = head.point, head.normal
    lean_x = rays.direction[0] / rays.direction[2]
    lean_y = rays.direction[1] / rays.direction[2]
    fx, fy = x, y
    for _ in range(2):
        out = nose_height(fx, fy, f)
        fx, fy = x + out * lean_x, y + out * lean_y
    fx = fx - f["asym_nose"] * gauss(fy + f["nose_length"], 0.2) * gauss(fx, 0.25)
    spots = grain(fx * 36.0 + 60.0 + 150.0 * f["freckle_pattern"], fy * 36.0 + 90.0)
    hairs = grain(fx * 40.0 + 128.0, fy * 22.0 + 80.0)
    albedo = skin_albedo(fx, fy, spots, f)
    albedo = paint_beard(albedo, fx, fy, hairs, f)
    albedo = paint_mouth(albedo, fx, fy, f)
    albedo, wet, ball = paint_eyes(albedo, fx, fy, f, rays.pixel)
    albedo = paint_brows(albedo, fx, fy, hairs, f)
    gx, gy, occlusion = relief(fx, fy, f)
    facing = nz.clamp(min=0.0)
    nx, ny, nz = normalise(nx - gx * facing, ny - gy * facing, nz)
    light, shine = _light(nx, ny, nz, rays, f, 0.20 * f["oiliness"])
    sx = fx + 0.16 * rays.light[0]
    cast_shadow = gauss(sx, 0.07) * gauss(fy + 0.75 * f["nose_length"], 0.16)
    cast_shadow = cast_shadow * edge(-fx * rays.light[0] - 0.02, 0.1) * rays.light[0].abs()
    light = light * occlusion * (1.0 - 0.45 * cast_shadow)
    rim = (1.0 - nz.clamp(0.0, 1.0)) ** 3
    colour = albedo * light * (1.0 - 0.35 * rim) + shine * occlusion * (1.0 - 0.85 * ball) + wet
    return colour, edge(head.inside, 1.3 * rays.pixel), head.inside


def _picture(identity: Tensor, nuisance: Tensor, size: int) -> Tensor:
    """One chunk of pictures in linear light, before the camera."""
    f = _fields(identity, nuisance)
    rays = cast(size, f)
    face, cover, inside = _face(rays, f)
    hair = grow_hair(rays, f, torch.full_like(f["yaw"], 0.32))
    zero = torch.zeros_like(f["yaw"])
    skin = skin_albedo(zero + 0.9, zero + 0.7, torch.full_like(zero, 0.5).repeat(1, 2, 1, 1), f)
    picture = _background(rays, f)
    picture = mix(picture, hair.back_colour, hair.back)
    picture = _bust(picture, rays, f, inside, skin)
    picture = _ears(picture, rays, f, skin)
    face = face * (1.0 - 0.5 * hair.shadow)
    picture = mix(picture, face, cover)
    gx, gy = on_plane(rays, 0.62 + 0.33 * f["face_width"])
    frame, lens, glare = glasses_cover(gx, gy, cover, f, rays.pixel)
    picture = picture * (1.0 - 0.14 * lens) + 0.06 * glare * f["light_strength"]
    picture = mix(picture, f["glasses_light"] + 0.01 + 0.05 * glare, frame * 0.95)
    return mix(picture, hair.colour, hair.front)


def _camera(picture: Tensor, nuisance: Tensor, noise: Tensor | None) -> Tensor:
    """Exposure, white balance, tone curve and sensor noise."""
    f = physical(nuisance, NUISANCE_PARAMETERS)
    warm = 0.08 * f["white_balance"]
    gain = torch.exp2(f["exposure"]) * torch.cat((1.0 + warm, 1.0 + 0.0 * warm, 1.0 - warm), dim=1)
    light = (picture * gain).clamp(min=0.0)
    light = light * (1.0 + 0.12 * light) / (1.0 + 0.42 * light * light)
    display = (light + 1e-5).sqrt()
    if noise is not None:
        display = display + f["noise"] * noise
    return display.clamp(0.0, 1.0)


def render(identity: Tensor, nuisance: Tensor, size: int, noise: Tensor | None = None) -> Tensor:
    """Pictures (n, 3, size, size) in [0, 1] of the coded faces, on the device of the codes."""
    step = max(1, _PIXELS_PER_CHUNK // (size * size))
    parts = []
    for start in range(0, identity.shape[0], step):
        part = slice(start, start + step)
        linear = _picture(identity[part], nuisance[part], size)
        parts.append(_camera(linear, nuisance[part], None if noise is None else noise[part]))
    if not parts:
        return identity.new_zeros(0, 3, size, size)
    return torch.cat(parts)
