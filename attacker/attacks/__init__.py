"""Attacks: from observations of one round to a reconstruction of each user.

An attack is one file here, `attacks/NAME.py` (or a third-party `package.module`), with a frozen dataclass
`Settings` and a function

    attack(observations, attacker, settings, generators, progress) -> list[Reconstruction]

that attacks several victims of one round together: all observations hold the same parameters, each victim
draws from its own generator (so its result does not depend on who else is there), and `progress(done, total)`
is called as steps pass. An attack never sees private data: observations are all it has.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attacker.observation import Observation, Reconstruction
from attacker.prior import Prior
from fl_sim.config import ConfigError, parse

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Attacker:
    """What an attack has besides the observations."""

    model: nn.Module  # the architecture that the server trains; parameters come with the observation
    image_size: int  # pixels
    num_classes: int
    prior: Prior | None  # there if the attack's settings name one
    device: torch.device


Run = Callable[[Sequence[Observation], Attacker, Any, Sequence[torch.Generator], Progress], list[Reconstruction]]


@dataclass(frozen=True)
class Attack:
    """An attack with its settings, ready to run."""

    label: str  # its name in the results
    name: str  # the module in this folder, or package.module
    settings: Any  # an instance of the module's Settings
    run: Run


def available() -> list[str]:
    """The names of the attacks in this folder."""
    folder = Path(__file__).parent
    return sorted(path.stem for path in folder.glob("[a-z]*.py") if "\nclass Settings" in path.read_text("utf-8"))


def load(label: str, table: Mapping[str, Any]) -> Attack:
    """The attack that the config table `[attacks.label]` describes; its `name` defaults to the label.

    Raises ConfigError for an attack that does not exist and for settings that it does not have.
    """
    settings = dict(table)
    name = str(settings.pop("name", label))
    where = f"attacks.{label}"
    builtin = name in available()
    module = importlib.import_module(f"attacker.attacks.{name}") if builtin else _third_party(name, where)
    return Attack(label, name, parse(module.Settings, settings, where), module.attack)


def _third_party(name: str, where: str) -> Any:
    if "." not in name:
        raise ConfigError(f"{where}: unknown attack {name!r}; choose one of {', '.join(available())} or package.module")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{where}: attack {name!r} cannot be imported ({error}); is its package installed?"
        ) from error
    for part in ("Settings", "attack"):
        if not hasattr(module, part):
            raise ConfigError(f"{where}: {name!r} has no {part!r}; an attack is a module with Settings and attack")
    return module
