"""Everything that can be known to fail later, known now: the config, and each part of the run called once.

    preflight(config, note)

raises ConfigError, in one sentence that names the part, before anything is written or trained; what the user should
know besides goes to `note`. Settings are looked at first; then model, priors and attacks take a step on a made-up user
(`experiments.trials`), and the judges see public people's photos (`experiments.recognition`).
"""

from collections.abc import Callable
from functools import lru_cache

from attacker import attacks, metrics, mirror
from attacker.attacks import Attack
from attacker.prior import Prior, load_prior
from clients import defenses
from clients.datasets import open_dataset
from experiments import attributes, direct_attributes, embedders, image_metrics, recognition, trials
from experiments.gallery import check_size
from fl_sim import accounting
from fl_sim.config import Config, ConfigError, Dataset, Leakage, Protocol, Workers
from fl_sim.sampling import users_per_round
from fl_sim.threads import one_thread
from fl_sim.updates import Update
from fl_sim.victim import check_smallest_step, initial_model

_passed: set[str] = set()
"""Trials that went well in this process: the cells of a sweep have most in common."""


def preflight(config: Config, note: Callable[[str], None]) -> None:
    """Check all of `config`. Raises ConfigError; passes sentences that the user should read to `note`."""
    model, rewrite = initial_model(config), attacks.rewriter(config)
    check_smallest_step(config, model)
    parameters: Update = model.state_dict()
    if rewrite is not None:
        parameters = rewrite(1, parameters)  # refuses models that it cannot rewrite
    defenses.load_all(config.defenses)
    users_per_round(config)  # refuses more than there are
    if config.protocol != Protocol() or config.defenses:
        from fl_sim import protocol  # and so Flower, which takes seconds to import

        protocol.check(config)
    without = accounting.flaw(config)
    if without is not None:
        note(without)
    user = trials.victim(config, model, parameters, open_dataset(config.dataset, config.seed).num_classes)
    if config.workers.backend == "none":
        return
    _check_workers(config)
    loaded = [attacks.load(label, table) for label, table in config.attacks.items()]
    for attack in loaded:
        _check_rounds(config, attack)
    with one_thread():
        _try_attacks(config, loaded, user)
        for sentence in _judges(config):
            note(sentence)


def _check_workers(config: Config) -> None:
    metrics.check(config.workers.metrics_port)
    if config.workers.backend == "ray" and config.workers.storage:
        mirror.check(config.workers.storage)
    late = [one for one in config.workers.attack_rounds if one > config.federation.rounds]
    if late:
        raise ConfigError(
            f"workers.attack_rounds names round {late[0]}, but federation.rounds is {config.federation.rounds}; "
            "raise the latter or leave that round out"
        )


def _check_rounds(config: Config, attack: Attack) -> None:
    rounds = getattr(attack.settings, "rounds", 1)
    if config.protocol.shuffle and rounds > 1:
        raise ConfigError(
            f"attack {attack.label!r} fuses {rounds} rounds of a user, but with protocol.shuffle nobody knows which "
            "updates are the same user's; set rounds = 1 or unset protocol.shuffle"
        )


def _try_attacks(config: Config, loaded: list[Attack], user: trials.Victim) -> None:
    """Each attack, and each prior, once."""
    priors: dict[str, Prior] = {}
    matches = False
    for attack in loaded:
        key = _key(config, attack.label)
        if key in _passed:
            continue
        name = getattr(attack.settings, "prior", None)
        if name is not None and name not in priors:
            priors[name] = load_prior(name, config.dataset.image_size)
            trials.try_prior(name, priors[name])
        matches |= trials.try_attack(attack, user, None if name is None else priors[name])
        _passed.add(key)
    if matches:
        trials.check_second_derivative(user)


def _key(config: Config, label: str) -> str:
    """All of the config that a trial of the attack `label` depends on, and no more."""
    apart = {"name": "", "workers": Workers(), "leakage": Leakage(), "attacks": {label: config.attacks[label]}}
    return config.model_copy(update=apart).model_dump_json()


def _judges(config: Config) -> list[str]:
    """The judges of the leakage table, and what the user should know of them, in sentences."""
    dataset = open_dataset(config.dataset, config.seed)
    check_size(dataset, config.leakage.gallery_size)
    direct_attributes.check(config, dataset)
    said = [*_look(config.dataset.model_dump_json(), config.leakage.model_dump_json(), config.seed)]
    lacking = image_metrics.lpips_available(config)
    said += [] if lacking is None else [lacking]
    names = {attacks.load(label, table).name for label, table in config.attacks.items()}
    if names and "prior_only" not in names:
        said.append(
            "No attack is prior_only: the arm prior_only and normalised_leakage stay empty; add [attacks.prior_only]."
        )
    return said


@lru_cache(maxsize=8)  # the cells of a sweep have them in common
def _look(dataset: str, judging: str, seed: int) -> tuple[str, ...]:
    """What embedder, classifier and LPIPS make of public people's photos; the sections of the config as JSON."""
    leakage, opened = Leakage.model_validate_json(judging), open_dataset(Dataset.model_validate_json(dataset), seed)
    embed, classify = embedders.open_embedder(leakage), attributes.open_classifier(leakage)
    photo = opened.public(0).photos[0]
    recognition.check_embedder(embed, photo, f"leakage.embedder {leakage.embedder!r}")
    people = recognition.people(opened)
    notes = recognition.check_recognition(embed, people, leakage)
    notes += recognition.check_classifier(classify, photo, people, f"leakage.attributes {leakage.attributes!r}")
    image_metrics.try_lpips(leakage, photo)
    return tuple(notes)
