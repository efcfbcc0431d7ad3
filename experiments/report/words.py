"""The report in words: the headline and its verdict, names of arms, metrics and attributes."""

import math
from dataclasses import dataclass

from markupsafe import Markup, escape

from experiments.report.material import CONTROLS, Interval, Material
from experiments.report.svg import DASH, number

ARM_NAMES = {
    "attack": "attack",
    "all_images": "all images",
    "best_image": "best image",
    "best_member": "best of the sum",
    "direct_update": "direct, no picture",
    "base_rate": "base rate",
    "prior_only": "prior only",
    "wrong_update": "wrong update",
    "public_mean": "public mean",
    "own_photo": "own photo",
    "own_mean": "own mean",
}
METRICS = {  # column of the aggregates: heading
    "facial_similarity": "facial similarity",
    "rank1": "rank-1",
    "rank5": "rank-5",
    "median_rank": "median rank",
    "normalised_leakage": "normalised leakage",
    "verified_at_far_1e2": "verified, FAR\N{NO-BREAK SPACE}1\N{NO-BREAK SPACE}%",
    "verified_at_far_1e3": "verified, FAR\N{NO-BREAK SPACE}0.1\N{NO-BREAK SPACE}%",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "lpips": "LPIPS",
}
ATTRIBUTE_CLASSES = {  # of synthetic people, in the order of their class numbers
    "hair_color": ("black", "brown", "blond", "red", "grey"),
    "age_group": ("young", "middle", "old"),
    "skin_tone": ("light", "medium", "dark"),
}


@dataclass(frozen=True)
class Headline:
    """What leaked, in one sentence, and what it stands beside."""

    sentence: str
    beside: str  # the same figures of the controls and the ceiling
    strongest: str | None  # label of the attack it is about
    server_round: int | None  # the round it is about
    verdict: str  # "named", "alike", "nothing", or "unmeasured"


def headline(material: Material) -> Headline:
    """The first attacked round's strongest attack, set against its controls.

    An attack has named users (made them alike) when the lower end of its rank-1 (similarity) interval
    lies above the upper end of every control's.
    """
    if not material.attacks:
        return Headline("Leakage has not been measured in this run.", "", None, None, "unmeasured")
    first = material.measured_rounds[0]
    label = strongest(material, first)
    named, users = _counts(material, label, "attack", first)
    what = "one gradient" if material.config.federation.update == "gradient" else "one weight update"
    claim = f"{label} names {_of(named, users)} among {material.gallery_size} people"
    similarity = material.interval(label, "attack", "facial_similarity", first)
    if _clear(material, label, "rank1", first):
        verdict, sentence = "named", f"From {what}, {claim}."
    elif _clear(material, label, "facial_similarity", first):
        verdict = "alike"
        sentence = (
            f"From {what}, no user is named reliably ({claim}), "
            "but the pictures resemble the users more than the controls do."
        )
    else:
        verdict = "nothing"
        sentence = f"From {what}, no attack tells more about the users than its controls: {claim}."
    parts = []
    rank1 = material.interval(label, "attack", "rank1", first)
    if rank1:
        alike = f" and facial similarity {spell(similarity)}" if similarity else ""
        parts.append(f"Rank-1 {spell(rank1)}{alike}, in round {first}.")
    others = [
        f"{ARM_NAMES[arm]} {counted[0]}" for arm in CONTROLS if (counted := _counts(material, label, arm, first))[1]
    ]
    if others:
        parts.append(f"Users named by the controls: {', '.join(others)}.")
    ceiling = _counts(material, label, "own_photo", first)
    if ceiling[1]:
        parts.append(f"By a real photo: {ceiling[0]} of {ceiling[1]}.")
    if len(material.attacks) > 1:
        parts.append(f"{label} is the strongest of {len(material.attacks)} attacks here.")
    return Headline(sentence, " ".join(parts), label, first, verdict)


def strongest(material: Material, server_round: int) -> str:
    """The attack that names most users in that round; among equals, the one of highest similarity."""

    def strength(label: str) -> tuple[float, float]:
        found = [material.interval(label, "attack", metric, server_round) for metric in ("rank1", "facial_similarity")]
        rank1, similarity = (entry.mean if entry else -2.0 for entry in found)
        return rank1, similarity

    return max(material.attacks, key=strength)


def spell(interval: Interval | None, digits: int = 2) -> str:
    """`0.52 [0.44, 0.61]`, or a dash."""
    if interval is None:
        return DASH
    return f"{number(interval.mean, digits)} {bracket(interval, digits)}"


def bracket(interval: Interval | None, digits: int = 2) -> str:
    return f"[{number(interval.low, digits)}, {number(interval.high, digits)}]" if interval else ""


def digits(metric: str) -> int:
    return 1 if metric in {"median_rank", "psnr"} else 2


def heading(attribute: str) -> str:
    """`hair_color` as `hair color`."""
    return attribute.replace("_", " ")


def class_name(attribute: str, value: float, largest: float, synthetic: bool) -> str:
    """What a class number means: a word where it has one, yes or no for two classes, else the number."""
    if not math.isfinite(value):
        return DASH
    names = ATTRIBUTE_CLASSES.get(attribute, ()) if synthetic else ()
    if 0 <= value < len(names):
        return names[int(value)]
    return ("no", "yes")[int(value)] if largest <= 1 else f"{value:.0f}"


def breakable(text: str) -> Markup:
    """Escaped text that a narrow page may break after an underscore."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def _of(count: int, users: int) -> str:
    if users == 1:
        return "the only user" if count else "none of 1 user"
    return f"{'all' if count == users else 'none of' if count == 0 else f'{count} of'} {users} users"


def _counts(material: Material, label: str, arm: str, server_round: int) -> tuple[int, int]:
    """(users at rank 1, users measured)."""
    rows = material.rows(label, arm, server_round)
    if rows.empty or "rank" not in rows:
        return 0, 0
    named = int((rows["rank"] == 1).fillna(False).sum())  # a reconstruction that failed names nobody
    return named, len(rows)


def _clear(material: Material, label: str, metric: str, server_round: int) -> bool:
    attack = material.interval(label, "attack", metric, server_round)
    controls = [material.interval(label, arm, metric, server_round) for arm in CONTROLS]
    tops = [control.high for control in controls if control]
    return attack is not None and bool(tops) and attack.low > max(tops)
