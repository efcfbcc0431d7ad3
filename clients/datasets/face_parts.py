"""The face painted in face coordinates: relief, skin, eyes, brows, nose, mouth and glasses.

All fields are (n, 1, H, W), colours (n, 3, ...) in linear light, x to the right and y up.
"""

import torch
from torch import Tensor

from clients.datasets.head_geometry import Fields, edge, gauss, mix

_SKIN = (
    (0.97, 0.84, 0.77),
    (0.93, 0.76, 0.66),
    (0.84, 0.64, 0.51),
    (0.70, 0.49, 0.36),
    (0.51, 0.345, 0.245),
    (0.34, 0.225, 0.165),
)
_IRIS = (
    (0.20, 0.10, 0.05),
    (0.34, 0.19, 0.08),
    (0.38, 0.33, 0.14),
    (0.24, 0.40, 0.26),
    (0.26, 0.46, 0.66),
    (0.46, 0.53, 0.58),
)


def ramp(stops: tuple[tuple[float, float, float], ...], x: Tensor) -> Tensor:
    """Colour at x in [0, 1] along evenly spaced sRGB stops, in linear light, (n, 3, 1, 1)."""
    table = x.new_tensor(stops) ** 2
    position = x.reshape(-1).clamp(0.0, 1.0) * (len(stops) - 1)
    low = position.floor().clamp(max=len(stops) - 2).long()
    part = (position - low).unsqueeze(1)
    return torch.lerp(table[low], table[low + 1], part).reshape(-1, 3, 1, 1)


def tint(like: Tensor, red: float, green: float, blue: float) -> Tensor:
    """A constant colour, (1, 3, 1, 1)."""
    return like.new_tensor([red, green, blue]).reshape(1, 3, 1, 1)


def nose_height(x: Tensor, y: Tensor, f: Fields) -> Tensor:
    """How far the nose stands out of the face."""
    tip = -f["nose_length"]
    ridge = (f["nose_bridge"] + 0.04) * gauss(y - 0.42 * tip, 0.24) * gauss(x, 0.10)
    return ridge + 0.20 * gauss(y - tip, 0.13) * gauss(x, 1.15 * f["nose_tip"])


def relief(x: Tensor, y: Tensor, f: Fields) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of the face relief along x and y, and the ambient occlusion (1 is open)."""
    ax = (x * x + 1e-4).sqrt()
    sign = x / ax
    tip, mouth = -f["nose_length"], f["mouth_y"]
    smile, age, width = f["smile"], f["age"], f["face_width"]
    bumps: tuple[tuple[Tensor | float, Tensor | float, float, float, Tensor | float], ...] = (
        (0.0, 0.42 * tip, 0.075, 0.25, f["nose_bridge"] + 0.02),
        (0.0, tip + 0.01, 0.085, 0.085, 0.55 * f["nose_tip"] + 0.03),
        (0.72 * f["nose_width"], tip - 0.03, 0.055, 0.06, 0.045),
        (f["eye_spacing"] - 0.02, 0.09, 0.17, 0.10, -0.055),
        (f["eye_spacing"], 0.0, 0.13, 0.09, 0.035),
        (0.26, f["brow_y"] - 0.01, 0.22, 0.075, 0.03),
        (0.68 * width, -0.20, 0.17, 0.13, f["cheekbones"]),
        (0.36, tip + 0.02, 0.14, 0.13, 0.022 + 0.045 * smile),
        (0.60 * width, mouth, 0.15, 0.20, -0.03 + 0.4 * f["cheek_fullness"]),
        (0.0, -0.88 * f["face_length"], 0.17, 0.12, f["chin_relief"] + 0.01),
        (0.0, mouth - 0.17, 0.17, 0.05, -0.03),
        (0.0, mouth + 0.04, 0.17, 0.05, 0.018),
        (0.0, mouth - 0.06, 0.15, 0.05, 0.028),
        (0.0, 0.5 * (mouth + tip) - 0.02, 0.035, 0.07, -0.014),
    )
    gx, gy = torch.zeros_like(x), torch.zeros_like(x)
    for bx, by, sx, sy, amount in bumps:
        qx, qy = (ax - bx) * (0.5 / sx), (y - by) * (0.5 / sy)
        c = (1.0 - qx * qx - qy * qy).clamp(min=0.0)
        g = c * c * c
        gx = gx - (4.0 / sx * amount) * (qx * g)
        gy = gy - (4.0 / sy * amount) * (qy * g)
    fold = ax - (0.20 + 0.55 * (tip - 0.02 - y) + 0.05 * smile)
    along = edge(tip + 0.06 - y, 0.08) * edge(y - mouth + 0.10, 0.12)
    depth = (0.12 + 0.45 * age + 0.40 * smile) * along
    gx = gx + 0.5 * depth * (fold / 0.045) * gauss(fold, 0.06)
    lines = (age - 0.35).clamp(min=0.0) * edge(y - f["brow_y"] - 0.08, 0.08) * gauss(ax, 0.38)
    gy = gy + 0.6 * lines * torch.sin(52.0 * y + 7.0 * ax * ax + 1.5 * x)
    occlusion = 1.0 - 0.42 * gauss(ax - f["eye_spacing"] + 0.09, 0.11) * gauss(y - 0.07, 0.08)
    under = gauss(ax, 1.05 * f["nose_width"]) * gauss(y - tip + 0.095, 0.05)
    occlusion = occlusion * (1.0 - 0.45 * under) * (1.0 - 0.24 * depth * gauss(fold, 0.045))
    occlusion = occlusion * (1.0 - 0.30 * gauss(ax, 0.18) * gauss(y - mouth + 0.17, 0.045))
    wing = gauss(ax - 1.22 * f["nose_width"], 0.028) * gauss(y - tip + 0.02, 0.06)
    gx, gy = 1.3 * gx, 1.3 * gy
    return gx * sign, gy, occlusion * (1.0 - 0.25 * wing)


def skin_albedo(x: Tensor, y: Tensor, grain: Tensor, f: Fields) -> Tensor:
    """Skin colour with blush, freckles, dark rings, age spots, a mole and nostrils."""
    ax, tip = x.abs(), -f["nose_length"]
    base = ramp(_SKIN, f["skin_tone"])
    hue = f["skin_hue"].clamp(-1.0, 1.0)
    base = base * torch.cat((1.0 + 0.0 * hue, 1.0 + 0.06 * hue, 0.91 - 0.15 * hue), dim=1)
    cheeks = gauss(ax - 0.40, 0.20) * gauss(y + 0.26, 0.16) + 0.4 * gauss(ax, 0.12) * gauss(y - tip, 0.10)
    red = (0.06 + 0.72 * f["blush"]) * cheeks
    skin = base * (1.0 - red * tint(x, 0.05, 0.42, 0.38))
    skin = skin * (1.0 + 0.05 * (grain[:, 0:1] - 0.5))
    spots = edge(grain[:, 1:2] - 0.62, 0.20) * gauss(ax, 0.62) * gauss(y + 0.2, 0.32)
    fair = (1.0 - 0.6 * f["skin_tone"]) * f["freckles"].clamp(min=0.0)
    freckles = fair * spots + 0.25 * (f["age"] - 0.6).clamp(min=0.0) * spots
    skin = skin * (1.0 - freckles * tint(x, 0.34, 0.52, 0.60))
    ring = gauss(ax - f["eye_spacing"] + 0.02, 0.14) * gauss(y + 0.115, 0.05)
    skin = skin * (1.0 - f["eye_bags"] * ring * tint(x, 0.62, 0.70, 0.60))
    feet = gauss(ax - f["eye_spacing"] - 0.21, 0.05) * edge(0.09 - (y - 0.0).abs(), 0.05)
    crow = (f["age"] + 0.6 * f["smile"] - 0.6).clamp(min=0.0)
    skin = skin * (1.0 - 0.28 * crow * feet * (0.5 + 0.5 * torch.sin(75.0 * y)))
    mole = edge(f["mole_size"] - ((x - f["mole_x"]) ** 2 + (y - f["mole_y"]) ** 2).sqrt(), 0.03)
    skin = mix(skin, base * tint(x, 0.20, 0.13, 0.11), mole * 0.9)
    nostril = gauss(ax - 0.52 * f["nose_width"], 0.042) * gauss(y - tip + 0.078, 0.026)
    return skin * (1.0 - f["nose_upturn"] * nostril * tint(x, 0.80, 0.88, 0.88))


def paint_brows(skin: Tensor, x: Tensor, y: Tensor, grain: Tensor, f: Fields) -> Tensor:
    """Brows with a soft, hairy texture."""
    side = torch.sign(x) * f["asym_eyes"]
    along = (x.abs() - f["eye_spacing"] - 0.015) / 0.215
    middle = f["brow_y"] + side + f["brow_arch"] * (0.3 - along * along)
    middle = middle + 0.215 * f["brow_tilt"] * along
    thick = f["brow_thickness"] * (1.0 - 0.42 * along.clamp(min=0.0)) * 1.15
    shape = edge(thick - (y - middle).abs(), 0.05) * edge(1.0 - along.abs(), 0.28)
    density = f["brow_dark"] * (0.78 + 0.32 * grain[:, 1:2]).clamp(max=1.0)
    return mix(skin, f["brow_colour"], (shape * density).clamp(max=0.96))


def paint_eyes(skin: Tensor, x: Tensor, y: Tensor, f: Fields, pixel: float) -> tuple[Tensor, Tensor, Tensor]:
    """Both eyes over the skin; also their wet highlights and where the eyeball shows."""
    side = torch.sign(x)
    half = f["eye_size"]
    u = (x.abs() - f["eye_spacing"]) / half
    v = y - side * f["asym_eyes"] * 0.8 - half * f["eye_tilt"] * u
    open_ = half * f["eye_open"] * f["lid"]
    arc = (1.0 - u * u).clamp(min=0.0)
    upper = open_ * (arc * (1.08 - 0.14 * u)).clamp(min=0.0).sqrt() * (0.35 + 0.65 * arc)
    lower = -0.62 * half * f["eye_open"] * arc * (1.0 + 0.18 * u) * (1.0 - 0.25 * f["smile"])
    lower = torch.minimum(lower, upper)
    soft = 0.6 * pixel + 0.012
    white = edge(torch.minimum(upper - v, v - lower), soft) * edge(1.02 - u.abs(), 0.12)
    lash = f["lashes"]
    lid = 0.5 * edge(v - upper, 0.03) * gauss(v - upper, 0.10) * edge(1.1 - u.abs(), 0.2)
    skin = skin * (1.0 - lid * (0.25 + 0.55 * (lash - 0.5).clamp(min=0.0)) * tint(x, 0.7, 0.8, 0.7))
    crease_at = upper + 0.028 + 0.035 * f["lid_crease"]
    crease = (0.15 + 0.6 * f["lid_crease"]) * gauss(v - crease_at, 0.017) * edge(1.15 - u.abs(), 0.3)
    skin = skin * (1.0 - crease * tint(x, 0.55, 0.62, 0.62))
    ex = x - side * f["eye_spacing"] - f["gaze"]
    radius = (ex * ex + (v - 0.10 * open_) ** 2).sqrt()
    size = 0.020 + 0.275 * half
    dark = (1.5 * f["skin_tone"] - 0.45).clamp(0.0, 0.85)
    iris = ramp(_IRIS, f["iris_hue"] * (1.0 - dark)) * f["iris_light"] ** 2
    iris = iris * (0.55 + 0.9 * (radius / size).clamp(max=1.0))
    iris = iris * (1.0 - 0.75 * edge(radius - 0.88 * size, 0.03))
    sclera = tint(x, 0.74, 0.70, 0.66) * (1.0 - 0.45 * u * u)
    ball = mix(sclera, iris, edge(size - radius, soft))
    ball = mix(ball, torch.zeros_like(ball), edge(0.43 * size - radius, soft) * 0.97)
    ball = ball * (1.0 - 0.60 * gauss(upper - v, 0.035))
    skin = mix(skin, ball, white)
    line = gauss(v - upper - 0.004, 0.012 + 0.010 * lash) * edge(1.12 - u.abs(), 0.2)
    skin = skin * (1.0 - (0.55 + 0.42 * lash) * line)
    rim = gauss(v - lower, 0.014) * edge(1.0 - u.abs(), 0.3)
    skin = skin * (1.0 - 0.42 * lash * rim)
    shine = gauss(ex + 0.028, 0.019) * gauss(v - 0.030, 0.019) * white
    return skin, 0.85 * shine, white


def paint_mouth(skin: Tensor, x: Tensor, y: Tensor, f: Fields) -> Tensor:
    """Lips, and teeth or the dark inside when the mouth is open."""
    smile, opening = f["smile"], f["mouth_open"]
    half = f["mouth_width"] * (1.0 + 0.20 * smile)
    u = x / half
    arc = (1.0 - u * u).clamp(min=0.0)
    line = f["mouth_y"] + f["asym_mouth"] * x * (0.6 + 0.4 * smile)
    line = line + (0.080 * smile + 0.008) * (u * u).clamp(max=1.2) - 0.02 * smile
    gap = (0.062 * smile + 0.065 * opening * (0.14 + 0.86 * smile)) * arc
    bow = 1.0 - f["cupid_bow"] * gauss(u, 0.20) + 0.25 * gauss(u.abs() - 0.3, 0.22)
    up = line + 0.45 * gap
    down = line - 0.75 * gap
    tall = f["upper_lip"] * arc.sqrt() * (0.25 + 0.75 * arc) * bow * (1.0 - 0.25 * smile)
    deep = f["lower_lip"] * arc.sqrt() * (0.35 + 0.65 * arc) * (1.0 - 0.12 * smile)
    lips = edge(torch.minimum(up + tall - y, y - down + deep), 0.035) * edge(1.0 - u.abs(), 0.10)
    shade = torch.where(y > line, 0.80, 1.06)
    strength = 0.6 + 0.4 * f["lip_colour"]
    natural = skin * tint(x, 0.86, 0.50, 0.52)
    painted = tint(x, 0.42, 0.045, 0.06) * (0.60 + 0.6 * skin[:, :1])
    colour = mix(natural, painted, (1.5 * f["lip_colour"] - 0.4).clamp(min=0.0)) * shade
    skin = mix(skin, colour, lips * (0.5 + 0.5 * strength))
    inside = edge(torch.minimum(up - y, y - down), 0.022) * edge(1.0 - u.abs(), 0.10)
    teeth = edge(y - (up - 0.078 - 0.02 * smile), 0.03) * (1.0 - 0.55 * u * u)
    wall = mix(tint(x, 0.09, 0.022, 0.022), tint(x, 0.80, 0.76, 0.68), teeth)
    skin = mix(skin, wall, inside)
    part = gauss(y - line, 0.015 + 0.4 * gap) * edge(1.05 - u.abs(), 0.12) * (1.0 - inside)
    corner = gauss(u.abs() - 1.02, 0.09) * gauss(y - line, 0.028)
    return skin * (1.0 - (0.62 * part + 0.40 * corner) * tint(x, 0.75, 0.95, 0.95))


def paint_beard(skin: Tensor, x: Tensor, y: Tensor, grain: Tensor, f: Fields) -> Tensor:
    """Beard and moustache as textured regions with soft edges."""
    ax, mouth, tip = x.abs(), f["mouth_y"], -f["nose_length"]
    full = f["beard_shape"]
    reach = 0.30 + 0.62 * full
    border = mouth - 0.05 + 0.9 * (ax - 0.30).clamp(min=0.0) * full + 0.10 * full
    noisy = 0.10 * (grain[:, 1:2] - 0.5)
    chin = edge(border - y + noisy, 0.12) * edge(reach - ax + noisy, 0.16)
    lip = 0.5 * (mouth + tip) - 0.055 - 0.45 * ax * ax
    tash = edge(0.055 - (y - lip).abs() + 0.5 * noisy, 0.05) * edge(1.25 * f["mouth_width"] - ax, 0.1)
    bridge = gauss(ax - 1.25 * f["mouth_width"], 0.07) * edge(lip - y, 0.08)
    bare = gauss(x, f["mouth_width"]) * gauss(y - mouth, 0.06)
    moustache = tash * (0.25 + 0.75 * f["moustache"])
    area = torch.maximum(torch.maximum(chin, bridge * f["moustache"]), moustache)
    density = f["beard_on"] * (0.55 + 0.6 * grain[:, 0:1]).clamp(max=1.0)
    cover = (area * (1.0 - 0.85 * bare) * density).clamp(max=0.97)
    tone = f["beard_colour"] * (0.55 + 0.9 * grain[:, 1:2])
    return mix(skin, tone, cover)


def glasses_cover(x: Tensor, y: Tensor, face: Tensor, f: Fields, pixel: float) -> tuple[Tensor, Tensor, Tensor]:
    """Opacity of the frame (its arms only over the face), of the lenses, and of their glare."""
    size = f["glasses_size"]
    ax = x.abs()
    qx, qy = (ax - 0.295).abs() / (0.215 * size), (y + 0.02).abs() / (0.175 * size)
    round_ = (qx * qx + qy * qy + 1e-6).sqrt()
    q4 = (qx.square().square() + qy.square().square() + 1e-6).sqrt().sqrt()
    rim = (mix(q4, round_, f["glasses_round"]) - 1.0) * 0.2 * size
    width = 0.014 + 0.016 * (1.0 - f["glasses_round"])
    soft = 0.75 * pixel + 0.006
    frame = edge(width - rim.abs(), soft)
    bridge = edge(width - (y - 0.03 - 0.05 * gauss(x, 0.10)).abs(), soft) * edge(0.12 - ax, 0.02)
    frame = torch.maximum(frame, bridge * edge(rim, soft))
    arm = edge(0.6 * width - (y - 0.045).abs(), soft) * edge(ax - 0.29 - 0.215 * size, 0.02)
    frame = torch.maximum(frame, arm * face)
    lens = edge(-rim, soft)
    glare = lens * gauss(x * 0.8 + y - 0.12, 0.06)
    return frame * f["glasses_on"], lens * f["glasses_on"], glare * f["glasses_on"]
