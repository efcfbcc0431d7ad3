"""Defenses in a study: lists of strengths in a cell, and what a chain of defenses is called in tables and plots.

In a cell one setting of one defense may be a list, weakest value first; each value is a run of its own:

    defenses = [{name = "clip", max_norm = 1.0}, {name = "gaussian_noise", std = [0.01, 0.1]}]
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fl_sim.config import Config, ConfigError

UNDEFENDED = "none"


def strengths(cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells that a cell with a list of strengths stands for; itself where there is none."""
    chain = cell.get("defenses", [])
    lists = [(at, key) for at, table in enumerate(chain) for key, value in table.items() if isinstance(value, list)]
    if not lists:
        return [dict(cell)]
    if len(lists) > 1:
        keys = " and ".join(f"{chain[at].get('name')}.{key}" for at, key in lists)
        raise ConfigError(f"one cell's defenses have several lists of strengths ({keys}); give one list a cell")
    (at, key) = lists[0]
    return [
        {**cell, "defenses": [*chain[:at], {**chain[at], key: value}, *chain[at + 1 :]]} for value in chain[at][key]
    ]


def measures(config: Config) -> list[dict[str, Any]]:
    """Everything that defends in a run, as tables like those of `defenses`: the clients' chain, then the protocol's."""
    section = config.protocol
    found = [dict(table) for table in config.defenses]
    if section.differential_privacy != "none":
        settings = {"noise_multiplier": section.noise_multiplier, "clipping_norm": section.clipping_norm}
        found.append({"name": f"dp_{section.differential_privacy}", **settings})
    if section.secure_aggregation:
        found.append({"name": "secure_aggregation", "users": section.secure_aggregation})
    if section.shuffle:
        found.append({"name": "shuffle"})
    return found


def name(chain: Sequence[Mapping[str, Any]]) -> str:
    """The names of a chain, such as `clip+gaussian_noise`."""
    return "+".join(str(table.get("name")) for table in chain) or UNDEFENDED


def strength(chain: Sequence[Mapping[str, Any]], siblings: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The settings in which the chains of one name differ, with this one's values: `std 0.01`; empty if in none."""
    said = []
    for at, table in enumerate(chain):
        for key in table:
            if len({repr(other[at].get(key)) for other in siblings}) > 1:
                said.append(f"{key} {table[key]}")
    return ", ".join(said)


def called(configs: Sequence[Config]) -> list[tuple[str, str]]:
    """(defense, strength) of every run of a study; strengths are those of the runs with the same defense."""
    chains = [measures(config) for config in configs]
    alike = {one: [chain for chain in chains if name(chain) == one] for one in map(name, chains)}
    return [(name(chain), strength(chain, alike[name(chain)])) for chain in chains]
