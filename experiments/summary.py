"""The leakage of a run as a table for the terminal: the figures of the report in a few lines."""

from typing import Any

from rich.table import Table

ARMS = {
    "attack": "attack",
    "prior_only": "prior only",
    "wrong_update": "another's update",
    "public_mean": "mean of strangers",
    "own_photo": "a real photo",
}


def leakage_table(figures: dict[str, Any]) -> Table:
    """Facial similarity and rank-1 per attack and round, beside the controls and the ceiling.

    `figures` as `experiments.leakage.aggregate` returns them. An interval is 95 %, over users.
    """
    table = Table(title="leakage per round: facial similarity [95 % interval over users], rank-1", title_justify="left")
    table.add_column("attack")
    table.add_column("round", justify="right")
    for title in ARMS.values():
        table.add_column(title, justify="right")
    attacks = list(figures["overall"])
    for attack in attacks:
        for server_round, found in figures["rounds"].items():
            arms = found.get(attack, {})
            table.add_row(attack, server_round, *(_cell(arms.get(arm)) for arm in ARMS))
        table.add_section()
    return table


def _cell(metrics: dict[str, Any] | None) -> str:
    if metrics is None or metrics["facial_similarity"]["mean"] is None:
        return "-"
    similarity, rank1 = metrics["facial_similarity"], metrics["rank1"]
    interval = ""
    if similarity["low"] is not None:
        interval = f" [{similarity['low']:.2f}, {similarity['high']:.2f}]"
    return f"{similarity['mean']:.2f}{interval}, {rank1['mean']:.0%}"
