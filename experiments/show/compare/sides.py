"""One run of a comparison in figures, user by user."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.show.report.run_data import RunData, unknown_defenses
from experiments.show.tables import guarantee, last_round
from experiments.statistics.bootstrap import Values, interval, mean
from experiments.statistics.interval import Interval
from experiments.statistics.shares import share
from experiments.statistics.significance import Finding, findings
from experiments.statistics.verdict import Verdict


@dataclass(frozen=True)
class Scores:
    """What one attack tells of each user, over the rounds that all runs measured."""

    attack: str  # label
    arm: str  # of the leakage table
    similarity: Values  # (users,), mean over rounds; NaN without a picture
    identified: Values  # (users,), 1 where it comes first in any round, else 0; NaN without an answer

    @property
    def likeness(self) -> Interval:
        return interval(self.similarity, mean)

    @property
    def share(self) -> Interval:
        """Of users identified, exact."""
        return share(self.identified)

    @property
    def count(self) -> tuple[int, int]:
        """Users identified, users with an answer."""
        return int(np.nansum(self.identified)), int(np.isfinite(self.identified).sum())


@dataclass(frozen=True)
class Side:
    """One run of the comparison."""

    name: str
    run_data: RunData
    table: pd.DataFrame  # leakage, of common users and rounds
    verdict: Verdict  # on the whole run
    strongest: Scores
    accuracy: float | None  # in [0, 1], on held-out photos after the last round
    epsilon: float | None  # promised over the whole run; None: no guarantee
    epsilon_audited: float | None  # the most that any attack and round proves; None: not auditable
    delta: float

    @property
    def users(self) -> list[int]:
        return sorted(int(user) for user in self.table["user"].unique())

    @property
    def group_size(self) -> int:
        """Users of whose updates the server saw only the mean; their outcomes are not independent."""
        return int(self.table["group_size"].max()) if "group_size" in self.table else 1

    @property
    def unknown_defenses(self) -> list[str]:
        return unknown_defenses(self.run_data.manifest)

    @property
    def attacks(self) -> dict[str, dict[str, Any]]:
        """By label, name and settings of each measured attack, but what it knows of the defenses."""
        tables = {label: self.run_data.config.attacks.get(label, {}) for label in self.run_data.attacks}
        return {
            label: {"name": label} | {key: value for key, value in table.items() if key != "knowledge"}
            for label, table in tables.items()
        }

    def scores(self, attack: str, arm: str = "attack") -> Scores:
        """Of one attack, in the order of `users`."""
        return scores(self.table, self.users, attack, arm)


def side(name: str, run_data: RunData, table: pd.DataFrame) -> Side:
    """`table`: the leakage of common users and rounds, in which the strongest attack is looked for."""
    judged = run_data.judged
    assert judged is not None  # there are findings (same_users), in all of the table and in what is common
    whole = run_data.leakage is not None and len(table) == len(run_data.leakage)
    best = max(run_data.findings if whole else findings(table), key=_strength)
    rounds = pd.DataFrame() if run_data.rounds is None else run_data.rounds
    proved = [one.epsilon_audited for one in run_data.findings if one.epsilon_audited is not None]
    users = sorted(int(user) for user in table["user"].unique())
    return Side(
        name=name,
        run_data=run_data,
        table=table,
        verdict=judged,
        strongest=scores(table, users, best.attack, best.arm),
        accuracy=last_round(rounds)["accuracy"],
        epsilon=guarantee(run_data.run)["epsilon"],
        epsilon_audited=max(proved, default=None),
        delta=judged.strongest.delta,
    )


def scores(table: pd.DataFrame, users: list[int], attack: str, arm: str) -> Scores:
    """Of one attack and arm of a leakage table; what is regressed without a picture is the same beside each attack."""
    rows = table[table["arm"] == arm]
    own = rows[rows["attack"] == attack]
    rows = own if len(own) else rows.drop_duplicates(["user", "round"])
    similarity = rows.groupby("user")["facial_similarity"].mean().reindex(users)
    best = rows.groupby("user")["rank"].min().reindex(users).astype("float64")
    return Scores(
        attack=attack,
        arm=arm,
        similarity=similarity.to_numpy(dtype=np.float64),
        identified=np.where(best.notna(), best <= 1, np.nan),
    )


def _strength(one: Finding) -> tuple[bool, float, bool, float]:
    """Of attacks that name as many, one whose picture is a photo comes before a mean face: the page shows it."""
    similarity = one.similarity.mean if one.similarity.known else -2.0
    return one.names, one.named / max(one.users, 1), one.arm != "determined", similarity
