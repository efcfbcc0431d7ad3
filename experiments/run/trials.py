"""One small call of each part that attacks, before the run: what fails after an hour of training fails here at once.

Every part gets two made-up photos at the config's own image size. A failure of any kind is a ConfigError that names the
part. What only the real run can show (memory for whole batches, a worker's GPU) is not tried.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from attacker.attack import Attack, Attacker
from attacker.inversion.defense_aware import local_training
from attacker.inversion.matching import load_model
from attacker.observation import Observation, Reconstruction
from attacker.priors import eigenfaces
from attacker.priors.prior import Prior
from clients.local_training import local_gradient
from clients.user import Faces
from experiments.plan import attackers
from experiments.plan.setup import Setup
from fl_sim import models, traits
from fl_sim.config import ConfigError, short
from fl_sim.seeds import generator
from fl_sim.updates import Update

LEAST = {"steps": 1, "draw_steps": 1, "levels": 2, "restarts": 1}
"""Settings of attacks that only multiply what a first step has shown, and the fewest that they take."""


@dataclass(frozen=True)
class Victim:
    """A made-up user: what the trials of attacks are about."""

    setup: Setup
    faces: Faces  # two photos
    parameters: Update  # as the server would send them
    gradient: Update  # of the mean loss on the photos


def made_up(size: int, classes: int) -> Faces:
    """Two smooth pictures of noise, of the first and the last class."""
    noise = torch.rand(2, 3, 8, 8, generator=generator(0, "preflight"))
    photos = F.interpolate(noise, (size, size), mode="bicubic").clamp(0, 1)
    return Faces(photos, torch.tensor([0, classes - 1]), {})


def victim(setup: Setup, parameters: Update) -> Victim:
    """A user of two photos and the gradient it sends; ConfigError where the model has none that is finite."""
    config, made = setup.config, made_up(setup.config.dataset.image_size, setup.dataset.num_classes)
    sent = load_model(setup.model, parameters)
    try:
        gradient = local_gradient(sent, made)
    except Exception as error:  # of any kind, where the model is somebody else's
        raise ConfigError(f"model {config.model.name!r} has no gradient on two photos ({_reason(error)})") from error
    bad = [name for name, value in gradient.items() if not bool(value.isfinite().all())]
    if bad:
        raise ConfigError(
            f"model {config.model.name!r} has a gradient on two photos that is not finite (in {bad[0]}); "
            "look at its initialisation, or at model.weights"
        )
    return Victim(setup, made, parameters, gradient)


def observation(user: Victim, attack: Attack) -> Observation:
    """What `attack` would see of that user, as the threat model grants it."""
    granted, rate = user.setup.config.threat_model, user.setup.config.federation.learning_rate
    declared = [traits.parse(one) for one in attackers.declared(user.setup.defenses)]
    known = attack.known_traits(declared) + traits.asked(user.setup.config)
    told, statistics = attackers.told_local_training(user.setup.config), None
    if granted.batch_norm_statistics:
        with torch.no_grad():
            sent = load_model(user.setup.model, user.parameters)
            statistics = models.batch_statistics(sent, models.normalise(user.faces.photos))
    shares = torch.bincount(user.faces.labels) / len(user.faces.labels)  # the last label is the last class
    seen = Observation(
        server_round=2,
        user=0,
        parameters=user.parameters,
        gradient=user.gradient,
        num_examples=len(user.faces.photos),
        label_proportions=shares if granted.labels == "known" else None,
        local=local_training(told, known, rate),
        defenses=known,
        statistics=statistics,
    )
    if attack.needs.rounds == 1:
        return seen
    return dataclasses.replace(seen, history=(dataclasses.replace(seen, server_round=1),))


def try_attack(attack: Attack, user: Victim, prior: Prior | None) -> None:
    """One step of `attack` on that user.

    Raises ConfigError where it fails or answers with anything but pictures.
    """
    config, classes = user.setup.config, user.setup.dataset.num_classes
    size = config.dataset.image_size
    space = eigenfaces.fit(user.faces.photos) if config.threat_model.public_people else None
    attacker = Attacker(user.setup.model, size, classes, prior, torch.device("cpu"), space)
    draws = [generator(0, "preflight", attack.label)]
    where = f"attack {attack.label!r} fails on a made-up update of model {config.model.name!r}"
    remedy = "change its settings, or leave it out"
    try:
        settings, seen = fewest_steps(attack.settings), observation(user, attack)
        found = attack.run([seen], attacker, settings, draws, lambda done, total: None)
    except ConfigError:
        raise
    except Exception as error:  # of any kind, where the attack is somebody else's
        raise ConfigError(f"{where} ({_reason(error)}); {remedy}") from error
    if len(found) != 1 or not isinstance(found[0], Reconstruction):
        raise ConfigError(f"{where}: it answers one observation with {short(repr(found))}, not with one Reconstruction")
    images = found[0].images
    if images.shape[1:] != (3, size, size) or len(images) != len(found[0].weights):
        raise ConfigError(f"{where}: its images are {tuple(images.shape)}, needed is (n, 3, {size}, {size}); {remedy}")
    shown = {"images": images, "draws": found[0].draws, "determined": found[0].determined}
    for name, pictures in shown.items():
        if pictures is not None and not bool(pictures.isfinite().all()):
            raise ConfigError(f"{where}: not all pixels of its {name} are finite; {remedy}")


def fewest_steps(settings: Any) -> Any:
    """`settings` with as little repetition as they allow."""
    fields = {field.name for field in dataclasses.fields(settings)}
    return dataclasses.replace(settings, **{name: value for name, value in LEAST.items() if name in fields})


def _reason(error: Exception) -> str:
    """What went wrong, short enough for a sentence."""
    text = short(error)
    return text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}".removesuffix(": ")
