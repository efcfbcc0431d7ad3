"""What was measured of the users of a federation, as the parts of a page take it; a run's or somebody else's."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from experiments.evaluate.arms import PICTURES
from experiments.statistics.aggregate import Aggregates, Arms, aggregate, attribute_names
from experiments.statistics.interval import Interval
from experiments.statistics.significance import Finding
from experiments.statistics.verdict import Verdict
from fl_sim.runs import RunFolder


@dataclass(frozen=True, kw_only=True)
class Measured(ABC):
    """One federation, read: the folder that holds its reconstructions, and what they tell."""

    run: RunFolder
    name: str
    update: Literal["gradient", "weight update"]  # what users send
    synthetic: bool  # whether a program drew the people
    planned: tuple[str, ...]  # labels of attacks, in the order in which they are shown
    users: int  # who take part
    people: int  # among whom the users are looked for, as far as it is not measured
    rounds: pd.DataFrame | None  # one row a round: accuracy, loss, accepted, ...
    leakage: pd.DataFrame | None  # one row per (round, user, attack, arm)
    findings: list[Finding]  # what each attack tells in each round
    rejected: list[Mapping[str, Any]]  # rows of the capture index
    labels: list[str]  # attacks that left reconstructions, in order
    priors: frozenset[str]  # labels that are the prior alone: a control, not an attack
    missing: list[str]  # sentences: what is not there, and why; what is to be known of the data and their judges

    @property
    @abstractmethod
    def judged(self) -> Verdict | None:
        """What may be said of the findings; None where there are none."""

    @cached_property
    def aggregates(self) -> Aggregates:
        """The figures of each attack and arm; without any attack where nothing was measured."""
        return {"overall": {}, "rounds": {}} if self.leakage is None else aggregate(self.leakage)

    @property
    def attacks(self) -> list[str]:
        """Labels of the measured attacks, in the order of the config; the prior alone only if it is all there is."""
        if self.leakage is None:
            return []
        present = set(self.leakage["attack"])
        known = dict.fromkeys([*self.planned, *self.labels, *sorted(present)])
        order = [label for label in known if label in present]
        return [label for label in order if label not in self.priors] or order

    @property
    def measured_rounds(self) -> list[int]:
        return [] if self.leakage is None else sorted(int(value) for value in self.leakage["round"].unique())

    def interval(self, attack: str, arm: str, metric: str, server_round: int | None = None) -> Interval | None:
        """An aggregate, of one round or (None) of all; None where it was not measured.

        Its ends are finite: those that cannot be computed are the mean.
        """
        table: dict[str, Arms] = self.aggregates["overall"]
        if server_round is not None:
            table = self.aggregates["rounds"].get(str(server_round), {})
        measured = table.get(attack, {}).get(arm, {}).get(metric)
        if measured is None or not measured.known:
            return None
        low, high = (end if math.isfinite(end) else measured.mean for end in (measured.low, measured.high))
        return Interval(measured.mean, low, high)

    def rows(self, attack: str, arm: str, server_round: int | None = None) -> pd.DataFrame:
        """The leakage rows of an arm; empty where there are none."""
        if self.leakage is None:
            return pd.DataFrame()
        keep = (self.leakage["attack"] == attack) & (self.leakage["arm"] == arm)
        if server_round is not None:
            keep &= self.leakage["round"] == server_round
        return self.leakage[keep]

    def row(self, label: str, server_round: int, user: int, arm: str = "attack") -> dict[str, Any]:
        """The leakage of one picture; of the prior alone also where only its control arm was measured."""
        sources = [(label, arm)]
        if label in self.priors:
            sources += [(attack, "prior_only") for attack in self.attacks]
        for attack, arm in sources:
            rows = self.rows(attack, arm, server_round)
            rows = rows if rows.empty else rows[rows["user"] == user]
            if not rows.empty:
                return dict(rows.iloc[0])
        return {}

    def leaks(self, attack: str) -> bool:
        """Whether the pictures of an attack tell more of the users than its controls, in any round."""
        own = [one for one in self.findings if one.attack == attack and one.arm in PICTURES]
        return any(one.names or one.resembles or one.reads_attributes for one in own)

    @property
    def attribute_names(self) -> list[str]:
        if self.leakage is None:
            return []
        return [name for name in attribute_names(self.leakage) if self.leakage[f"attr_{name}_true"].notna().any()]

    @property
    def gallery_size(self) -> int:
        """People among whom the users were looked for."""
        if self.leakage is not None and "gallery_size" in self.leakage and self.leakage["gallery_size"].notna().any():
            return int(self.leakage["gallery_size"].max())
        return self.people


def reconstructed_users(run: RunFolder) -> list[int]:
    """The users of whom an attack left a reconstruction, ascending."""
    paths = run.reconstructions.glob("*/round-*/user-*.safetensors")
    return sorted({int(path.stem.split("-")[1]) for path in paths})
