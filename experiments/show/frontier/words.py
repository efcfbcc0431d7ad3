"""A frontier in words: when naming falls to chance, what that costs, and who only looks strong."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.show.frontier.points import Point, adapting, series, undefended
from experiments.show.report.svg import DASH, number
from experiments.statistics.bootstrap import Interval, users_needed
from experiments.statistics.shares import ENOUGH_USERS
from experiments.statistics.verdict import counted, percent

STILL = "the pictures still resemble them"
NO_VERDICT = {
    "unknown defense": "no attack here knows {one.known_to_nobody}, and one that does may name more",
    "unexplained": "the pictures do not explain the updates; take more steps or another attack",
    "blind judge": "the face recogniser does not name users by real photos; take another (leakage.embedder)",
}
WORTH = 0.05  # of a real photo: what knowing the defense must add to be worth a sentence
WISHED = 0.05  # half width of an interval of normalised leakage


@dataclass(frozen=True)
class Answers:
    headline: str
    verdict: str  # a class of the report's headline
    about: Point | None  # the point that the headline is about
    paragraphs: list[tuple[str, str]]  # heading, text
    looks_strong: list[list[str]]  # a row a defense; the columns are those of the page


def answers(found: Sequence[Point]) -> Answers:
    """The findings of a sweep. Strengths are taken in the order of the sweep, weakest first."""
    safe = {name: one for name, line in series(found).items() if (one := _first_at_chance(line)) is not None}
    bare = undefended(found)
    headline, verdict, about = _headline(found, safe, bare)
    return Answers(
        headline=headline,
        verdict=verdict,
        about=about,
        paragraphs=[
            ("At which strength rank-1 falls to chance", _chance(found, safe)),
            ("What that costs in accuracy", _cost(safe, bare)),
            ("How sure this is", _users(found)),
        ],
        looks_strong=_looks_strong(found),
    )


def spell(found: Interval, digits: int = 2) -> str:
    """`0.52 [0.44, 0.61]`, or a dash."""
    if found["mean"] is None:
        return DASH
    ends = [math.nan if end is None else end for end in (found["low"], found["high"])]
    return f"{number(found['mean'], digits)} [{number(ends[0], digits)}, {number(ends[1], digits)}]"


def p_value(p: float | None) -> str:
    return DASH if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _first_at_chance(line: Sequence[Point]) -> Point | None:
    """The weakest strength from which on no attacker names more users than guessing would."""
    first = None
    for one in reversed(line):
        if not one.at_chance:
            break
        first = one
    return first


def _headline(found: Sequence[Point], safe: dict[str, Point], bare: Point | None) -> tuple[str, str, Point | None]:
    """The headline, its class and its point; no recommendation by too few users, nor where pictures resemble theirs."""
    broken = [one for one in found if one.breaks_promise]
    if broken:
        worst = max(broken, key=lambda one: one.epsilon_audited)
        return (
            f"{worst.name} does not keep its promise: an epsilon of {worst.epsilon_audited:.3g} is proved.",
            "named",
            worst,
        )
    silent = [one for one in safe.values() if one.status == "nothing"]
    if silent:
        cheapest = max(silent, key=lambda one: -1.0 if one.accuracy is None else one.accuracy)
        cost = f"accuracy {_accuracy(cheapest)}{_without(cheapest, bare)}"
        return (
            f"The cheapest defense under which no attack tells more than its controls is {cheapest.name}: "
            f"it names {_named(cheapest)}; {cost}.",
            "nothing",
            cheapest,
        )
    few = [one for one in safe.values() if one.status == "too few users"]
    if few:
        return (
            f"Too few users to recommend a defense: under {few[0].name} the attacks name {_named(few[0])}; "
            f"take {ENOUGH_USERS} users or more.",
            "too",
            few[0],
        )
    for one in safe.values():
        if one.status in NO_VERDICT:
            return f"No verdict on {one.name}: {NO_VERDICT[one.status].format(one=one)}.", "too", one
    if safe:
        nearest = max(safe.values(), key=lambda one: -1.0 if one.accuracy is None else one.accuracy)
        still = "attributes are still read off the pictures" if nearest.status == "attributes" else STILL
        return (
            f"No defense tried here hides the users: under {nearest.name} naming does not exceed guessing "
            f"({_named(nearest)}), but {still}.",
            "alike",
            nearest,
        )
    return "No defense tried here brings the naming of users down to chance.", "named", None


def _named(one: Point) -> str:
    most = one.most_named
    return f"{counted(most.named, most.users)}, at most {percent(most.rank1['high'])} (95 %)"


def _chance(found: Sequence[Point], safe: dict[str, Point]) -> str:
    never = [name for name in series(found) if name not in safe]
    parts = []
    if safe:
        reached = [f"{name} at {one.strength or 'its only strength'} ({_named(one)})" for name, one in safe.items()]
        parts.append(f"From these strengths on, no attacker names more users than guessing would: {_list(reached)}.")
    if never:
        parts.append(f"At none of the strengths tried: {_list(never)}.")
    bare = undefended(found)
    if bare is not None:
        parts.append(f"Without a defense they name {bare.most_named.named} of {bare.most_named.users}.")
    return " ".join(parts)


def _cost(safe: dict[str, Point], bare: Point | None) -> str:
    if not safe:
        return "No strength tried reaches it, so there is no price to tell."
    told = [
        f"{one.name} ({_accuracy(one)})"
        for one in sorted(safe.values(), key=lambda one: one.accuracy or 0.0, reverse=True)
    ]
    before = f" It is {_accuracy(bare)} without a defense." if bare is not None else ""
    return f"Held-out accuracy at those strengths: {_list(told)}.{before}"


def _looks_strong(found: Sequence[Point]) -> list[list[str]]:
    """The strength of each defense at which knowing it is worth most, if it is worth anything; as text."""
    rows = []
    for line in series(found).values():
        best: tuple[float, list[str]] = (WORTH, [])
        for one in line:
            blind, compared = one.knowing("none"), adapting(one)
            if blind is None or compared is None or (compared["difference"]["low"] or 0.0) <= 0:
                continue
            seen, knowing = blind.leakage["mean"], one.strongest.leakage["mean"]
            if seen is None or knowing is None or knowing - seen <= best[0]:
                continue
            cells = [one.name, spell(blind.leakage), spell(one.strongest.leakage), _knows(one.strongest.knowledge)]
            counted_by = [f"{level.named} of {level.users}" for level in (blind, one.strongest)]
            best = (knowing - seen, [*cells, *counted_by, p_value(compared["p"])])
        if best[1]:
            rows.append(best[1])
    return rows


def _users(found: Sequence[Point]) -> str:
    needed = sorted(
        count for one in found if (count := users_needed(one.strongest.leakage, one.users, WISHED)) is not None
    )
    if not needed:
        return "The intervals have no width, so nothing can be said of how many users they would take."
    return (
        f"Intervals are over {found[0].users} users. For one of \N{PLUS-MINUS SIGN}{WISHED:g} around normalised "
        f"leakage half of these points need {needed[len(needed) // 2]} users or fewer, the widest {needed[-1]}. The "
        "strongest of several attackers is chosen with the same users, so its figure is a little too high where "
        "several are alike."
    )


def _knows(knowledge: str) -> str:
    return "its parameters" if knowledge == "parameters" else f"its {knowledge}"


def _without(one: Point, bare: Point | None) -> str:
    """What the accuracy is without the defense; that it costs nothing where it is no higher."""
    if bare is None or one.accuracy is None or bare.accuracy is None:
        return ""
    free = "; it costs none: " if one.accuracy >= bare.accuracy else ", "
    return f"{free}{_accuracy(bare)} without"


def _accuracy(one: Point) -> str:
    return DASH if one.accuracy is None else number(one.accuracy)


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
