"""What the page of a run at work says, and where it asks for news."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Live:
    """A run as it is watched in a browser."""

    said: str  # what it is doing, in one sentence
    token: str  # changes with the page; "": it will not change any more
