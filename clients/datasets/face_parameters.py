"""The table of identity and nuisance parameters of the synthetic faces, their sampling and labels.

Every code lies in [0, 1]; `physical` maps it to the range given in the table. Lengths are in head
units: the eyes lie at height 0, the chin near -1 and the crown near +0.95.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Parameter(NamedTuple):
    """One named code, what it means, and the physical values at code 0 and code 1."""

    name: str
    meaning: str
    low: float = 0.0
    high: float = 1.0


IDENTITY_PARAMETERS: tuple[Parameter, ...] = (
    Parameter("face_width", "half width of the head at the eyes", 0.60, 0.74),
    Parameter("face_length", "distance from the eyes to the chin", 0.92, 1.10),
    Parameter("jaw_taper", "how much the face narrows towards the chin", 0.54, 0.22),
    Parameter("jaw_square", "squareness of the jaw", 0.0, 0.17),
    Parameter("cheekbones", "relief of the cheekbones", 0.0, 0.09),
    Parameter("cheek_fullness", "hollow to full cheeks", -0.06, 0.06),
    Parameter("chin_relief", "how far the chin stands out", 0.0, 0.10),
    Parameter("ear_size", "size of the ears", 0.75, 1.35),
    Parameter("neck_width", "half width of the neck", 0.30, 0.47),
    Parameter("eye_size", "half width of an eye", 0.138, 0.19),
    Parameter("eye_open", "height of the open eye relative to its width", 0.42, 0.66),
    Parameter("eye_spacing", "distance of each eye from the midline", 0.25, 0.32),
    Parameter("eye_tilt", "slant of the eyes", -0.12, 0.18),
    Parameter("iris_hue", "brown, hazel, green, blue, grey", 0.0, 1.0),
    Parameter("iris_light", "lightness of the iris", 0.55, 1.5),
    Parameter("lid_crease", "depth and height of the upper lid crease", 0.0, 1.0),
    Parameter("eye_bags", "dark rings under the eyes", 0.0, 0.55),
    Parameter("lashes", "lashes and eye make-up", 0.25, 1.0),
    Parameter("brow_height", "height of the brows above the eyes", 0.175, 0.275),
    Parameter("brow_thickness", "thickness of the brows", 0.022, 0.062),
    Parameter("brow_arch", "arch of the brows", 0.0, 0.075),
    Parameter("brow_tilt", "slope of the brows", -0.13, 0.17),
    Parameter("brow_dark", "density of the brows", 0.55, 1.0),
    Parameter("nose_length", "distance from the eyes to the nose tip", 0.31, 0.45),
    Parameter("nose_width", "distance of the nostril wings from the midline", 0.10, 0.18),
    Parameter("nose_bridge", "relief of the nose bridge", 0.03, 0.14),
    Parameter("nose_tip", "size of the nose tip", 0.065, 0.13),
    Parameter("nose_upturn", "visibility of the nostrils", 0.25, 1.0),
    Parameter("mouth_width", "half width of the mouth at rest", 0.185, 0.29),
    Parameter("mouth_height", "position of the mouth between nose and chin", 0.31, 0.44),
    Parameter("upper_lip", "thickness of the upper lip", 0.025, 0.085),
    Parameter("lower_lip", "thickness of the lower lip", 0.045, 0.115),
    Parameter("lip_colour", "pale to deep red lips", 0.0, 1.0),
    Parameter("cupid_bow", "depth of the notch of the upper lip", 0.0, 0.75),
    Parameter("skin_tone", "light to dark skin", 0.0, 1.0),
    Parameter("skin_hue", "pink to olive skin", -1.0, 1.0),
    Parameter("blush", "redness of cheeks and nose", 0.0, 1.0),
    Parameter("freckles", "density of freckles (above a threshold)", -1.2, 1.0),
    Parameter("freckle_pattern", "which freckle pattern", 0.0, 1.0),
    Parameter("mole_x", "horizontal position of a mole", -0.48, 0.48),
    Parameter("mole_y", "vertical position of a mole", -0.72, -0.12),
    Parameter("mole_size", "size of the mole", 0.016, 0.044),
    Parameter("age", "age: lines, folds and slack skin", 0.0, 1.0),
    Parameter("oiliness", "gloss of the skin", 0.2, 1.0),
    Parameter("hair_colour", "black, brown, blond, red (grey comes with age)", 0.0, 1.0),
    Parameter("hair_shade", "darker to lighter within the colour", 0.6, 1.5),
    Parameter("hair_length", "cropped hair to beyond the shoulders", 0.0, 1.0),
    Parameter("hair_volume", "volume of the hair", 0.05, 0.28),
    Parameter("hairline", "height of the hairline", 0.45, 0.63),
    Parameter("hairline_recede", "receding temples and crown (above a threshold)", 0.0, 1.0),
    Parameter("fringe", "fringe over the forehead (above a threshold)", 0.0, 1.0),
    Parameter("parting", "position of the parting", -0.34, 0.34),
    Parameter("sweep", "direction in which the front hair is combed", -0.45, 0.45),
    Parameter("curl", "straight to curly hair", 0.0, 1.0),
    Parameter("strand_pattern", "which strands and locks", 0.0, 1.0),
    Parameter("beard", "presence and density of the beard (above a threshold)", 0.0, 1.0),
    Parameter("beard_shape", "goatee to full beard", 0.0, 1.0),
    Parameter("moustache", "density of the moustache of a bearded face", 0.0, 1.0),
    Parameter("glasses", "presence and darkness of glasses (above a threshold)", 0.0, 1.0),
    Parameter("glasses_round", "square to round lenses", 0.0, 1.0),
    Parameter("glasses_size", "size of the lenses", 0.86, 1.25),
    Parameter("asym_eyes", "height difference of the eyes and brows", -0.028, 0.028),
    Parameter("asym_mouth", "slant of the mouth", -0.07, 0.07),
    Parameter("asym_nose", "bend of the nose", -0.05, 0.05),
)

NUISANCE_PARAMETERS: tuple[Parameter, ...] = (
    Parameter("yaw", "turn of the head (radians)", -0.44, 0.44),
    Parameter("pitch", "nod of the head (radians)", -0.21, 0.21),
    Parameter("roll", "tilt of the head (radians)", -0.105, 0.105),
    Parameter("scale", "size of the head in the frame", 0.93, 1.07),
    Parameter("shift_x", "horizontal shift in half frames", -0.06, 0.06),
    Parameter("shift_y", "vertical shift in half frames", -0.05, 0.05),
    Parameter("light_x", "side from which the key light comes", -1.0, 1.0),
    Parameter("light_y", "height of the key light", -0.05, 0.9),
    Parameter("light_strength", "key light against ambient light", 0.58, 1.15),
    Parameter("light_warmth", "cold to warm key light", -1.0, 1.0),
    Parameter("smile", "smile; above one half the photo is labelled smiling", 0.0, 1.0),
    Parameter("mouth_open", "opening of the mouth", 0.0, 1.0),
    Parameter("brow_raise", "raised brows", -0.015, 0.04),
    Parameter("blink", "closing of the lids", 0.0, 1.0),
    Parameter("gaze", "horizontal direction of the gaze", -0.035, 0.035),
    Parameter("back_hue", "hue of the background", 0.0, 1.0),
    Parameter("back_saturation", "colourfulness of the background", 0.0, 0.45),
    Parameter("back_light", "lightness of the background", 0.04, 0.75),
    Parameter("back_gradient", "lightness gradient of the background", -0.5, 0.5),
    Parameter("back_blobs", "strength of blurred shapes in the background", 0.0, 1.0),
    Parameter("back_pattern", "placement of the blurred shapes", 0.0, 1.0),
    Parameter("cloth_hue", "hue of the clothes", 0.0, 1.0),
    Parameter("cloth_light", "lightness of the clothes", 0.02, 0.8),
    Parameter("cloth_cut", "round to deep neckline", 0.0, 1.0),
    Parameter("noise", "camera noise level", 0.003, 0.022),
    Parameter("exposure", "exposure in stops", -0.3, 0.35),
    Parameter("white_balance", "cold to warm picture", -1.0, 1.0),
)

BEARD_FROM = 0.65
GLASSES_FROM = 0.65
LONG_FROM = 0.55
OLD_FROM = 2.0 / 3.0


def _index(table: tuple[Parameter, ...], name: str) -> int:
    return [p.name for p in table].index(name)


def code(identity: Tensor, name: str) -> Tensor:
    """The raw code of one identity parameter, shape (n,)."""
    return identity[:, _index(IDENTITY_PARAMETERS, name)]


def physical(codes: Tensor, table: tuple[Parameter, ...]) -> dict[str, Tensor]:
    """Physical values by name, each of shape (n, 1, 1, 1) for fields over pixels."""
    low = codes.new_tensor([p.low for p in table])
    high = codes.new_tensor([p.high for p in table])
    values = low + (high - low) * codes
    return {p.name: values[:, i].reshape(-1, 1, 1, 1) for i, p in enumerate(table)}


def sample_identity(generator: torch.Generator, n: int) -> Tensor:
    """Uniform identity codes of shape (n, P)."""
    return torch.rand(n, len(IDENTITY_PARAMETERS), generator=generator, device=generator.device)


def sample_nuisance(generator: torch.Generator, n: int) -> Tensor:
    """Nuisance codes of shape (n, Q): central poses likelier, the smile clearly on or off."""
    q = len(NUISANCE_PARAMETERS)
    uniform = torch.rand(n, q, generator=generator, device=generator.device)
    second = torch.rand(n, q, generator=generator, device=generator.device)
    central = 0.5 * (uniform + second)
    names = ("yaw", "pitch", "roll", "scale", "shift_x", "shift_y", "gaze", "white_balance")
    columns = [_index(NUISANCE_PARAMETERS, name) for name in (*names, "exposure", "light_warmth")]
    codes = uniform.clone()
    codes[:, columns] = central[:, columns]
    smile = _index(NUISANCE_PARAMETERS, "smile")
    on = (uniform[:, smile] >= 0.5).to(uniform.dtype)
    codes[:, smile] = 0.02 + 0.20 * second[:, smile] + 0.76 * on
    blink = _index(NUISANCE_PARAMETERS, "blink")
    codes[:, blink] = uniform[:, blink] ** 5
    return codes


def attributes(identity: Tensor) -> dict[str, Tensor]:
    """Labels a stranger could read off the picture, each (n,) int64."""
    age = code(identity, "age")
    hair = code(identity, "hair_colour")
    dark = code(identity, "skin_tone") ** 2  # fair hair is rarer on dark skin
    steps = (0.20 + 0.35 * dark, 0.48 + 0.30 * dark, 0.78 + 0.14 * dark)
    colour = (hair > steps[0]).long() + (hair > steps[1]).long() + (hair > steps[2]).long()
    colour = torch.where(age > 0.8, torch.full_like(colour, 4), colour)
    tone = code(identity, "skin_tone")
    return {
        "glasses": (code(identity, "glasses") > GLASSES_FROM).long(),
        "beard": (code(identity, "beard") > BEARD_FROM).long(),
        "hair_color": colour,
        "long_hair": (code(identity, "hair_length") > LONG_FROM).long(),
        "age_group": (age > 1.0 / 3.0).long() + (age > OLD_FROM).long(),
        "skin_tone": (tone > 0.42).long() + (tone > 0.72).long(),
    }
