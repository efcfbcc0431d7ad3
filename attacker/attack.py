"""What an attack is: what it gets beside the observations, what it declares, and what it is loaded as."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attacker.observation import Observation, Reconstruction
from attacker.priors.eigenfaces import Eigenfaces
from attacker.priors.prior import Prior
from fl_sim.config import ConfigError
from fl_sim.traits import Traits
from fl_sim.updates import Update

Progress = Callable[[int, int], None]  # (done, total) steps


@dataclass(frozen=True)
class Needs:
    """What an attack needs beside the observations of one round; the default is nothing."""

    prior: str | None = None  # the diffusion prior: shipped name, diffusers folder or hub name
    public_faces: bool = False  # what photos of public people have in common (`Attacker.faces`)
    rounds: int = 1  # updates of a user that are explained together: this one and earlier ones
    simulated_steps: int = 1  # local steps (FedAvg) of a user that are simulated at most
    second_derivatives: bool = False  # of the model, whose gradient is differentiated once more


@dataclass(frozen=True)
class Attacker:
    """What an attack has besides the observations."""

    model: nn.Module  # the architecture that the server trains; parameters come with the observation
    image_size: int  # pixels
    num_classes: int
    prior: Prior | None  # there if the attack needs one
    device: torch.device
    faces: Eigenfaces | None = None  # there if the threat model grants photos of public people
    frames: int = 0  # of an inversion that its `Reconstruction.frames` should hold

    def require_prior(self) -> Prior:
        """The prior. Raises ConfigError where none was given."""
        if self.prior is None:
            raise ConfigError("the attack was given no prior; name one in its settings (prior = ...)")
        return self.prior


Run = Callable[[Sequence[Observation], Attacker, Any, Sequence[torch.Generator], Progress], list[Reconstruction]]
KNOWLEDGE = ("none", "mechanism", "parameters")  # of the users' defenses, weakest first
Rewrite = Callable[[int, Update, Any, int], Update]


@dataclass(frozen=True)
class Attack:
    """An attack with its settings, ready to run."""

    label: str  # its name in the results
    name: str  # the module in this folder, or package.module
    settings: Any  # an instance of the module's Settings
    run: Run
    needs: Needs = Needs()
    rewrite: Rewrite | None = None  # of an actively malicious server
    knowledge: str = "none"  # of the users' defenses: one of KNOWLEDGE
    adapts: bool = False  # whether it makes something of what it knows of them

    def known_traits(self, defenses: Sequence[Traits]) -> tuple[Traits, ...]:
        """What it knows of the defenses of a run."""
        if self.knowledge == "none":
            return ()
        return tuple(defense if self.knowledge == "parameters" else defense.mechanism() for defense in defenses)

    def adapts_to(self, defense: Traits | None) -> bool:
        """Whether it has a form against a defense, at its settings and with its knowledge; None declares nothing."""
        if defense is None or not defense.tells or self.knowledge == "none" or not self.adapts:
            return False
        simulates = self.knowledge == "parameters" and self.needs.simulated_steps > 1
        return simulates or not defense.epochs

    def known_tables(self, defenses: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        """The same as config tables, for the record."""
        if self.knowledge == "parameters":
            return tuple(defenses)
        return tuple({"name": table["name"]} for table in defenses) if self.knowledge == "mechanism" else ()
