"""Defenses: what a user does to the photos before training, or to an update before it leaves.

A defense is one file here with a frozen dataclass `Settings` and one pure function:

    prepare(training, settings, generator) -> training    acts on the data: what is trained on, and in which steps
    defend(update, settings, generator) -> update         acts on the update

and one that declares what others must know of it, the accountant and an attacker who knows:

    traits(settings) -> fl_sim.traits.Traits

A `defend` with a fourth parameter `private` is given the model and the photos too. The name in the config is
the file's name. One of your own is named `package.module:factory`: `factory(**settings)` returns the same
function without `settings`, told apart by the name of its parameter `training`; or a Flower client mod. Its traits
are the attribute `traits` of what the factory returns.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from clients.training import Private, Training
from fl_sim import seeds
from fl_sim.config import ConfigError, parse, short
from fl_sim.config_errors import unknown
from fl_sim.traits import Traits
from fl_sim.updates import Update

NOT_DEFENSES = {"mods", "entries", "noise_scale"}  # files of this folder that serve defenses rather than being one

FLOWERS = {"LocalDpMod": Traits(scales=True, keeps_norm=True, noise="gaussian")}
"""Flower's own mods declare nothing. Their bounds and noise are of weights, so their sizes are not the gradient's."""


@dataclass(frozen=True)
class Defense:
    """A defense with its settings filled in."""

    name: str
    acts_on: Literal["data", "update", "message"]  # message: a Flower mod
    call: Callable[..., Any]  # (training or update, generator), or (message, context, call_next)
    settings: Any  # its Settings; of a third party's the table
    traits: Traits | None  # what it declares; None: nothing
    sees_private: bool = False

    def prepare(self, training: Training, generator: torch.Generator) -> Training:
        """`training` as this data-side defense leaves it."""
        prepared: Training = self.call(training, generator)
        return prepared

    def defend(self, update: Update, generator: torch.Generator, private: Private | None = None) -> Update:
        """`update` as this update-side defense leaves it."""
        more = {"private": private} if self.sees_private else {}
        defended: Update = self.call(update, generator, **more)
        return defended


def names() -> list[str]:
    """The defenses of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in NOT_DEFENSES)


def load_all(tables: Sequence[Mapping[str, Any]]) -> list[Defense]:
    """The defenses of tables such as {name = "clip", max_norm = 1.0}, in their order; ConfigError for any mistake."""
    loaded: list[Defense] = []
    for table in tables:
        name, settings = split(table)
        defense = _third_party(name, settings) if ":" in name else _ours(name, settings, loaded)
        late = next((one for one in loaded if one.acts_on != "data"), None)
        if defense.acts_on == "data" and late is not None:
            raise ConfigError(
                f"defense {name!r} acts on the photos, before there is any update, but comes after {late.name!r}; "
                f"put {name!r} before it"
            )
        loaded.append(defense)
    return loaded


def prepare(defenses: Sequence[Defense], training: Training, seed: int, server_round: int, user: int) -> Training:
    """`training` through the data-side defenses in order; what is drawn depends on (seed, round, user, place) alone."""
    for place, defense in enumerate(defenses):
        if defense.acts_on == "data":
            training = defense.prepare(training, generator_of(seed, server_round, user, place))
    return training


def apply(
    defenses: Sequence[Defense], update: Update, seed: int, server_round: int, user: int, private: Private | None = None
) -> Update:
    """`update` through the update-side defenses in order; the noise depends on (seed, round, user, place) alone."""
    for place, defense in enumerate(defenses):
        if defense.acts_on == "update":
            update = defense.defend(update, generator_of(seed, server_round, user, place), private)
    return update


def generator_of(seed: int, server_round: int, user: int, place: int) -> torch.Generator:
    """The randomness of the defense at `place` in the config's list."""
    return seeds.generator(seed, "defense", server_round, user, place)


def split(table: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the settings of a config table of a defense."""
    settings = dict(table)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        got = short(repr(dict(table)))
        raise ConfigError(f"a defense needs a name, such as {{name = 'clip', max_norm = 1.0}}; got {got}")
    return name, settings


def _ours(name: str, table: Mapping[str, Any], before: Sequence[Defense]) -> Defense:
    if name not in names():
        raise ConfigError(unknown("defense", name, names(), "package.module:factory"))
    module = importlib.import_module(f"{__name__}.{name}")
    settings = parse(module.Settings, table, where=f"defenses.{name}")
    if hasattr(module, "resolve"):  # settings that are relative to those of the defenses before it
        settings = module.resolve(settings, [one.settings for one in before])
    acts_on: Literal["data", "update"] = "data" if hasattr(module, "prepare") else "update"
    function = module.prepare if acts_on == "data" else module.defend

    def call(value: Any, generator: torch.Generator, **private: Any) -> Any:
        return function(value, settings, generator, **private)

    sees_private = "private" in inspect.signature(function).parameters
    return Defense(name, acts_on, call, settings, module.traits(settings), sees_private)


def _third_party(name: str, settings: dict[str, Any]) -> Defense:
    """What `package.module:factory` makes of `settings`; ConfigError if it cannot."""
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"defense {name!r} cannot be imported ({error}); is its package installed?") from error
    try:
        made = factory(**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"defense {name!r} does not take the settings {short(repr(settings))}: {error}") from error
    try:
        parameters = inspect.signature(made).parameters
    except TypeError as error:
        raise ConfigError(f"defense {name!r} made a {type(made).__name__}; it must return a function") from error
    flowers = FLOWERS.get(attribute) if module.startswith("flwr.") else None
    traits = getattr(made, "traits", flowers)
    if not (traits is None or isinstance(traits, Traits)):
        raise ConfigError(
            f"defense {name!r} declares traits of type {type(traits).__name__}; give fl_sim.traits.Traits(...)"
        )
    if "training" in parameters:
        return Defense(name, "data", made, settings, traits)
    if len(parameters) == 3 and "private" not in parameters:
        return Defense(name, "message", made, settings, traits)
    return Defense(name, "update", made, settings, traits, "private" in parameters)
