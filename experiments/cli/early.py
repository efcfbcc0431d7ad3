"""Mistakes that are told at once, before torch, pandas and Flower are imported, which takes seconds.

What is refused here would be refused later too, by `attacker.attacks`, `clients.defenses`, `clients.datasets`,
`fl_sim.models` and `experiments.run.pipeline`, which look closer: here names are compared, and nothing is run.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clients import datasets
from experiments.cli import parts
from experiments.plan.changes import other_attacks
from fl_sim.config import Config, ConfigError, difference, load, parse, read, short
from fl_sim.config_errors import hint, unknown
from fl_sim.runs import AFTERWARDS, RunFolder, other_captures, other_config


def check_names(config: Config, where: str = "") -> None:
    """ConfigError for a dataset, model, attack or defense that does not exist, and a setting that it does not have.

    `where` stands before the keys of settings: `base.` in a study.
    """
    datasets.check_name(config.dataset.name)
    model, models = config.model.name, parts.models()
    if model not in models and ":" not in model:
        raise ConfigError(unknown("model", model, models, "package.module:factory"))
    for label, table in config.attacks.items():
        _check("attacks", f"{where}attacks.{label}", table.get("name", label), table)
    for table in config.defenses:
        _check("defenses", f"{where}defenses.{table.get('name')}", table.get("name"), table)


def check_study(name: str, overrides: Iterable[str]) -> None:
    """ConfigError for a wrong key or name in the base of a sweep, or among its defenses."""
    shipped = parts.ROOT / "experiments" / "studies" / f"{name}.toml"
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        return  # who opens the study says what there is
    study = read(path, overrides)
    base, cells = study.get("base", {}), study.get("cells", [])
    if isinstance(base, dict):
        check_names(parse(Config, base, "base"), "base.")
    for cell in cells if isinstance(cells, list) else []:
        defenses = cell.get("defenses") if isinstance(cell, dict) else None
        if isinstance(defenses, list) and all(isinstance(one, dict) for one in defenses):
            check_names(parse(Config, {"defenses": defenses}))


def check_run(config: Config, folder: RunFolder) -> None:
    """ConfigError where `folder` holds a run of another config than this one."""
    if not folder.config.exists():
        return
    saved = load(folder.config)
    change = difference(saved, config, except_for=("workers", "attacks"))
    change = change or other_attacks(saved.attacks, config.attacks)
    if change is not None:
        raise other_config(folder, change)


def check_attack(config: Config, folder: RunFolder) -> None:
    """ConfigError where `config` differs from that of the run in `folder` in what its captures depend on."""
    change = difference(load(folder.config), config, except_for=AFTERWARDS)
    if change is not None:
        raise other_captures(change)


def _check(kind: parts.Kind, where: str, name: object, table: Mapping[str, Any]) -> None:
    if not isinstance(name, str) or ":" in name:  # no name at all, or a factory, which takes what it takes
        return
    part = parts.find(kind, name)
    if part is None:
        if kind == "attacks" and ("." in name or parts.module_file(name) is not None):
            return
        own = "package.module" if kind == "attacks" else "package.module:factory"
        raise ConfigError(f"{where}: {unknown(kind.removesuffix('s'), name, parts.names(kind), own)}")
    known = [f"{where}.{key.name}" for key in part.settings]
    for key in table:
        if key != "name" and f"{where}.{key}" not in known:
            raise ConfigError(f"unknown config key {short(f'{where}.{key}')!r}; {hint(f'{where}.{key}', known)}")
