"""Which attackers a run has: each attack by one who knows the users' defenses, and by one who does not.

A defense is as good as it is against whoever knows it, so where users defend themselves, an attack that can adapt runs
once for each level of `knowledge` that its table lists; without that key for the strongest and for none at all. The
strongest keeps the label of the table, weaker ones are LABEL-mechanism and LABEL-none. A run's config.toml holds them
all: whoever reads it finds one table an attacker.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attacker.attack import Attack
from attacker.attacks import levels, load
from attacker.observation import LocalTraining
from clients.defenses import Defense, load_all
from fl_sim import traits
from fl_sim.config import Config, ConfigError, parse

BOTH = ("parameters", "none")  # who attacks where a table does not say
CONTROL = "prior_only"  # looks at no update, so there is nothing in it for a defense to change


@dataclass(frozen=True)
class _Attacker:
    """One attacker of a run."""

    source: str  # the label of the table that it comes from
    table: dict[str, Any]


def planned(config: Config) -> Config:
    """`config` with a table for each attacker; what is planned already stays as it is.

    Raises ConfigError for attacks and defenses that cannot be loaded, and for two attackers of one label.
    """
    tables = {label: one.table for label, one in _attackers(config).items()}
    return config.model_copy(update={"attacks": parse(Config, {"attacks": tables}).attacks})


def sources(config: Config) -> dict[str, str]:
    """By label of `planned(config)`, the label in `config` that it comes from."""
    return {label: one.source for label, one in _attackers(config).items()}


def declared(defenses: Sequence[Defense]) -> list[dict[str, Any] | None]:
    """What each defense of a run declares, as JSON for the manifest; None: nothing (fl_sim.traits)."""
    return [traits.dump(defense.traits) for defense in defenses]


def not_adapted_to(attacks: Mapping[str, Attack], defenses: Sequence[Defense]) -> dict[str, list[str]]:
    """By label, the defenses against which that attack, as it is set and told, has no form; the control left out."""
    hiding = [one for one in defenses if not _hides_nothing(one)]
    return {
        label: list(dict.fromkeys(one.name for one in hiding if not attack.adapts_to(one.traits)))
        for label, attack in attacks.items()
        if attack.name != CONTROL
    }


def known_to_nobody(not_adapted: Mapping[str, Iterable[str]]) -> list[str]:
    """The defenses that no attack is adapted to, from what `not_adapted_to` says: nobody who knows them attacked."""
    lists = [list(names) for names in not_adapted.values()]
    return [name for name in lists[0] if all(name in names for names in lists)] if lists else []


def warnings(attacks: Mapping[str, Attack], defenses: Sequence[Defense]) -> list[str]:
    """A sentence for each defense that nobody attacks who knows it: why, and what to do."""
    unknown = known_to_nobody(not_adapted_to(attacks, defenses))
    by_name = {one.name: one for one in defenses}
    return [f"Not attacked by anyone who knows this defense: {_why(by_name[name])}." for name in unknown]


def _why(defense: Defense) -> str:
    name, told = defense.name, defense.traits
    if told is None:
        return f"{name} declares nothing; give it traits (docs/defenses.md)"
    if not told.tells:
        return f"no attack has a form against {name}"
    if told.epochs:
        return f"no attack here simulates the steps of {name}; set simulated_steps above 1, as user_diffusion has it"
    return f"no attack here adapts to {name}; add user_diffusion, or leave knowledge = 'none' out"


def _hides_nothing(defense: Defense) -> bool:
    return defense.traits is not None and defense.traits.hides_nothing


def _attackers(config: Config) -> dict[str, _Attacker]:
    telling = any(one.traits is not None and one.traits.tells for one in load_all(config.defenses))
    found: dict[str, _Attacker] = {}
    for label, table in config.attacks.items():
        attack = load(label, table)
        bare = {key: value for key, value in table.items() if key != "knowledge"}
        knowledge = levels(label, table) or BOTH
        if not config.defenses or (len(knowledge) > 1 and not (telling and attack.adapts)):
            found[label] = _Attacker(label, bare)  # all of them would do the same
            continue
        found[label] = _Attacker(label, {**bare, "knowledge": knowledge[0]})
        for level in knowledge[1:]:
            weaker, own = f"{label}-{level}", {"name": attack.name, **bare, "knowledge": level}
            if config.attacks.get(weaker, own) != own:
                raise ConfigError(
                    f"attack {label!r} is also run by one who knows less, as {weaker!r}, and another attack has that "
                    f"label; give one of them another"
                )
            found[weaker] = _Attacker(label, own)
    return found


def told_local_training(config: Config) -> LocalTraining | None:
    """The users' local steps as far as the threat model tells the attacker; None for the one gradient of FedSGD."""
    section = config.federation
    if config.threat_model.local_training == "unknown" or (section.local_epochs == 1 and section.batch_size == 0):
        return None
    return LocalTraining(section.local_epochs, section.batch_size, section.learning_rate)
