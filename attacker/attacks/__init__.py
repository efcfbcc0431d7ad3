"""Attacks: from observations of one round to a reconstruction of each user.

An attack is one file here, `attacks/NAME.py` (or a third-party `package.module`), with a frozen dataclass
`Settings` and a function

    attack(observations, attacker, settings, generators, progress) -> list[Reconstruction]

that attacks several victims of one round together: all observations hold the same parameters, each victim
draws from its own generator (so its result does not depend on who else is there), and `progress(done, total)`
is called as steps pass. An attack never sees private data: observations are all it has.

An attack of an actively malicious server has one function more: the model that users are sent in a round.

    rewrite(server_round, parameters, settings, image_size) -> parameters

It needs `threat_model.server = "malicious"`, and is refused without.

What an attack needs beside the observations of a round it declares in one function more:

    needs(settings) -> Needs

An attack that makes something of `Observation.defenses` says `ADAPTS = True`: it is then run by an attacker who knows
the defenses of a run, beside one who does not (experiments.plan.attackers).

A published recipe is a file `presets/NAME_PRESET.toml` of settings, taken by `preset = "PRESET"` in the attack's table,
where other settings go before it.
"""

import importlib
import pkgutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attacker.attack import KNOWLEDGE, Attack, Needs
from fl_sim.config import Config, ConfigError, parse, short
from fl_sim.config_errors import unknown
from fl_sim.updates import Update

PRESETS = Path(__file__).parent / "presets"


def available() -> list[str]:
    """The names of the attacks in this folder: each file is one."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(label: str, table: Mapping[str, Any]) -> Attack:
    """The attack that the config table `[attacks.label]` describes; its `name` defaults to the label.

    It knows the most of the defenses that the table's `knowledge` grants, without that key nothing.
    Raises ConfigError for an attack or a preset that does not exist and for settings that the attack does not have.
    """
    own = {key: value for key, value in table.items() if key not in ("knowledge", "name", "preset")}
    name, where = str(table.get("name", label)), f"attacks.{label}"
    knowledge = (*levels(label, table), KNOWLEDGE[0])[0]
    module = importlib.import_module(f"attacker.attacks.{name}") if name in available() else _third_party(name, where)
    recipe = _preset(name, table["preset"], where) if "preset" in table else {}
    settings = parse(module.Settings, {**recipe, **own}, where)
    needs = module.needs(settings) if hasattr(module, "needs") else Needs()
    if not isinstance(needs, Needs):
        raise ConfigError(f"{where}: needs() of {name!r} gives {short(repr(needs))}; return an attacker.attack.Needs")
    return Attack(
        label,
        name,
        settings,
        module.attack,
        needs,
        getattr(module, "rewrite", None),
        knowledge,
        bool(getattr(module, "ADAPTS", False)),
    )


def presets(name: str) -> list[str]:
    """The published recipes of the attack `name`, in its presets' file names."""
    return sorted(path.stem.removeprefix(f"{name}_") for path in PRESETS.glob(f"{name}_*.toml"))


def _preset(name: str, preset: object, where: str) -> dict[str, Any]:
    if preset not in presets(name):
        choices = f"choose one of {', '.join(presets(name))}" if presets(name) else f"{name} has none; leave it out"
        raise ConfigError(f"{where}.preset is {short(repr(preset))}; {choices}")
    return tomllib.loads((PRESETS / f"{name}_{preset}.toml").read_text(encoding="utf-8"))


def levels(label: str, table: Mapping[str, Any]) -> tuple[str, ...]:
    """What `knowledge` in the table `[attacks.label]` grants, one of KNOWLEDGE or several; the most first.

    Empty without that key. Raises ConfigError for what is none of them.
    """
    if "knowledge" not in table:
        return ()
    given = table["knowledge"]
    wanted = list(given) if isinstance(given, list | tuple) else [given]
    if not wanted or any(level not in KNOWLEDGE for level in wanted):
        choices = ", ".join(KNOWLEDGE)
        raise ConfigError(f"attacks.{label}.knowledge is {short(given)!r}; choose one of {choices}, or a list of them")
    return tuple(level for level in reversed(KNOWLEDGE) if level in wanted)


def rewriter(config: Config) -> Callable[[int, Update], Update] | None:
    """What the server of this config does to the model that it sends, (round, parameters) -> parameters; None: nothing.

    Raises ConfigError where attacks and `threat_model.server` do not fit each other.
    """
    loaded = [load(label, table) for label, table in config.attacks.items()]
    active = [(attack.label, attack.rewrite, attack.settings) for attack in loaded if attack.rewrite is not None]
    malicious = config.threat_model.server == "malicious"
    if active and not malicious:
        raise ConfigError(
            f"attack {active[0][0]!r} rewrites the model that users are sent, which an honest-but-curious server does "
            "not do; set threat_model.server = 'malicious' in a new run, or leave the attack out"
        )
    if malicious and len(active) != 1:
        raise ConfigError(
            f"threat_model.server is 'malicious', but {len(active)} attacks rewrite the model; give one, as imprint is"
        )
    if not active:
        return None
    (_, rewrite, settings), size = active[0], config.dataset.image_size
    return lambda server_round, parameters: rewrite(server_round, parameters, settings, size)


def _third_party(name: str, where: str) -> Any:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if "." in name or error.name != name:
            reason = f"attack {name!r} cannot be imported ({error}); is its package installed?"
            raise ConfigError(f"{where}: {reason}") from error
        own = "a module that Python finds, such as one in the current folder"
        raise ConfigError(f"{where}: {unknown('attack', name, available(), own)}") from error
    except (ImportError, TypeError, ValueError) as error:  # TypeError: a relative name
        raise ConfigError(
            f"{where}: attack {name!r} cannot be imported ({error}); is its package installed?"
        ) from error
    for part in ("Settings", "attack"):
        if not hasattr(module, part):
            raise ConfigError(f"{where}: {name!r} has no {part!r}; an attack is a module with Settings and attack")
    return module
