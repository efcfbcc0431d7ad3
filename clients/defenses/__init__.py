"""Defenses: what a user does to an update before it leaves.

A defense is one file here with a frozen dataclass `Settings` and a pure function
`defend(update, settings, generator) -> update`; its name in the config is the file's name. One of your
own is named `package.module:factory`: `factory(**settings)` returns `defend(update, generator) -> update`.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fl_sim import seeds
from fl_sim.config import ConfigError, parse
from fl_sim.updates import Update

Defend = Callable[[Update, torch.Generator], Update]
NOT_DEFENSES = {"mods"}  # files of this folder that carry defenses rather than being one


@dataclass(frozen=True)
class Defense:
    """A defense with its settings filled in."""

    name: str
    defend: Defend


def names() -> list[str]:
    """The defenses of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in NOT_DEFENSES)


def load(table: Mapping[str, Any]) -> Defense:
    """The defense of a config table such as {name = "clip", max_norm = 1.0}; ConfigError for any mistake in it."""
    name, settings = split(table)
    if ":" in name:
        return Defense(name, third_party(name, settings))
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names())} or package.module:factory"
        raise ConfigError(f"unknown defense {name!r}; {hint}")
    module = importlib.import_module(f"{__name__}.{name}")
    filled = parse(module.Settings, settings, where=f"defenses.{name}")
    return Defense(name, partial(_defend, module.defend, filled))


def apply(defenses: Sequence[Defense], update: Update, seed: int, server_round: int, user: int) -> Update:
    """`update` through `defenses` in order; the noise of each depends on (seed, round, user, place) alone."""
    for index, defense in enumerate(defenses):
        update = defense.defend(update, seeds.generator(seed, "defense", server_round, user, index))
    return update


def split(table: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the settings of a config table of a defense."""
    settings = dict(table)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"a defense needs a name, such as {{name = 'clip', max_norm = 1.0}}; got {dict(table)!r}")
    return name, settings


def third_party(name: str, settings: Mapping[str, Any]) -> Any:
    """What `package.module:factory` makes of `settings`; ConfigError if it cannot."""
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"defense {name!r} cannot be imported ({error}); is its package installed?") from error
    try:
        return factory(**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"defense {name!r} does not take the settings {dict(settings)!r}: {error}") from error


def _defend(defend: Callable[..., Update], settings: Any, update: Update, generator: torch.Generator) -> Update:
    return defend(update, settings, generator)
