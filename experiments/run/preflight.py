"""Everything that can be known to fail later, known now: the config, and each part of the run called once.

    preflight(setup, note)

raises ConfigError, in one sentence that names the part, before anything is written or trained; what the user should
know besides goes to `note`. Settings are looked at first; then model, priors and attacks take a step on a made-up user
(`experiments.run.trials`), and the judges see public people's photos (`experiments.evaluate.recognition`).
"""

from collections.abc import Callable
from functools import lru_cache

import torch

from attacker.attack import Attack
from attacker.attacks import rewriter
from attacker.inversion.model_check import check_model
from attacker.priors.prior import Prior
from attacker.workers import metrics, remote_storage
from attacker.workers.jobs import loaded_prior
from clients.datasets import open_dataset
from experiments.evaluate import attribute_inference, attributes, embedders, image_metrics, recognition
from experiments.evaluate.gallery import check_size
from experiments.plan import acquaintance, attackers
from experiments.plan.setup import Setup
from experiments.run import prior_trial, trials
from experiments.statistics.verdict import NO_ATTACK
from fl_sim.config import Config, ConfigError, Dataset, Leakage, Protocol, Workers
from fl_sim.federation.sampling import users_per_round
from fl_sim.initial_model import check_smallest_step, remarks
from fl_sim.models import MODELS
from fl_sim.socket_folder import socket_folder
from fl_sim.threads import one_thread

passed: set[str] = set()
"""Trials that went well in this process, or in the one that started it: the cells of a sweep have most in common."""


def preflight(setup: Setup, note: Callable[[str], None]) -> None:
    """Check all of `setup`. Raises ConfigError; passes sentences that the user should read to `note`."""
    config, model = setup.config, setup.model
    if config.federation.engine == "simulation" or config.workers.backend == "ray":
        socket_folder()  # refuses one in which Ray could not start
    known = [] if config.workers.backend == "none" else acquaintance.check(setup)
    for sentence in [*setup.examined.notes, *known]:
        note(sentence)
    _check_model(setup)
    rewrite = rewriter(config)
    parameters = setup.parameters if rewrite is None else rewrite(1, setup.parameters)  # refuses models that it cannot
    users_per_round(config)  # refuses more than there are
    if config.protocol != Protocol() or config.defenses:
        from clients.defenses import mods
        from fl_sim.federation import protocol  # and so Flower, which takes seconds to import

        protocol.check(config)
        mods.check(setup.defenses, config, model)
    without = setup.accountant.flaw()
    for sentence in [*remarks(config, model), *([without] if without else []), *setup.accountant.faults()]:
        note(sentence)
    user = trials.victim(setup, parameters)
    if config.workers.backend == "none":
        return
    _check_workers(config.workers, config.federation.rounds)
    for attack in setup.attacks.values():
        _check_rounds(config.protocol, attack)
    with one_thread():
        doubts = _try_attacks(setup, user)
        for sentence in [*doubts, *attackers.warnings(setup.attacks, setup.defenses), *_judges(setup)]:
            note(sentence)


def _check_model(setup: Setup) -> None:
    config, model = setup.config, setup.model
    if config.model.name not in MODELS:  # ours the suite has called
        attacked = config.workers.backend != "none"
        matched = attacked and any(attack.needs.second_derivatives for attack in setup.attacks.values())
        check_model(model, config.model.name, config.dataset.image_size, setup.dataset.num_classes, matched)
    check_smallest_step(config, model, setup.photos)


def _check_workers(workers: Workers, rounds: int) -> None:
    if workers.backend == "inprocess" and workers.metrics_port:
        raise ConfigError(
            f"workers.metrics_port is {workers.metrics_port}, but workers.backend = 'inprocess' serves no "
            "metrics; set the port to 0, or the backend to ray or local"
        )
    metrics.check(workers.metrics_port)
    if workers.backend == "ray" and workers.storage:
        remote_storage.check(workers.storage)
    late = [one for one in workers.attack_rounds if one > rounds]
    if late:
        raise ConfigError(
            f"workers.attack_rounds names round {late[0]}, but federation.rounds is {rounds}; "
            "raise the latter or leave that round out"
        )


def _check_rounds(protocol: Protocol, attack: Attack) -> None:
    rounds = attack.needs.rounds
    if protocol.shuffle and rounds > 1:
        raise ConfigError(
            f"attack {attack.label!r} fuses {rounds} rounds of a user, but with protocol.shuffle nobody knows which "
            "updates are the same user's; set rounds = 1 or unset protocol.shuffle"
        )


def _try_attacks(setup: Setup, user: trials.Victim) -> list[str]:
    """Each prior and each attack once; what is doubtful of the priors, in sentences."""
    config, doubts = setup.config, dict[str, None]()
    for attack in setup.attacks.values():
        name = attack.needs.prior
        prior, doubt = (None, None) if name is None else _prior(name, config.dataset.image_size)
        if prior is not None:
            doubts |= dict.fromkeys(filter(None, (doubt, prior_trial.undrawn(attack, prior))))
        key = _key(config, attack.label)
        if key not in passed:
            trials.try_attack(attack, user, prior)
            passed.add(key)
    return list(doubts)


@lru_cache(maxsize=4)  # the attacks of a run and the cells of a sweep have it in common
def _prior(name: str, image_size: int) -> tuple[Prior, str | None]:
    """A prior that was tried, and a sentence if it does not denoise."""
    prior = loaded_prior(name, image_size, torch.device("cpu"))
    return prior, prior_trial.doubt(prior, name)


def _key(config: Config, label: str) -> str:
    """All of the config that a trial of the attack `label` depends on, and no more."""
    apart = {"name": "", "workers": Workers(), "leakage": Leakage(), "attacks": {label: config.attacks[label]}}
    return config.model_copy(update=apart).model_dump_json()


def _judges(setup: Setup) -> list[str]:
    """The judges of the leakage table, and what the user should know of them, in sentences."""
    config = setup.config
    check_size(setup.dataset, config.leakage.gallery_size)
    attribute_inference.check(config.leakage, setup.dataset)
    said = [*_look(config.dataset, config.leakage, config.seed)]
    lacking = image_metrics.lpips_available(config.leakage)
    said += [] if lacking is None else [lacking]
    names = {attack.name for attack in setup.attacks.values()}
    if names == {"prior_only"}:
        said.append(NO_ATTACK)
    elif names and "prior_only" not in names:
        said.append("No attack is prior_only: the arm prior_only stays empty; add [attacks.prior_only].")
    return said


@lru_cache(maxsize=8)  # the cells of a sweep have them in common
def _look(dataset: Dataset, leakage: Leakage, seed: int) -> tuple[str, ...]:
    """What embedder, classifier and LPIPS make of public people's photos."""
    opened = open_dataset(dataset, seed)
    embed, classify = embedders.open_embedder(leakage), attributes.open_classifier(leakage)
    photo = opened.public(0).photos[0]
    recognition.check_embedder(embed, photo, f"leakage.embedder {leakage.embedder!r}")
    people = recognition.people(opened)
    notes = recognition.check_recognition(embed, people, leakage)
    notes += recognition.check_classifier(classify, photo, people, f"leakage.attributes {leakage.attributes!r}")
    image_metrics.try_lpips(leakage, photo)
    return tuple(notes)
