"""What differs between the baseline and another run, user by user, and what may be concluded from it.

Lower scores are no proof of less leakage where the attacks of the lower run do not know its defense, leave updates
unexplained, or lack the attack that is strongest on the other side: there is no conclusion then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from experiments.show.compare.same_users import differing
from experiments.show.compare.sides import Scores, Side
from experiments.statistics import pairs
from experiments.statistics.pairs import Change
from experiments.statistics.shares import LEVEL, holm

Kind = Literal["less", "more", "mixed", "no difference", "too few users", "no conclusion"]
WEAK = ("unexplained", "blind judge", "unknown defense")  # verdicts after which a low score shows little


@dataclass(frozen=True)
class Tested:
    """One attack on both sides. The p of its changes are corrected (Holm) for `tests`."""

    before: Scores
    after: Scores
    likeness: Change
    share: Change
    tests: int

    @property
    def less(self) -> bool:
        return any(_significant(change, -1) for change in (self.likeness, self.share))

    @property
    def more(self) -> bool:
        return any(_significant(change, 1) for change in (self.likeness, self.share))

    @property
    def can_tell(self) -> bool:
        """Whether so many users could have shown a difference."""
        return any(change.can_tell(self.tests) for change in (self.likeness, self.share))


@dataclass(frozen=True)
class Pair:
    """Another run beside the baseline."""

    baseline: Side
    other: Side
    strongest: Tested  # the strongest attack of each, in common users and rounds
    by_attack: list[Tested]  # attacks of one label in both
    settings: list[tuple[str, Any, Any]]  # config keys that differ, with both values
    independent: bool  # whether users' outcomes are: not where the server sees sums of several

    @property
    def kind(self) -> Kind:
        if self.strongest.less and self.strongest.more:
            return "mixed"
        if not self.independent or ((self.strongest.less or self.strongest.more) and self.weaknesses):
            return "no conclusion"
        if self.strongest.less or self.strongest.more:
            return "less" if self.strongest.less else "more"
        return "no difference" if self.strongest.can_tell else "too few users"

    @property
    def lower(self) -> Side:
        """The side that scores lower."""
        falls = not self.strongest.likeness.difference.mean > 0  # NaN: not known
        return self.other if falls else self.baseline

    @property
    def higher(self) -> Side:
        return self.baseline if self.lower is self.other else self.other

    @property
    def weaknesses(self) -> list[str]:
        """Why the low scores of the lower side may be the attacks' fault; sentences."""
        low, high = self.lower, self.higher
        found = []
        if low.unknown_defenses:
            found.append(f"no attack of {low.name} knows the defense {' and '.join(low.unknown_defenses)}")
        elif low.verdict.kind in WEAK:
            found.append(f"of {low.name} there is no verdict ({low.verdict.kind})")
        best = high.attacks.get(high.strongest.attack, {}).get("name")
        if best is not None and best not in {table["name"] for table in low.attacks.values()}:
            found.append(f"{low.name} is not attacked by {best}, the strongest attack on {high.name}")
        return found


def compare_pairs(baseline: Side, others: Sequence[Side]) -> list[Pair]:
    """Each of `others` beside the baseline. Tests of the strongest attacks are corrected together, the rest too."""
    alone = [max(baseline.group_size, other.group_size) == 1 for other in others]
    best = [_tested(baseline.strongest, other.strongest, one) for other, one in zip(others, alone, strict=True)]
    labels = [[label for label in baseline.attacks if label in other.attacks] for other in others]
    tested = [
        _tested(baseline.scores(label), other.scores(label), one)
        for other, shared, one in zip(others, labels, alone, strict=True)
        for label in shared
    ]
    corrected = iter(_corrected(tested))
    return [
        Pair(
            baseline=baseline,
            other=other,
            strongest=strongest,
            by_attack=[next(corrected) for _ in shared],
            settings=differing(baseline.run_data.config, other.run_data.config),
            independent=one,
        )
        for other, strongest, shared, one in zip(others, _corrected(best), labels, alone, strict=True)
    ]


def _tested(before: Scores, after: Scores, independent: bool) -> Tested:
    likeness = pairs.likeness(before.similarity, after.similarity)
    share = pairs.shares(before.identified, after.identified)
    if not independent:
        likeness, share = replace(likeness, p=None), replace(share, p=None)
    return Tested(before, after, likeness, share, tests=1)


def _corrected(tested: Sequence[Tested]) -> list[Tested]:
    """With all their p-values corrected together."""
    changes = [change for one in tested for change in (one.likeness, one.share)]
    p_values = iter(holm([change.p for change in changes if change.p is not None]))
    done = iter([change if change.p is None else replace(change, p=next(p_values)) for change in changes])
    return [replace(one, likeness=next(done), share=next(done), tests=len(changes)) for one in tested]


def _significant(change: Change, direction: int) -> bool:
    return change.p is not None and change.p < LEVEL and change.difference.mean * direction > 0
