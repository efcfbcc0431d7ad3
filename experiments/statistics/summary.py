"""The leakage of a run as a table for the terminal: the figures of the report in a few lines."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from experiments.evaluate.arms import CAPTIONS, CONTROLS, heading, names, title
from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.plan.privacy import sentences
from experiments.statistics.aggregate import Aggregates, Arms, Figures
from experiments.statistics.interval import Interval
from experiments.statistics.significance import Finding

LOOK: dict[str, Any] = {
    "box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "title_justify": "left", "caption_justify": "left",
}  # fmt: skip

LEVELS = (*CONTROLS, "own_photo")  # arms beside each attack


def leakage_tables(figures: Aggregates, findings: Sequence[Finding]) -> Group:
    """Facial similarity and rank-1 of each attack per round, beside the controls and the ceiling.

    Under an attack that leaves several images: what all of them say, and the best one, over all rounds. Under one that
    draws what the update leaves open: what the mean face behind the draws says, and any one draw. Under one that an
    epsilon can be audited by: what it proves. Last the attributes. Intervals are 95 %, over users. 80 columns wide.
    """
    tables = []
    for attack in figures["overall"]:
        own = {one.server_round: one for one in findings if one.attack == attack and one.arm == "attack"}
        table = Table(title=f"{attack}{_knowing(own)}: similarity [95 %], users named [95 %]", **LOOK)
        table.add_column("round", justify="right")
        table.add_column("attacked", justify="right", no_wrap=True)
        for arm in LEVELS:
            table.add_column(heading(arm), justify="right", no_wrap=True)
        for server_round, of_round in figures["rounds"].items():
            arms = of_round.get(attack, {})
            levels = (_cell(arms.get(arm)) for arm in LEVELS)
            attacked = f"{_similarity(arms.get('attack'))}\n{_named(own.get(int(server_round)))}"
            table.add_row(server_round, attacked, *levels)
        table.caption = _caption(figures["overall"][attack], list(own.values()))
        tables.append(table)
    more = [table for table in (realism_table(figures), attributes_table(figures)) if table]
    return Group(*tables, *more)


def realism_table(figures: Aggregates) -> Table | None:
    """How real the pictures look, whomever they show, over all rounds; None where that was not measured.

    One row an attack, the mean face behind its draws, the prior alone and a real photo: the face detector's
    probability, sharpness in three bands (a photo's is 1), and the distance of patches to those of photos at three
    scales.
    """
    overall = figures["overall"]
    first = next(iter(overall.values()), {})
    lines = _read(overall)
    lines += [(CAPTIONS[arm], first[arm]) for arm in ("prior_only", "own_photo") if arm in first]
    if not any(SHARPNESS[0] in figures_of for _, figures_of in lines):
        return None
    table = Table(title="how real the pictures look", **LOOK)
    table.add_column("")  # a long label wraps, and no figure is cut
    for column in ("face\ndetected", "sharpness, 3 bands\n(a photo: 1)", "patch distance,\n3 scales"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, figures_of in lines:
        cells = [_share(figures_of.get("face_probability"))]
        cells.append("  ".join(_share(figures_of.get(column)) for column in SHARPNESS))
        cells.append("  ".join(_whole(figures_of.get(column)) for column in SWD))
        table.add_row(name, *cells)
    return table


def attributes_table(figures: Aggregates) -> Table | None:
    """Share of users whose attributes are inferred rightly, over all rounds; None where none were asked for.

    One column an attribute; rows: the base rate, attribute inference, the answer of each attack and what it takes for
    determined, a real photo.
    """
    overall = figures["overall"]
    first = next(iter(overall.values()), {})
    attributes = sorted(
        {figure for arms in overall.values() for arm in arms.values() for figure in arm if figure[:5] == "attr_"}
    )
    lines = [(CAPTIONS[arm], first[arm]) for arm in reversed(names("prediction")) if arm in first]
    lines += [*_read(overall), (CAPTIONS["own_photo"], first.get("own_photo", {}))]
    if not attributes:
        return None
    table = Table(title="attributes inferred rightly", **LOOK)
    table.add_column("")
    for attribute in attributes:
        table.add_column(attribute[5:].replace("_", "\n"), justify="right")
    for name, figures_of in lines:
        table.add_row(name, *(_share(figures_of.get(attribute)) for attribute in attributes))
    return table


def _read(overall: Mapping[str, Arms]) -> list[tuple[str, Figures]]:
    """The answer of each attack, and the mean face behind its draws, if it has any."""
    pairs = [(attack, arm) for attack, arms in overall.items() for arm in ("attack", "determined") if arm in arms]
    return [(title(attack, arm), overall[attack][arm]) for attack, arm in pairs]


def privacy_lines(facts: dict[str, Any]) -> list[str]:
    """What `plan.privacy.facts` says, a line for each reader and fault; none for a run without any guarantee."""
    faults = [f"privacy: {sentence}" for sentence in facts.get("faults", [])]  # absent from runs of older versions
    if all(facts[against]["epsilon_run"] is None for against in ("server", "reader")):
        return faults
    against = {"server": "the server", "reader": "readers of the model"}
    return [f"privacy against {against[reader]}: {text}" for reader, text in sentences(facts).items()] + faults


def _share(interval: Interval | None) -> str:
    return "-" if interval is None or not interval.known else f"{interval.mean:.2f}"


def _whole(interval: Interval | None) -> str:
    return "-" if interval is None or not interval.known else f"{interval.mean:.0f}"


def _knowing(findings: Mapping[int | None, Finding]) -> str:
    known = {one.knowledge for one in findings.values()} - {"none"}
    return f", knows the defenses' {known.pop()}" if known else ""


def _caption(arms: Arms, findings: Sequence[Finding]) -> str | None:
    parts = [one.silence for one in findings if one.silence and one.server_round is not None]
    if "all_images" in arms:
        together, best = (_cell(arms.get(arm)) for arm in ("all_images", "best_image"))
        parts.append(f"all its images together {together}, the best of them {best} (all rounds)")
    if "determined" in arms:
        parts.append(f"the mean face that the update determines {_cell(arms['determined'])} (all rounds)")
    drawn = arms.get("attack", {}).get("draws_similarity")
    if drawn is not None and drawn.known:
        parts.append(f"any one of its draws {drawn.mean:.2f} (all rounds)")
    if "best_member" in arms:
        parts.append(f"of each sum the user it is most like {_cell(arms['best_member'])} (all rounds)")
    audited = [one for one in findings if one.epsilon_audited is not None]
    proved = max(audited, key=lambda one: one.epsilon_audited or 0.0, default=None)
    if proved is not None:
        promise = "none is promised" if proved.epsilon is None else f"promised is {proved.epsilon:.3g}"
        parts.append(f"proves epsilon >= {proved.epsilon_audited:.3g} at delta {proved.delta:g}; {promise}")
    return "; ".join(parts) if parts else None


def _similarity(figures: Figures | None) -> str:
    if figures is None or not figures["facial_similarity"].known:
        return "-"
    return figures["facial_similarity"].spelled()


def _named(finding: Finding | None) -> str:
    if finding is None or not finding.share.known:
        return "-"
    low, high = 100 * finding.share.low, 100 * finding.share.high
    return f"{finding.named} of {finding.users} [{low:.0f}, {high:.0f} %]"


def _cell(figures: Figures | None) -> str:
    if figures is None or not figures["facial_similarity"].known:
        return "-"
    return f"{figures['facial_similarity'].mean:.2f} {figures['rank1'].mean:4.0%}"
