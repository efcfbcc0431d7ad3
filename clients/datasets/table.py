"""A table of photographs made fit for use: one side a person, a task that it has, each photo once.

The table is a DataFrame with a row an image: `path`, `identity`, `split` (`users`, `public`, or anything
else for people who are left out), and columns of binary attributes as 0, 1 and UNKNOWN, in lower case.
"""

import difflib
import os
from collections.abc import Mapping

import pandas as pd

from fl_sim.config import ConfigError
from fl_sim.seeds import derive

UNKNOWN = -1
COLUMNS = ("path", "identity", "split")
_ALIASES = {"smile": "smiling"}


def stable_split(identities: pd.Series) -> pd.Series:
    """`users` or `public` for tables without a split: half of the people each, by a hash of their names.

    The run seed has no part in it: a prior trained on the public people of one run would otherwise have
    met the users of the next.
    """
    names = identities.unique()
    return identities.map({name: ("users", "public")[derive(0, "split", str(name)) % 2] for name in names})


def find_task(task: str, attributes: list[str], source: str) -> str:
    name = task.lower()
    name = name if name in attributes else _ALIASES.get(name, name)
    if name == "identity" or name in attributes:
        return name
    near = difflib.get_close_matches(name, attributes, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "allowed:"
    raise ConfigError(
        f"dataset.task = {task!r}, but {source} has no such binary attribute; {hint} "
        f"({', '.join(['identity', *sorted(attributes)])})"
    )


def split_of_people(table: pd.DataFrame, source: str) -> dict[str, str]:
    """The one split of each person; ConfigError for a person with photos among the users and the public."""
    known = table[table["split"].isin(["users", "public"])].groupby("identity")["split"]
    splits = known.nunique()
    if (splits > 1).any():
        raise ConfigError(
            f"{source} has photos of person {splits.idxmax()!r} both among the users and among the public; "
            "give each person one split"
        )
    people = dict.fromkeys(table["identity"].astype(str), "")
    return people | {str(name): str(value) for name, value in known.first().items()}


def each_once(table: pd.DataFrame, splits: Mapping[str, str], source: str) -> tuple[pd.DataFrame, set[str]]:
    """The rows of people who are users or public, without what repeats a path of the same person; what that was.

    Raises ConfigError for a path under two people.
    """
    table = table[table["identity"].map(splits) != ""].reset_index(drop=True)
    path = table["path"].map(os.path.normpath)
    owner = table["identity"].groupby(path).transform("first")
    if (owner != table["identity"]).any():
        row = int((owner != table["identity"]).to_numpy().argmax())
        raise ConfigError(
            f"{source} lists {table['path'][row]} as a photo of {owner[row]!r} and of {table['identity'][row]!r}; "
            "give it to one of them"
        )
    again = path.duplicated()
    return table[~again].reset_index(drop=True), set(path[again])


def labelled(table: pd.DataFrame, splits: Mapping[str, str], task: str) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows without users' photos whose label for the task is unknown; unknown labels by attribute, where any."""
    names = [name for name in table.columns if name not in COLUMNS]
    unlabelled = {name: int((table[name] == UNKNOWN).sum()) for name in names}
    if task != "identity":
        useless = (table[task] == UNKNOWN) & (table["identity"].map(splits) == "users")
        table = table[~useless].reset_index(drop=True)
    return table, {name: count for name, count in unlabelled.items() if count}
