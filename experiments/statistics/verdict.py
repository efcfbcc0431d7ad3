"""The verdict on a leakage table, in one sentence.

Nothing found is not nothing leaked: with few users, or by attacks that do not know the defense, there is no verdict.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments.statistics.interval import Interval
from experiments.statistics.shares import ENOUGH_USERS, LEVEL, more_than_chance, upper_limit
from experiments.statistics.significance import Finding, as_json

Kind = Literal[
    "named", "alike", "attributes", "nothing", "too few users", "unknown defense", "unexplained", "blind judge"
]
EXPLAINED = 0.1  # matching loss up to which a picture explains an update that nothing was done to; 0 is a match
NO_ATTACK = "No verdict: no attack of this run looks at an update; add one, such as user_diffusion."


@dataclass(frozen=True)
class Verdict:
    """The strongest finding, and what may be said of it."""

    kind: Kind
    strongest: Finding
    broken: Finding | None  # the finding that disproves most of a promised epsilon
    unknown_defenses: tuple[str, ...]  # which no attack knows

    def sentence(self) -> str:
        """In one sentence, the same wherever it is told."""
        best, what = self.strongest, "one update"
        read = {
            "all_images": ", all images together",
            "determined": ", by the mean face that the update determines",
            "attribute_inference": ", without a picture",
        }.get(best.arm, "")
        known = "" if best.knowledge == "none" else ", which knows the defense"
        claim = f"{best.attack}{read}{known}{',' if read or known else ''} names {counted(best.named, best.users)}"
        if best.unanswered:
            claim += f", {best.unanswered} of whom it left without an answer,"
        if best.answers + best.unanswered != best.users:  # users of sums
            claim += f" by {best.answers} answer{'s' * (best.answers != 1)}"
        claim += f" among {best.gallery} people"
        if best.server_round is None:
            claim, what = f"{claim} in some round", f"{what} a round"
        limit = f"at most {percent(best.share.high)} (95 %)"
        said = {
            "named": f"From {what}, {claim}: {percent(best.share.low)} to {percent(best.share.high)} (95 %).",
            "alike": f"From {what}, naming does not exceed guessing ({claim}; {limit}), but the pictures resemble the "
            "users more than the controls do.",
            "attributes": f"From {what}, naming does not exceed guessing ({claim}; {limit}), but attributes are read "
            "off the pictures better than off the controls.",
            "nothing": f"From {what}, no attack tells more about the users than its controls: {claim}; {limit}.",
            "unexplained": f"No verdict: the pictures do not explain the updates (matching loss "
            f"{best.matching_loss or 0:.2g}, 0 is a match). From {what}, {claim}; more steps or another attack may "
            "name more.",
            "blind judge": f"No verdict: the face recogniser names {counted(best.named_by_photo or 0, best.users)} by "
            f"a real photo, no more than guessing. From {what}, {claim}; take another (leakage.embedder).",
            "too few users": f"Too few users to tell: from {what}, {claim}, which leaves up to "
            f"{percent(best.share.high)}; none of {ENOUGH_USERS} would leave up to "
            f"{percent(upper_limit(0, ENOUGH_USERS, LEVEL / 2))}.",
            "unknown defense": f"No verdict: no attack here knows the defense {' and '.join(self.unknown_defenses)}. "
            f"From {what}, {claim}; one that knows it may name more.",
        }[self.kind]
        return f"{self.privacy()} {said}".strip()

    def privacy(self) -> str:
        """What was proved about a promised epsilon; empty where all agrees."""
        if self.broken is None:
            return ""
        return (
            f"The defense does not keep its promise: epsilon is at least {self.broken.epsilon_audited:.3g} "
            f"({self.broken.attack}, round {self.broken.server_round}, 95 %), promised is {self.broken.epsilon:.3g}, "
            f"at delta {self.broken.delta:g}."
        )

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        best = self.strongest
        return {
            "kind": self.kind,
            "sentence": self.sentence(),
            **as_json(best),
            "keeps_promise": None if best.epsilon is None else self.broken is None,
            "unknown_defenses": list(self.unknown_defenses),
        }


def verdict(
    findings: Sequence[Finding], unknown_defenses: Sequence[str] = (), distorted: bool = False
) -> Verdict | None:
    """The verdict on the findings of a table; None without any.

    `unknown_defenses`: those that no attack knows. `distorted`: whether defenses did more to the updates than scale
    them, after which no picture need explain one.
    """
    if not findings:
        return None
    best = max(findings, key=_strength)
    kind: Kind
    if best.names:
        kind = "named"
    elif any(finding.resembles for finding in findings):
        kind = "alike"
    elif any(finding.reads_attributes for finding in findings):
        kind = "attributes"
    elif unknown_defenses:
        kind = "unknown defense"
    elif not distorted and all(
        finding.matching_loss is None or finding.matching_loss > EXPLAINED for finding in findings
    ):
        kind = "unexplained"
    else:
        fewest = min(findings, key=lambda finding: finding.answers)  # an attack that failed is none that found nothing
        kind = "too few users" if fewest.answers < ENOUGH_USERS else "nothing"
        best = best if best.answers == fewest.answers or kind == "nothing" else fewest
        if kind == "nothing" and _blind(best):
            kind = "blind judge"
    broken = max(
        (finding for finding in findings if finding.breaks_promise),
        key=lambda finding: finding.epsilon_audited or 0,
        default=None,
    )
    return Verdict(kind, best, broken, tuple(unknown_defenses))


def counted(count: int, users: int) -> str:
    """`3 of 8 users`, `none of 8 users`, `all 8 users`."""
    if users == 1:
        return "the only user" if count else "none of 1 user"
    return f"{'all' if count == users else 'none of' if count == 0 else f'{count} of'} {users} users"


def percent(value: float) -> str:
    """A share in [0, 1] as `46 %`; shares that are neither 0 nor 1 are not rounded to them; a dash for NaN."""
    if math.isnan(value):
        return "-"
    whole = round(100 * value)
    return f"{100 * value:.1f} %" if (whole in (0, 100)) and value not in (0.0, 1.0) else f"{whole} %"


def exact(share: Interval) -> str:
    """The interval of a share, as `[4 %, 78 %]`."""
    return f"[{percent(share.low)}, {percent(share.high)}]"


def _blind(one: Finding) -> bool:
    """Whether the judge does not even name users by real photos, so that it would name nobody by any picture."""
    return one.named_by_photo is not None and more_than_chance(one.named_by_photo, one.users, 1 / one.gallery) > LEVEL


def _strength(one: Finding) -> tuple[bool, bool, float, float]:
    similarity = one.similarity.mean if one.similarity.known else -2.0
    return one.names, one.server_round is not None, one.named / max(one.users, 1), similarity
