"""The words of the report: its headline, captions of metrics and attributes, numbers as text."""

import math
from dataclasses import dataclass

from markupsafe import Markup, escape

from experiments.evaluate.arms import CAPTIONS
from experiments.show.report.measured import Measured
from experiments.show.report.svg import DASH, number
from experiments.statistics.interval import Interval
from experiments.statistics.significance import Finding
from experiments.statistics.verdict import NO_ATTACK, exact, percent

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
    "draws_similarity": "similarity of any draw",
    "draws_spread": "spread of the draws",
}
NO_EVIDENCE = (
    "A realistic face is no evidence: the prior draws one for any update. This attack was not shown to tell more of "
    "the users than its controls."
)
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
    verdict: str  # a class of the page: the first word of a Verdict's kind, or "unmeasured"


def headline(run_data: Measured) -> Headline:
    """The verdict of experiments.statistics.verdict, and what stands beside it."""
    judged = run_data.judged
    if judged is None:
        sentence = "Leakage has not been measured." if run_data.leakage is None else NO_ATTACK
        return Headline(sentence, "", None, None, "unmeasured")
    best = judged.strongest
    label = best.attack if best.attack in run_data.attacks else run_data.attacks[0]
    first = best.server_round or run_data.measured_rounds[0]
    when = f"in round {first}" if best.server_round else "over all rounds"
    parts = [
        f"Rank-1 {spell_share(best.share)} and facial similarity {spell(best.similarity)}, {when}; "
        f"guessing names as many with p {p_value(best.p_named)}."
    ]
    if best.named_by_controls:
        others = [f"{CAPTIONS[arm]} {count}" for arm, count in best.named_by_controls.items()]
        parts.append(f"Users named by the controls: {', '.join(others)}.")
    photo = run_data.rows(label, "own_photo", first)
    if len(photo):
        parts.append(f"By a real photo: {int((photo['rank'] == 1).sum())} of {len(photo)}.")
    if best.epsilon_audited is not None:
        promised = f"promised is {best.epsilon:.3g}" if best.epsilon is not None else "no defense promises any"
        proved = max(one.epsilon_audited or 0.0 for one in run_data.findings)
        parts.append(
            f"Proved by the measurement: epsilon is at least {proved:.3g} at delta {best.delta:g}; {promised}."
        )
    parts += _among_attacks(run_data, best)
    return Headline(judged.sentence(), " ".join(parts), label, first, judged.kind.split()[0])


def _among_attacks(run_data: Measured, best: Finding) -> list[str]:
    """A sentence on which attacks name as many users as `best`; none where that is no leak, or not the most."""
    shares: dict[str, float] = {}
    for finding in run_data.findings:
        if finding.server_round == best.server_round and finding.attack in run_data.attacks:
            shares[finding.attack] = max(finding.named / finding.users, shares.get(finding.attack, 0.0))
    most = shares.pop(best.attack, -1.0)
    if not best.names or not shares or most < max(shares.values()):
        return []
    equal = sorted(attack for attack, share in shares.items() if share == most)
    beside = f"; {', '.join(equal)} as many" if equal else ""
    return [f"Of {len(shares) + 1} attacks here {best.attack} names the most users{beside}."]


def spell_share(share: Interval) -> str:
    """`33 % [4 %, 78 %]`: of users, exact."""
    return f"{percent(share.mean)} {exact(share)}"


def p_value(p: float | None) -> str:
    return DASH if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def spell(interval: Interval | None, digits: int = 2) -> str:
    """`0.52 [0.44, 0.61]`, or a dash."""
    if interval is None or not interval.known:
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


def shared(draws: int) -> str:
    """What so many draws are evidence of, where the attack tells more of the users than its controls."""
    if draws == 1:
        return "One draw: what of it leaked, and what the prior invented, cannot be told apart."
    return (
        f"What the {draws} draws share, the update says, or the prior draws it for anybody (compare prior only), or it "
        "is a flaw of the mean face, near which all of them begin: that they agree does not prove a leak. Where they "
        "differ, the prior invented it. Look at that mean face, too."
    )


def breakable(text: str) -> Markup:
    """Escaped text that a narrow page may break after an underscore, and not before a percent sign."""
    return Markup(str(kept_together(text)).replace("_", "_<wbr>"))


def kept_together(text: str) -> Markup:
    """Escaped text for wide lines: not broken before a percent sign."""
    return Markup(str(escape(text)).replace(" %", "\N{NO-BREAK SPACE}%"))
