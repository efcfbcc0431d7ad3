"""The tables of the report: every leakage number with its interval, set-up and threat model, time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from experiments.evaluate.arms import ARMS
from experiments.plan.privacy import sentences
from experiments.show.report.captions import METRICS, bracket, digits, spell
from experiments.show.report.measured import Measured
from experiments.show.report.run_data import RunData, unknown_defenses
from experiments.show.report.svg import DASH, number
from experiments.statistics.interval import Interval
from fl_sim.federation.sampling import users_per_round


@dataclass(frozen=True)
class Cell:
    """A number and its interval; both empty where it was not measured."""

    value: str
    interval: str


@dataclass(frozen=True)
class Block:
    """The arms of one attack in one round, or in all of them."""

    title: str
    rows: list[tuple[str, str, list[Cell]]]  # (arm, "attack" | "reading" | "control" | "reference", cells)


@dataclass(frozen=True)
class NumberTable:
    """All numbers of one attack."""

    attack: str
    columns: list[str]
    blocks: list[Block]


LOOKS = {"upper_bound": "reading", "prediction": "control"}  # groups of arms that look like another group


def readings(run_data: Measured, server_round: int) -> list[tuple[str, list[str]]]:
    """What an attack's first image says of the user, all its images together, and the best of them, in one round.

    (attack, one cell "similarity interval, rank-1" each); only attacks that leave several images.
    """
    rows = []
    for attack in run_data.attacks:
        cells = []
        for arm in ("attack", "all_images", "best_image"):
            similarity = run_data.interval(attack, arm, "facial_similarity", server_round)
            rank1 = run_data.interval(attack, arm, "rank1", server_round)
            cells.append(f"{spell(similarity)}, {100 * rank1.mean:.0f}\N{NO-BREAK SPACE}%" if rank1 else DASH)
        if any(cell != DASH for cell in cells[1:]):
            rows.append((attack, cells))
    return rows


def numbers(run_data: Measured) -> list[NumberTable]:
    """One table an attack: a block for all rounds, one for each round; an arm a row, a metric a column."""
    tables = []
    scopes = [("All rounds", None), *((f"Round {r}", r) for r in run_data.measured_rounds)]
    if len(run_data.measured_rounds) == 1:
        scopes = scopes[1:]
    for attack in run_data.attacks:
        metrics = [
            metric
            for metric in METRICS
            if any(run_data.interval(attack, arm.name, metric, scope) for arm in ARMS for _, scope in scopes)
        ]
        blocks = []
        for title, scope in scopes:
            rows = []
            for arm in ARMS:
                measured = {metric: run_data.interval(attack, arm.name, metric, scope) for metric in metrics}
                if any(measured.values()):
                    cells = [_cell(metric, interval) for metric, interval in measured.items()]
                    rows.append((arm.caption, LOOKS.get(arm.group, str(arm.group)), cells))
            if rows:
                blocks.append(Block(title, rows))
        tables.append(NumberTable(attack, [METRICS[metric] for metric in metrics], blocks))
    return tables


def setup(run_data: RunData) -> list[tuple[str, str]]:
    """What was run, as (term, description)."""
    config = run_data.config
    people = f"{config.dataset.users} users with {_photos(run_data)} private photos each, all of one person"
    embedder = config.leakage.embedder.replace("auto", "synthetic")
    update = "the gradient of the mean loss" if config.federation.update == "gradient" else "the weights after one step"
    rows = [
        ("Faces", f"{config.dataset.name}, {config.dataset.image_size} by {config.dataset.image_size} px; {people}"),
        ("Task", run_data.manifest.get("data", {}).get("task", config.dataset.task)),
        ("Model", _model(run_data)),
        (
            "Federation",
            f"FedSGD, {plural(config.federation.rounds, 'round')} of {plural(users_per_round(config), 'user')}, "
            f"server learning rate {config.federation.learning_rate:g}, engine {config.federation.engine}",
        ),
        ("Update", f"{update}, once a round"),
        ("Defenses", " → ".join(call(table) for table in config.defenses) or "none"),
        (
            "Attacks",
            "; ".join(
                call({"name": table.get("name", label)} | table, label) for label, table in config.attacks.items()
            )
            or "none",
        ),
        ("Measured with", f"embedder {embedder}; gallery of {run_data.gallery_size} people"),
        ("Seed", str(config.seed)),
    ]
    return rows


ELSEWHERE = {
    "server",
    "labels",
    "update",
    "defenses",
    "not_adapted_to",
    "batch_norm",
    "privacy",
    "users_behind_an_update",
}
"""Facts of the stated threat model that the set-up or the lines above tell in words."""


def threat_model(run_data: RunData) -> list[tuple[str, str]]:
    """What the attacker is and knows, as (term, description); what the manifest states comes last, in its words."""
    config = run_data.config
    labels = (
        "not told; the attack reads their proportions off the update"
        if config.threat_model.labels == "recovered"
        else ("the proportions of every user's labels are told")
    )
    norm = f" (normalisation in {config.model.batch_norm} mode)" if config.model.name.startswith("resnet") else ""
    server = (
        "the server: honest in training, curious about every update it receives"
        if config.threat_model.server == "honest_but_curious"
        else "the server, actively malicious: users get a model made for spying, and the global one is not trained"
    )
    rows = [
        ("Attacker", server),
        ("Sees", _seen(run_data)),
        ("Knows", f"the model as sent{norm}, the learning rate, how many photos are behind an update"),
        ("Labels", labels),
        *_of_defenses(run_data),
        ("Never sees", "any private photo, nor another photo of the same person"),
    ]
    stated = run_data.manifest.get("threat_model", {})
    if isinstance(stated, Mapping):
        told = sentences(stated["privacy"]) if "privacy" in stated else {}  # absent from runs of older versions
        readers = {"server": "Privacy against the server", "reader": "Privacy against readers of the model"}
        rows += [(readers[against], text) for against, text in told.items()]
        faults = stated["privacy"].get("faults", []) if "privacy" in stated else []
        rows += [("Privacy not as promised", sentence) for sentence in faults]
        rows += [(_term(key), _plain(value)) for key, value in stated.items() if key not in ELSEWHERE]
    elif stated:
        rows.append(("Stated", _plain(stated)))
    return rows


def _of_defenses(run_data: RunData) -> list[tuple[str, str]]:
    """What each attack knows of the defenses, and which of them it has no form against; nothing without defenses."""
    if not run_data.config.defenses:
        return []
    known = {one.attack: one.knowledge for one in run_data.findings if one.arm == "attack"}
    captions = {"none": "takes the update for a plain gradient", "mechanism": "knows which defenses there are"}
    told = [f"{label} {captions.get(knowledge, 'knows their settings')}" for label, knowledge in known.items()]
    rows = [("Of the defenses", "; ".join(told) or "no attack was measured")]
    unknown = unknown_defenses(run_data.manifest)
    if unknown:
        rows.append(("Not attacked", f"by anyone who knows this defense: {', '.join(unknown)}"))
    return rows


def _seen(run_data: RunData) -> str:
    section = run_data.config.protocol
    if section.secure_aggregation:
        return f"only the mean update of {section.secure_aggregation} or more users at a time (secure aggregation)"
    if section.shuffle:
        return "each update in every round, under a pseudonym that changes every round"
    return "each user's own update in every round, not only their sum"


def timing(run_data: Measured) -> list[tuple[str, int, str, str]]:
    """(attack, pictures, median seconds a user, seconds in all)."""
    rows: list[tuple[str, int, str, str]] = []
    if run_data.leakage is None or "seconds" not in run_data.leakage:
        return rows
    for label in run_data.attacks:
        seconds = run_data.rows(label, "attack")["seconds"].dropna()
        if len(seconds):
            rows.append((label, len(seconds), number(float(seconds.median())), number(float(seconds.sum()), 1)))
    return rows


def training(run_data: Measured) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the rounds, as text."""
    if run_data.rounds is None:
        return [], []
    formats = {"round": 0, "accuracy": 3, "loss": 3, "examples": 0, "accepted": 0, "rejected": 0, "seconds": 1}
    formats |= {name: 2 for name in ("epsilon", "epsilon_reader") if _any(run_data.rounds, name)}
    columns = [column for column in formats if column in run_data.rounds]
    rows = [
        [number(_float(row[column]), formats[column]) for column in columns] for _, row in run_data.rounds.iterrows()
    ]
    return columns, rows


def _cell(metric: str, interval: Interval | None) -> Cell:
    if interval is None:
        return Cell(DASH, "")
    return Cell(number(interval.mean, digits(metric)), bracket(interval, digits(metric)))


def _photos(run_data: RunData) -> str:
    """How many private photos users have: what was counted before the run, else what was asked for."""
    counted = run_data.manifest.get("data", {}).get("photos")
    if not counted:
        return f"up to {run_data.config.dataset.photos}"
    low, high = counted
    return f"{low}" if low == high else f"{low} to {high}"


def _model(run_data: RunData) -> str:
    model = run_data.config.model
    start = f"starting from the trained weights {model.weights.name}" if model.weights else "untrained at the start"
    return f"{model.name}, {start}"


def call(table: Mapping[str, Any], label: str | None = None) -> str:
    """`clip(max_norm=1.0)`, with the label before it where that differs."""
    name = str(table.get("name", "?"))
    settings = ", ".join(f"{key}={value}" for key, value in table.items() if key != "name")
    call = f"{name}({settings})" if settings else name
    return call if label in (None, name) else f"{label}: {call}"


def _term(key: str) -> str:
    text = str(key).replace("_", " ")
    return text[:1].upper() + text[1:]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plural(count: int, noun: str) -> str:
    """`1 round`, `3 rounds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _any(table: pd.DataFrame, column: str) -> bool:
    return column in table and bool(table[column].notna().any())


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
