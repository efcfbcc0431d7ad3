"""Somebody else's model: what the attacker must be told of it, and how it attacks updates of it.

A model is named as `package.module:factory`, called without arguments; its images are (n, 3, H, W), scaled as the app
scales them: (x - mean) / std of x in [0, 1]. A loss is named likewise: a function (outputs, labels) -> mean loss, or
a class that is called without arguments to make one. Nothing is pickled: names go into the run folder, and the
folder from which they can be imported.
"""

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacker import attacks, losses
from attacker.attacks import Attack, Attacker, Progress
from attacker.observation import Observation, Reconstruction
from attacker.prior import load_prior
from fl_sim import seeds
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder, write_atomically

Scale = tuple[float, float, float]  # of the channels red, green, blue


@dataclass(frozen=True)
class ForeignModel:
    """A model as it is named on a command line or in `audit.json`."""

    model: str  # package.module:factory
    image_size: int  # pixels
    loss: str | None = None  # package.module:name; None: cross-entropy
    mean: Scale = (0.5, 0.5, 0.5)  # with std 0.5: images in [-1, 1]
    std: Scale = (0.5, 0.5, 0.5)
    folder: str = ""  # from which the names are importable, beside what Python finds; "": nothing more

    def open(self) -> nn.Module:
        """The model in eval mode, taking images in [-1, 1] as all models here; its parameters keep their names.

        Raises ConfigError for what cannot be imported, cannot be called, or does not classify such images.
        """
        factory = _named(self.model, "model", self.folder)
        try:
            with torch.random.fork_rng(devices=[]):  # its initial weights do not matter, observations bring their own
                network = factory()
        except TypeError as error:
            raise ConfigError(
                f"model {self.model!r} cannot be called without arguments ({error}); name a function that makes it"
            ) from error
        if not isinstance(network, nn.Module):
            raise ConfigError(
                f"model {self.model!r} made a {type(network).__name__}; name what makes a torch.nn.Module"
            )
        if (self.mean, self.std) != ((0.5,) * 3, (0.5,) * 3):
            network.register_forward_pre_hook(_Rescale(self.mean, self.std))
        if self.loss is not None:
            found = _named(self.loss, "loss", self.folder)
            losses.bring(network, found() if isinstance(found, type) else found)
        network.eval()
        self.classes(network)
        return network

    def classes(self, network: nn.Module) -> int:
        """How many classes the opened model tells apart."""
        try:
            with torch.no_grad():
                outputs = network(torch.zeros(1, 3, self.image_size, self.image_size))
        except (RuntimeError, TypeError) as error:
            what = " ".join(str(error).split())
            raise ConfigError(
                f"model {self.model!r} does not take images (1, 3, {self.image_size}, {self.image_size}): {what}; "
                "give the image size that it was made for"
            ) from error
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            raise ConfigError(f"model {self.model!r} does not return logits (n, classes); name one that does")
        return outputs.shape[1]


@dataclass(frozen=True)
class _Rescale:
    """Images in [-1, 1] to the scale of the app, ahead of the model's own forward."""

    mean: Scale
    std: Scale

    def __call__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        mean, std = (torch.tensor(scale).to(inputs[0])[:, None, None] for scale in (self.mean, self.std))
        return ((inputs[0] + 1) / 2 - mean) / std


def save(run: RunFolder, foreign: ForeignModel) -> None:
    """Write `audit.json`, which makes `run` a folder of somebody else's federation."""
    write_atomically(run.audit, json.dumps(dataclasses.asdict(foreign), indent=2).encode())


def read(run: RunFolder) -> ForeignModel:
    """What `save` wrote. Raises ConfigError where there is none."""
    if not run.audit.exists():
        raise ConfigError(
            f"{run.root} holds no audit.json; give a folder that MaliciousServer.around wrote "
            "(fl-sim attack is for those of fl-sim run)"
        )
    facts = json.loads(run.audit.read_text(encoding="utf-8"))
    return ForeignModel(**{**facts, "mean": tuple(facts["mean"]), "std": tuple(facts["std"])})


def name_of(thing: Callable[..., Any], what: str) -> tuple[str, str]:
    """The name `package.module:thing` of a class or function, and the folder that its package lies in.

    Raises ConfigError for what has no name to be found by: lambdas, objects, functions inside functions.
    """
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    if module is None or not name.isidentifier() or getattr(sys.modules.get(module), name, None) is not thing:
        raise ConfigError(
            f"{what} {thing!r} cannot be found by its name later; give a class or function of an importable module"
        )
    if module == "__main__":
        raise ConfigError(f"{what} {name!r} is defined in the script that runs; move it to a module of its own")
    file = getattr(sys.modules[module], "__file__", None)
    folder = Path(file).resolve().parents[module.count(".") + (Path(file).stem == "__init__")] if file else Path()
    return f"{module}:{name}", str(folder)


def open_attack(name: str, settings: Mapping[str, Any]) -> Attack:
    """The attack on foreign updates. ConfigError for an unknown one, or one that would rewrite the model."""
    attack = attacks.load(name, settings)
    if attack.rewrite is not None:
        raise ConfigError(f"attack {name!r} rewrites the model that users are sent; here it is too late for that")
    return attack


def invert(
    foreign: ForeignModel,
    attack: Attack,
    observations: Sequence[Observation],
    seed: int,
    progress: Progress,
) -> list[Reconstruction]:
    """The reconstructions of users of one round, by the same rules as in a run: each draws from its own generator."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = foreign.open()
    name = getattr(attack.settings, "prior", None)
    prior = None if name is None else load_prior(name, foreign.image_size, device)
    classes = foreign.classes(network)
    attacker = Attacker(network.to(device), foreign.image_size, classes, prior, device)
    draws = [seeds.generator(seed, "attack", attack.label, seen.server_round, seen.user) for seen in observations]
    return attack.run(observations, attacker, attack.settings, draws, progress)


def _named(name: str, what: str, folder: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(f"{what} {name!r} is not of the form package.module:name, such as pytorchexample.task:Net")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # TypeError: a relative name
        raise ConfigError(
            f"{what} {name!r} cannot be imported ({error}); install its package, or name the folder that holds it"
        ) from error
