"""What a study file says, and the runs that it asks for."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field

from attacker import attacks
from experiments.plan import defended
from experiments.plan.attackers import BOTH
from fl_sim.config import Config, ConfigError, Section, parse, read
from fl_sim.config_errors import hint
from fl_sim.config_keys import keys

HERE = Path(__file__).parents[1] / "studies"


class Study(Section):
    title: str
    """What is asked, in one line; the heading of the plot."""
    axis: str = "cell"
    """What the plot has along it: a config key that the cells vary, a setting in `vary`, `round`, or `cell`."""
    base: dict[str, Any] = Field({})
    """The config that all runs share."""
    cells: list[dict[str, Any]] = Field([{}], min_length=1)
    """Runs one by one: the config keys in which each differs from `base`.

    A cell's `defenses` may hold a list of strengths, which makes it several (experiments.plan.defended)."""
    grid: dict[str, Any] = Field({})
    """Config keys with a list of values each; every combination is a run, of every cell."""
    vary: dict[str, dict[str, list[Any]]] = Field({})
    """Labels in `base.attacks` with settings (or `knowledge`) and a list of values each; one at a time is changed,
    and every change is one more attack in every run, labelled LABEL-SETTING-VALUE."""


@dataclass(frozen=True)
class Variant:
    """An attack label of the runs: one of `base`, or one of those with a setting changed."""

    label: str
    attack: str  # the label in `base` that it comes from
    setting: str = ""  # which of its settings was changed; empty for the attack as it stands in `base`
    value: Any = None


@dataclass(frozen=True)
class Cell:
    """One run."""

    name: str  # of its folder
    keys: dict[str, Any]  # what the cells vary, with this one's values: dotted config keys, `defense` and `strength`
    config: Config


def shipped() -> list[str]:
    """The names of the studies in this folder."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def open_study(name: str, overrides: Iterable[str] = ()) -> tuple[str, Study]:
    """The name and the content of a study: a shipped one, or a TOML file. `base.a.b=value` overrides apply.

    Raises ConfigError where there is none, and for keys that a study does not have.
    """
    path = HERE / f"{name}.toml" if name in shipped() else Path(name)
    if not path.is_file():
        raise ConfigError(f"there is no study {name!r}; choose one of {', '.join(shipped())}, or give a TOML file")
    table = read(path, overrides, {"base": {"attacks": Config().attacks}})
    for key in sorted(table.keys() - Study.model_fields.keys()):
        own = next((name for name, _ in leaves({key: table[key]})), key)
        known = [one.name for one in [*keys(Study), *keys(Config, "base")]]
        advice = f"did you mean 'base.{own}'?" if key in Config.model_fields else hint(own, known)
        raise ConfigError(f"unknown config key {own!r}; {advice}")
    study = parse(Study, table)
    return path.stem, study.model_copy(update={"base": {"attacks": Config().attacks, **study.base}})


def variants(study: Study) -> list[Variant]:
    """Every attack label of the runs; a value that the attack has anyway gets no second label."""
    found = []
    for label, table in study.base["attacks"].items():
        found.append(Variant(label, label))
        for setting, values in study.vary.get(label, {}).items():
            for value in values:
                if not _has(label, table, setting, value):
                    found.append(Variant(f"{label}-{setting}-{_word(value)}", label, setting, value))
    unknown = set(study.vary) - {variant.attack for variant in found}
    if unknown:
        raise ConfigError(f"vary.{min(unknown)} names no attack in base.attacks; add [base.attacks.{min(unknown)}]")
    return found


def _has(label: str, table: Mapping[str, Any], setting: str, value: Any) -> bool:
    """Whether an attack is run with that value anyway."""
    if setting == "knowledge":
        return value in (attacks.levels(label, table) or BOTH)
    return bool(present(label, table, setting) == value)


def present(label: str, table: Mapping[str, Any], setting: str) -> Any:
    """The value that a setting of an attack has as it stands in `base`; None if it has no such setting."""
    if setting == "knowledge":  # of the strongest attacker
        return (attacks.levels(label, table) or BOTH)[0]
    return getattr(attacks.load(label, table).settings, setting, None)


def expand(name: str, study: Study) -> list[Cell]:
    """The runs of a study, every config checked. Raises ConfigError for the first that is wrong."""
    tables: dict[str, Any] = study.base["attacks"]
    labels = {
        variant.label: {"name": variant.attack, **tables[variant.attack]}
        | ({variant.setting: variant.value} if variant.setting else {})
        for variant in variants(study)
    }
    changes = [
        {**dict(leaves(one)), **point}
        for cell in study.cells
        for one, point in product(defended.strengths(cell), _points(study.grid))
    ]
    configs = []
    for change in changes:
        table = {**study.base, "attacks": labels}
        for key, value in change.items():
            table = _with(table, key.split("."), value)
        configs.append(_config(table, study.base))
        for label, settings in configs[-1].attacks.items():
            attacks.load(label, settings)
    cells = []
    for change, config, (defense, strength) in zip(changes, configs, defended.called(configs), strict=True):
        keys = {key: value for key, value in change.items() if not _defends(key)}
        if len(keys) < len(change):
            keys = {"defense": defense, "strength": strength, **keys}
        word = "-".join(_word(value) for value in keys.values() if value != "") or "run"
        cells.append(Cell(word, keys, config.model_copy(update={"name": f"{name}/{word}"})))
    names = [cell.name for cell in cells]
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice is not None:
        raise ConfigError(f"two runs of the study are called {twice!r}; their varied keys must differ in value")
    if study.axis not in {"cell", "round", *(key for cell in cells for key in cell.keys), *_settings(study)}:
        raise ConfigError(f"axis is {study.axis!r}, which nothing varies; give a varied key or setting, cell, or round")
    return cells


def _config(table: Mapping[str, Any], base: Mapping[str, Any]) -> Config:
    try:
        return parse(Config, table)
    except ConfigError:
        parse(Config, base, "base")  # which names the key as the study has it, where the mistake is in what runs share
        raise


def _defends(key: str) -> bool:
    return key == "defenses" or key.startswith("protocol.")


def _settings(study: Study) -> set[str]:
    return {setting for settings in study.vary.values() for setting in settings}


def _points(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    axes = list(leaves(grid))
    for key, values in axes:
        if not isinstance(values, list) or not values:
            raise ConfigError(f"grid.{key} is {values!r}; give a list of values")
    return [
        dict(zip((key for key, _ in axes), point, strict=True)) for point in product(*(values for _, values in axes))
    ]


def leaves(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in nested tables."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def _with(table: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """A copy of nested tables in which the value at `path` is set."""
    head, *rest = path
    return {**table, head: _with(table.get(head, {}), rest, value) if rest else value}


def _word(value: Any) -> str:
    """A value as part of a folder name."""
    return re.sub(r"[^\w.+]+", "_", str(value)).strip("_") or "none"
