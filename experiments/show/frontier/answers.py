"""What a frontier answers: when naming falls to chance, what that costs, and who only looks strong."""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.show.frontier.points import Point, adapting, series, undefended
from experiments.show.report.captions import p_value, spell
from experiments.show.report.svg import DASH, number
from experiments.statistics.bootstrap import users_needed
from experiments.statistics.shares import ENOUGH_USERS
from experiments.statistics.verdict import counted, percent

STILL = "the pictures still resemble them"
NO_VERDICT = {
    "unknown defense": "no attack here knows {point.known_to_nobody}, and one that does may name more",
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


def answers(points: Sequence[Point]) -> Answers:
    """The findings of a sweep. Strengths are taken in the order of the sweep, weakest first."""
    safe = {name: point for name, line in series(points).items() if (point := _first_at_chance(line)) is not None}
    bare = undefended(points)
    headline, verdict, about = _headline(points, safe, bare)
    return Answers(
        headline=headline,
        verdict=verdict,
        about=about,
        paragraphs=[
            ("At which strength rank-1 falls to chance", _chance(points, safe)),
            ("What that costs in accuracy", _cost(safe, bare)),
            ("How sure this is", _users(points)),
        ],
        looks_strong=_looks_strong(points),
    )


def _first_at_chance(line: Sequence[Point]) -> Point | None:
    """The weakest strength from which on no attacker names more users than guessing would."""
    first = None
    for point in reversed(line):
        if not point.at_chance:
            break
        first = point
    return first


def _headline(points: Sequence[Point], safe: dict[str, Point], bare: Point | None) -> tuple[str, str, Point | None]:
    """The headline, its class and its point; no recommendation by too few users, nor where pictures resemble theirs."""
    broken = [point for point in points if point.breaks_promise]
    if broken:
        worst = max(broken, key=lambda point: point.epsilon_audited)
        return (
            f"{worst.name} does not keep its promise: an epsilon of {worst.epsilon_audited:.3g} is proved.",
            "named",
            worst,
        )
    silent = [point for point in safe.values() if point.status == "nothing"]
    if silent:
        cheapest = max(silent, key=lambda point: -1.0 if point.accuracy is None else point.accuracy)
        cost = f"accuracy {_accuracy(cheapest)}{_without(cheapest, bare)}"
        return (
            f"The cheapest defense under which no attack tells more than its controls is {cheapest.name}: "
            f"it names {_named(cheapest)}; {cost}.",
            "nothing",
            cheapest,
        )
    few = [point for point in safe.values() if point.status == "too few users"]
    if few:
        return (
            f"Too few users to recommend a defense: under {few[0].name} the attacks name {_named(few[0])}; "
            f"take {ENOUGH_USERS} users or more.",
            "too",
            few[0],
        )
    for point in safe.values():
        if point.status in NO_VERDICT:
            return f"No verdict on {point.name}: {NO_VERDICT[point.status].format(point=point)}.", "too", point
    if safe:
        nearest = max(safe.values(), key=lambda point: -1.0 if point.accuracy is None else point.accuracy)
        still = "attributes are still read off the pictures" if nearest.status == "attributes" else STILL
        return (
            f"No defense tried here hides the users: under {nearest.name} naming does not exceed guessing "
            f"({_named(nearest)}), but {still}.",
            "alike",
            nearest,
        )
    return "No defense tried here brings the naming of users down to chance.", "named", None


def _named(point: Point) -> str:
    most = point.most_named
    return f"{counted(most.named, most.users)}, at most {percent(most.rank1.high)} (95 %)"


def _chance(points: Sequence[Point], safe: dict[str, Point]) -> str:
    never = [name for name in series(points) if name not in safe]
    parts = []
    if safe:
        reached = [
            f"{name} at {point.strength or 'its only strength'} ({_named(point)})" for name, point in safe.items()
        ]
        parts.append(f"From these strengths on, no attacker names more users than guessing would: {_list(reached)}.")
    if never:
        parts.append(f"At none of the strengths tried: {_list(never)}.")
    bare = undefended(points)
    if bare is not None:
        parts.append(f"Without a defense they name {bare.most_named.named} of {bare.most_named.users}.")
    return " ".join(parts)


def _cost(safe: dict[str, Point], bare: Point | None) -> str:
    if not safe:
        return "No strength tried reaches it, so there is no price to tell."
    sentences = [
        f"{point.name} ({_accuracy(point)})"
        for point in sorted(safe.values(), key=lambda point: point.accuracy or 0.0, reverse=True)
    ]
    before = f" It is {_accuracy(bare)} without a defense." if bare is not None else ""
    return f"Held-out accuracy at those strengths: {_list(sentences)}.{before}"


def _looks_strong(points: Sequence[Point]) -> list[list[str]]:
    """The strength of each defense at which knowing it is worth most, if it is worth anything; as text."""
    rows = []
    for line in series(points).values():
        most: tuple[float, list[str]] = (WORTH, [])
        for point in line:
            blind, compared = point.knowing("none"), adapting(point)
            if blind is None or compared is None or not compared.difference.low > 0:
                continue
            knowing, gain = point.strongest, point.strongest.leakage.mean - blind.leakage.mean
            if gain > most[0]:
                leakage = [spell(blind.leakage), spell(knowing.leakage), _knows(knowing.knowledge)]
                named = [f"{level.named} of {level.users}" for level in (blind, knowing)]
                most = (gain, [point.name, *leakage, *named, p_value(compared.p)])
        if most[1]:
            rows.append(most[1])
    return rows


def _users(points: Sequence[Point]) -> str:
    needed = sorted(
        count for point in points if (count := users_needed(point.strongest.leakage, point.users, WISHED)) is not None
    )
    if not needed:
        return "The intervals have no width, so nothing can be said of how many users they would take."
    return (
        f"Intervals are over {points[0].users} users. For one of \N{PLUS-MINUS SIGN}{WISHED:g} around normalised "
        f"leakage half of these points need {needed[len(needed) // 2]} users or fewer, the widest {needed[-1]}. The "
        "strongest of several attackers is chosen with the same users, so its figure is a little too high where "
        "several are alike."
    )


def _knows(knowledge: str) -> str:
    return "its parameters" if knowledge == "parameters" else f"its {knowledge}"


def _without(point: Point, bare: Point | None) -> str:
    """What the accuracy is without the defense; that it costs nothing where it is no higher."""
    if bare is None or point.accuracy is None or bare.accuracy is None:
        return ""
    free = "; it costs none: " if point.accuracy >= bare.accuracy else ", "
    return f"{free}{_accuracy(bare)} without"


def _accuracy(point: Point) -> str:
    return DASH if point.accuracy is None else number(point.accuracy)


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
