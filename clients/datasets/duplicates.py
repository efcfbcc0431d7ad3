"""One photo, one person: a photo that is under two people is refused, one that a person has twice is told."""

from fl_sim.config import ConfigError


class Whose:
    """Whose photo each is, by its fingerprint: any bytes that equal photos share."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[str, str]] = {}

    def again(self, fingerprint: bytes, person: str, where: str) -> bool:
        """Whether the photo at `where` is one that `person` has elsewhere too. ConfigError if somebody else has it."""
        owner, at = self._first.setdefault(fingerprint, (person, where))
        if owner != person:
            raise ConfigError(
                f"{at} of {owner!r} and {where} of {person!r} are one and the same photo; take it away from one of them"
            )
        return at != where
