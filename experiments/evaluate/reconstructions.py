"""The reconstructions that attacks left in a run folder: which there are, and each when it is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from safetensors import safe_open

from attacker.capture.store import read_attack_table, read_reconstruction
from attacker.observation import Reconstruction
from fl_sim.runs import RunFolder
from fl_sim.tensors import check


class Kept(NamedTuple):
    """What one attack left in one round."""

    captures: list[int]  # that have a reconstruction, ascending
    images: int  # most images that one of them holds
    determined: bool  # whether one of them holds the mean face behind its draws


@dataclass(frozen=True)
class Reconstructions:
    """Every attack that left reconstructions, later ones (`fl-sim attack`) too."""

    run: RunFolder
    settings: Mapping[str, Mapping[str, Any]]  # by label of the attack
    priors: Mapping[str, Mapping[str, Any]]  # those of them that are the prior alone: controls of the others
    kept: Mapping[tuple[str, int], Kept]  # by (label, round)

    @property
    def labels(self) -> list[str]:
        """The attacks that are measured; the prior alone only if it is all there is."""
        return [label for label in self.settings if label not in self.priors] or sorted(self.priors)

    def read(self, label: str, server_round: int, capture: int) -> Reconstruction | None:
        """What an attack made of a capture; None where it left nothing."""
        if not self.run.reconstruction(label, server_round, capture).is_file():
            return None
        return read_reconstruction(self.run, label, server_round, capture)


def find_reconstructions(
    run: RunFolder, captured: Mapping[int, Sequence[int]], begun: Mapping[str, Mapping[str, Any]] | None = None
) -> Reconstructions:
    """What attacks made of the accepted captures of `run`, by round in `captured`; no image is read.

    `begun`: tables, by label, of attacks that may have left nothing: they are measured too, as having no answer.
    """
    folder = run.reconstructions
    labels = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    left = {label: table for label in labels if (table := _settings(run, label, captured)) is not None}
    settings: dict[str, Mapping[str, Any]] = {**(begun or {}), **left}
    priors = {label: table for label, table in settings.items() if str(table.get("name", label)) == "prior_only"}
    kept = {(label, number): _kept(run, label, number, captured[number]) for label in settings for number in captured}
    return Reconstructions(run, settings, priors, kept)


def _settings(run: RunFolder, label: str, captured: Mapping[int, Sequence[int]]) -> dict[str, Any] | None:
    """The table of an attack, from the first of its reconstructions; None where it left none."""
    for number, captures in captured.items():
        tables = (read_attack_table(run, label, number, capture) for capture in captures)
        table = next((table for table in tables if table is not None), None)
        if table is not None:
            return table
    return None


def _kept(run: RunFolder, label: str, server_round: int, captures: Sequence[int]) -> Kept:
    present, images, determined = [], 0, False
    for capture in captures:
        path = run.reconstruction(label, server_round, capture)
        if path.is_file():
            present.append(capture)
            check(path)
            with safe_open(path, framework="pt") as file:
                images = max(images, file.get_slice("images").get_shape()[0])
                determined |= "determined" in file.keys()  # noqa: SIM118
    return Kept(present, images, determined)
