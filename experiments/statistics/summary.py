"""The leakage of a run as a table for the terminal: the figures of the report in a few lines."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.plan.privacy import sentences
from experiments.statistics.significance import Finding

LOOK: dict[str, Any] = {
    "box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "title_justify": "left", "caption_justify": "left",
}  # fmt: skip

CONTROLS = {
    "prior_only": "prior\nonly",
    "wrong_update": "wrong\nupdate",
    "public_mean": "mean\nface",
    "own_photo": "a real\nphoto",
}

WITHOUT_PICTURE = {"base_rate": "base rate", "direct_update": "direct, no picture"}


def leakage_tables(figures: dict[str, Any], found: Sequence[Finding]) -> Group:
    """Facial similarity and rank-1 of each attack per round, beside the controls and the ceiling.

    Under an attack that leaves several images: what all of them say, and the best one, over all rounds. Under one that
    draws what the update leaves open: what the mean face behind the draws says, and any one draw. Under one that an
    epsilon can be audited by: what it proves. Last the attributes. `figures` as `experiments.run.leakage.aggregate`
    returns them, `found` as `verdict.findings` does. Intervals are 95 %, over users. 80 columns wide.
    """
    tables = []
    for attack in figures["overall"]:
        own = {one.server_round: one for one in found if one.attack == attack and one.arm == "attack"}
        table = Table(title=f"{attack}{_knowing(own)}: similarity [95 %], users named [95 %]", **LOOK)
        table.add_column("round", justify="right")
        table.add_column("attacked", justify="right", no_wrap=True)
        for title in CONTROLS.values():
            table.add_column(title, justify="right", no_wrap=True)
        for server_round, measured in figures["rounds"].items():
            arms = measured.get(attack, {})
            controls = (_cell(arms.get(arm)) for arm in CONTROLS)
            attacked = f"{_similarity(arms.get('attack'))}\n{_named(own.get(int(server_round)))}"
            table.add_row(server_round, attacked, *controls)
        table.caption = _caption(figures["overall"][attack], own.values())
        tables.append(table)
    more = [table for table in (realism_table(figures), attributes_table(figures)) if table]
    return Group(*tables, *more)


def realism_table(figures: dict[str, Any]) -> Table | None:
    """How real the pictures look, whomever they show, over all rounds; None where that was not measured.

    One row an attack, the mean face behind its draws, the prior alone and a real photo: the face detector's
    probability, sharpness in three bands (a photo's is 1), and the distance of patches to those of photos at three
    scales.
    """
    overall = figures["overall"]
    first: dict[str, Any] = next(iter(overall.values()), {})
    read = {"attack": "", "determined": ", determined"}
    pairs = [(one, arm) for one, arms in overall.items() for arm in read if arm in arms]
    lines = [(f"{one}{read[arm]}", overall[one][arm]) for one, arm in pairs]
    lines += [(CONTROLS[arm].replace("\n", " "), first[arm]) for arm in ("prior_only", "own_photo") if arm in first]
    if not any(SHARPNESS[0] in figures_of for _, figures_of in lines):
        return None
    table = Table(title="how real the pictures look", **LOOK)
    for heading in ("", "face\ndetected", "sharpness, 3 bands\n(a photo: 1)", "patch distance,\n3 scales"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for title, figures_of in lines:
        cells = [_share(figures_of.get("face_probability"))]
        cells.append("  ".join(_share(figures_of.get(name)) for name in SHARPNESS))
        cells.append("  ".join(_whole(figures_of.get(name)) for name in SWD))
        table.add_row(title, *cells)
    return table


def attributes_table(figures: dict[str, Any]) -> Table | None:
    """Share of users whose attributes are inferred rightly, over all rounds; None where none were asked for.

    One column an attribute; rows: the base rate, the direct attack, each attack's reconstruction and what it takes for
    determined, a real photo.
    """
    overall = figures["overall"]
    first: dict[str, Any] = next(iter(overall.values()), {})
    names = sorted(
        {figure for arms in overall.values() for arm in arms.values() for figure in arm if figure[:5] == "attr_"}
    )
    lines = [(title, first.get(arm, {})) for arm, title in WITHOUT_PICTURE.items() if arm in first]
    read = {"attack": "", "determined": ", determined"}
    lines += [(f"{one}{read[arm]}", arms.get(arm, {})) for one, arms in overall.items() for arm in read if arm in arms]
    lines.append(("a real photo", first.get("own_photo", {})))
    if not names:
        return None
    table = Table(title="attributes inferred rightly", **LOOK)
    table.add_column("")
    for name in names:
        table.add_column(name[5:].replace("_", "\n"), justify="right")
    for title, figures_of in lines:
        table.add_row(title, *(_share(figures_of.get(name)) for name in names))
    return table


def privacy_lines(told: dict[str, Any]) -> list[str]:
    """What `plan.privacy.facts` says, a line for each reader and fault; none for a run without any guarantee."""
    faults = [f"privacy: {sentence}" for sentence in told.get("faults", [])]  # absent from runs of older versions
    if all(told[against]["epsilon_run"] is None for against in ("server", "reader")):
        return faults
    against = {"server": "the server", "reader": "readers of the model"}
    return [f"privacy against {against[reader]}: {text}" for reader, text in sentences(told).items()] + faults


def _share(interval: dict[str, Any] | None) -> str:
    return "-" if interval is None or interval["mean"] is None else f"{interval['mean']:.2f}"


def _whole(interval: dict[str, Any] | None) -> str:
    return "-" if interval is None or interval["mean"] is None else f"{interval['mean']:.0f}"


def _knowing(found: Mapping[int | None, Finding]) -> str:
    known = {one.knowledge for one in found.values()} - {"none"}
    return f", knows the defenses' {known.pop()}" if known else ""


def _caption(arms: dict[str, Any], found: Iterable[Finding]) -> str | None:
    said = []
    if "all_images" in arms:
        together, best = (_cell(arms.get(arm)) for arm in ("all_images", "best_image"))
        said.append(f"all its images together {together}, the best of them {best} (all rounds)")
    if "determined" in arms:
        said.append(f"the mean face that the update determines {_cell(arms['determined'])} (all rounds)")
    drawn = arms.get("attack", {}).get("draws_similarity")
    if drawn is not None and drawn["mean"] is not None:
        said.append(f"any one of its draws {drawn['mean']:.2f} (all rounds)")
    if "best_member" in arms:
        said.append(f"of each sum the user it is most like {_cell(arms['best_member'])} (all rounds)")
    audited = [one for one in found if one.epsilon_audited is not None]
    proved = max(audited, key=lambda one: one.epsilon_audited or 0.0, default=None)
    if proved is not None:
        promise = "none is promised" if proved.epsilon is None else f"promised is {proved.epsilon:.3g}"
        said.append(f"proves epsilon >= {proved.epsilon_audited:.3g} at delta {proved.delta:g}; {promise}")
    return "; ".join(said) if said else None


def _similarity(metrics: dict[str, Any] | None) -> str:
    if metrics is None or metrics["facial_similarity"]["mean"] is None:
        return "-"
    found = metrics["facial_similarity"]
    return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _named(one: Finding | None) -> str:
    if one is None or one.share["low"] is None or one.share["high"] is None:
        return "-"
    return f"{one.named} of {one.users} [{100 * one.share['low']:.0f}, {100 * one.share['high']:.0f} %]"


def _cell(metrics: dict[str, Any] | None) -> str:
    if metrics is None or metrics["facial_similarity"]["mean"] is None:
        return "-"
    return f"{metrics['facial_similarity']['mean']:.2f} {metrics['rank1']['mean']:4.0%}"
