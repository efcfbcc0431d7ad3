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
from torch.nn import functional

from attacker import attacks
from attacker.attack import Attack, Attacker, Progress
from attacker.external.modes import Mode, nearest
from attacker.inversion import losses
from attacker.inversion.losses import Loss
from attacker.inversion.model_check import check_model
from attacker.observation import Observation, Reconstruction
from attacker.priors.prior import load_prior
from fl_sim import seeds
from fl_sim.config import ConfigError, short
from fl_sim.modules import OTHERWISE, BatchNorm, acts_otherwise, as_logits, dropouts, has_running_statistics, set_mode
from fl_sim.runs import RunFolder, write_atomically

BINARY_LOSSES = (functional.binary_cross_entropy_with_logits, functional.binary_cross_entropy)
Scale = tuple[float, float, float]  # of the channels red, green, blue


@dataclass(frozen=True)
class ExternalModel:
    """A model as it is named on a command line or in `audit.json`."""

    model: str  # package.module:factory
    image_size: int  # pixels
    loss: str | None = None  # package.module:name; None: cross-entropy
    mean: Scale = (0.5, 0.5, 0.5)  # with std 0.5: images in [-1, 1]
    std: Scale = (0.5, 0.5, 0.5)
    folder: str = ""  # from which the names are importable, beside what Python finds; "": nothing more

    def __post_init__(self) -> None:
        """Raises ConfigError for a scale that is none."""
        if not len(self.mean) == len(self.std) == 3 or min(self.std) <= 0:
            raise ConfigError(
                f"mean {self.mean} and std {self.std} given; give three numbers each, those of the app's Normalize, "
                "std above 0"
            )

    @classmethod
    def of(
        cls,
        model: Callable[[], nn.Module],
        image_size: int,
        loss: Callable[[], Loss] | Loss | None = None,
        mean: Scale = (0.5, 0.5, 0.5),
        std: Scale = (0.5, 0.5, 0.5),
    ) -> "ExternalModel":
        """The model that the class or function `model` makes, by the names of `model` and `loss`.

        Raises ConfigError for what cannot be found by its name.
        """
        name, folder = name_of(model, "model")
        return cls(name, image_size, None if loss is None else name_of(loss, "loss")[0], mean, std, folder)

    def open(self, batch_norm: BatchNorm = "eval") -> nn.Module:
        """The model in a mode of `fl_sim.modules.set_mode`, taking images in [-1, 1] as all models here.

        Its parameters keep their names; one logit, trained on its binary cross-entropy, comes out as two.
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
        except Exception as error:  # of any kind: it is somebody else's
            raise ConfigError(f"model {self.model!r} cannot be made ({short(error)}); fix its factory") from error
        if not isinstance(network, nn.Module):
            raise ConfigError(f"model {self.model!r} made {type(network).__name__}; name what makes a torch.nn.Module")
        if (self.mean, self.std) != ((0.5,) * 3, (0.5,) * 3):
            network.register_forward_pre_hook(_Rescale(self.mean, self.std))
        loss = None if self.loss is None else _named(self.loss, "loss", self.folder)
        set_mode(network, batch_norm)
        self._settle(network, loss() if isinstance(loss, type) else loss)
        self.classes(network)
        return network

    def _settle(self, network: nn.Module, loss: Any) -> None:
        """Bring `loss` along, or turn one logit into two, for which cross-entropy is the binary loss."""
        binary = loss in BINARY_LOSSES or isinstance(loss, nn.BCEWithLogitsLoss | nn.BCELoss)
        if loss is not None and not binary:
            losses.bring(network, loss)
            return
        outputs = self._outputs(network)
        if binary and as_logits(outputs) is outputs:
            raise ConfigError(
                f"loss {self.loss!r} is binary, but model {self.model!r} returns {_kind(outputs)} for two images; "
                "give a model with one logit, or another loss"
            )
        network.register_forward_hook(_Logits(isinstance(loss, nn.BCELoss) or loss is functional.binary_cross_entropy))

    def check(self) -> None:
        """Raises ConfigError, in a sentence, for a model that cannot be trained or attacked."""
        network = self.open()
        check_model(network, self.model, self.image_size, self.classes(network))

    def classes(self, network: nn.Module) -> int:
        """How many classes the opened model tells apart."""
        outputs = self._outputs(network)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
            raise ConfigError(
                f"model {self.model!r} returns {_kind(outputs)} for two images, not logits (2, classes); name one that "
                "returns those of one head (one logit alone goes with cross-entropy or BCEWithLogitsLoss)"
            )
        return outputs.shape[1]

    def _outputs(self, network: nn.Module) -> object:
        """What the model makes of two black images; of one alone batch norm may have no statistics."""
        try:
            with torch.no_grad():
                return network(torch.zeros(2, 3, self.image_size, self.image_size))
        except Exception as error:  # of any kind: torchvision asserts, others index out of range
            raise ConfigError(
                f"model {self.model!r} does not take images (2, 3, {self.image_size}, {self.image_size}): "
                f"{short(error)}; give the image size that it was made for"
            ) from error


def _kind(outputs: object) -> str:
    return f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"


@dataclass(frozen=True)
class _Rescale:
    """Images in [-1, 1] to the scale of the app, ahead of the model's own forward."""

    mean: Scale
    std: Scale

    def __call__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        mean, std = (torch.tensor(scale).to(inputs[0])[:, None, None] for scale in (self.mean, self.std))
        return ((inputs[0] + 1) / 2 - mean) / std


@dataclass(frozen=True)
class _Logits:
    """One output an image as two logits; `probability`: the output went through a sigmoid."""

    probability: bool

    def __call__(self, model: nn.Module, inputs: object, outputs: Any) -> Any:
        return as_logits(torch.logit(outputs, 1e-7) if self.probability else outputs)


def save(run: RunFolder, external: ExternalModel) -> None:
    """Write `audit.json`, which makes `run` a folder of somebody else's federation."""
    write_atomically(run.audit, json.dumps(dataclasses.asdict(external), indent=2).encode())


def read(run: RunFolder) -> ExternalModel:
    """What `save` wrote. Raises ConfigError where there is none."""
    if not run.audit.exists():
        raise ConfigError(
            f"{run.root} holds no audit.json; give a folder that AuditedStrategy wrote "
            "(fl-sim attack is for those of fl-sim run)"
        )
    facts = json.loads(run.audit.read_text(encoding="utf-8"))
    return ExternalModel(**{**facts, "mean": tuple(facts["mean"]), "std": tuple(facts["std"])})


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
    """The attack of that name. ConfigError for an unknown one, or one that would rewrite the model."""
    attack = attacks.load(name, settings)
    if attack.rewrite is not None:
        raise ConfigError(f"attack {name!r} rewrites the model that users are sent; here it is too late for that")
    return attack


def invert(
    external: ExternalModel,
    attack: Attack,
    observations: Sequence[Observation],
    seed: int,
    progress: Progress,
    batch_norm: BatchNorm = "eval",
) -> list[Reconstruction]:
    """The reconstructions of users of one round, by the same rules as in a run: each draws from its own generator."""
    attacker = _attacker(external, batch_norm)
    if attack.needs.prior is not None:
        prior = load_prior(attack.needs.prior, external.image_size, attacker.device)
        attacker = dataclasses.replace(attacker, prior=prior)
    draws = [seeds.generator(seed, "attack", attack.label, seen.server_round, seen.user) for seen in observations]
    return attack.run(observations, attacker, attack.settings, draws, progress)


def find_mode(external: ExternalModel, observations: Sequence[Observation], seed: int) -> Mode | None:
    """How the users of `observations`, of one round, train batch norm; None for a model on which that has no effect."""
    if not has_running_statistics(external.open()):
        return None
    return nearest(lambda mode: _attacker(external, mode), observations, seed)


def remarks(external: ExternalModel) -> list[str]:
    """A sentence each: where users may have trained the model otherwise than it is matched here."""
    network, sentences = external.open(), []
    dropped = dropouts(network)
    if dropped:
        sentences.append(
            f"model {external.model!r} has dropout ({', '.join(dropped)}): which units a user dropped is not known, so "
            "updates are matched without it, and an attack that also looks for them may see more"
        )
    images = torch.rand(2, 3, external.image_size, external.image_size, generator=seeds.generator(0, "mode")) * 2 - 1
    if acts_otherwise(network, images):
        sentences.append(
            f"model {external.model!r} {OTHERWISE}: updates are matched in eval mode; where users train in training "
            "mode, a picture of nobody does not say that nothing leaks"
        )
    return sentences


def _attacker(external: ExternalModel, batch_norm: BatchNorm) -> Attacker:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = external.open(batch_norm)
    return Attacker(network.to(device), external.image_size, external.classes(network), None, device)


def _named(name: str, what: str, folder: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(f"{what} {name!r} is not of the form package.module:name, such as pytorchexample.task:Net")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # of any kind: a script runs as it is imported
        raise ConfigError(
            f"{what} {name!r} cannot be imported ({short(error)}); install it, or put its folder into PYTHONPATH"
        ) from error
