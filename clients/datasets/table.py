"""A table of photographs made fit for use: one side a person, a task that it has, each photo once.

The table is a DataFrame with a row an image: `path`, `identity`, `split` (`users`, `public`, or anything
else for people who are left out), and columns of binary attributes as 0, 1 and UNKNOWN, in lower case.
A split that the data does not give is made, for all forms of data by the same rule.
"""

import difflib
import os
from collections.abc import Mapping

import pandas as pd

from fl_sim.config import ConfigError
from fl_sim.seeds import derive

UNKNOWN = -1
COLUMNS = ("path", "identity", "split")
MIN_PHOTOS = 4  # of a user: two to train on and two held out
_BLANK = ("", "na", "n/a", "nan", "null", "none")  # as spreadsheets, R and pandas write what is missing
_ALIASES = {"smile": "smiling"}


def made_split(identities: pd.Series) -> tuple[pd.Series, str]:
    """`users` or `public` for each row of a table without a split, and a sentence that says so.

    Half of the people with MIN_PHOTOS photos or more are users, by a hash of their names; all others are public.
    Neither the run seed nor `dataset.users` has a part in it: a prior trained on the public people of one run would
    otherwise have met the users of the next.
    """
    photos = identities.value_counts()
    enough = {name for name in photos.index[photos >= MIN_PHOTOS] if derive(0, "split", str(name)) % 2 == 0}
    note = (
        f"no split is given, so one is made: {len(enough)} people, half of those with {MIN_PHOTOS} photos or more (by "
        f"their names, whatever the seed), may be users; the other {len(photos) - len(enough)} are public"
    )
    return identities.map(lambda name: "users" if name in enough else "public"), note


def given_split(values: pd.Series, users: str, public: str, source: str) -> pd.Series:
    """A column `split` as `users`, `public` and "" for everybody else; `users` and `public` are the config's words."""
    if users == public:
        raise ConfigError(f"dataset.users_split and public_split are both {users!r}; users cannot be public")
    for key, value in (("users_split", users), ("public_split", public)):
        if value not in set(values):
            found = ", ".join(map(repr, sorted(set(values) - {""})[:10]))
            raise ConfigError(f"dataset.{key} = {value!r}, but column split of {source} has only {found}")
    return values.map({users: "users", public: "public"}).fillna("")


def labels_of(column: pd.Series) -> pd.Series | None:
    """A column of text as 1, 0 and UNKNOWN; None if it holds anything but a binary attribute.

    Its words are 1 and 0, 1 and -1, or true and false; what is blank, or called so, is UNKNOWN.
    """
    words = column.str.strip().str.lower()
    blank = words.isin(_BLANK)
    values = pd.to_numeric(words.replace({"true": "1", "false": "0"}), errors="coerce")
    found = set(values[~blank])
    if not found or not (found <= {0, 1} or found <= {-1, 1}):
        return None
    return (values > 0).astype("int8").mask(blank, UNKNOWN)


def find_task(task: str, attributes: list[str], source: str) -> str:
    """The column of a task, or `identity`. ConfigError for one that the table does not have."""
    name = task.lower()
    if name == "auto":
        return "smiling" if "smiling" in attributes else "smile" if "smile" in attributes else "identity"
    name = name if name in attributes else _ALIASES.get(name, name)
    if name == "identity" or name in attributes:
        return name
    if not attributes:
        raise ConfigError(
            f"dataset.task = {task!r}, but of the people in {source} nothing is known but who they are; "
            "set dataset.task=identity, or leave it out"
        )
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
