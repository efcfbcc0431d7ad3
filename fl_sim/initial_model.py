"""The model under attack as round 1 sends it: fresh, trained, or a trained backbone with a fresh head."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_sim import models, seeds
from fl_sim.config import Config, ConfigError, Model
from fl_sim.config_errors import in_one_line
from fl_sim.modules import OTHERWISE, acts_otherwise, dropouts, load_state, logits_layer, norms
from fl_sim.tensors import DamagedFile, read_tensors

Origin = Literal["untrained", "trained", "trained backbone, fresh head"]


def fresh_model(section: Model, num_classes: int, image_size: int, seed: int) -> nn.Module:
    """The model of `section` with num_classes logits, initialised from the seed of the run.

    Raises ConfigError where `model.batch_norm` would act on nothing.
    """
    generator = seeds.generator(seed, "model")
    model = models.build(section.name, num_classes, image_size, generator, section.batch_norm, section.small_stem)
    if section.batch_norm == "train" and not norms(model):
        raise ConfigError(
            f"model.batch_norm is 'train', but model {section.name!r} has no batch norm of torch.nn; unset it, or name "
            "a model that has"
        )
    return model


def initial_model(config: Config, num_classes: int) -> tuple[nn.Module, Origin]:
    """The model that round 1 starts from, and where its weights are from: the seed, or `model.weights`.

    Their origin decides more than anything else how much leaks. Raises ConfigError for weights that do not fit, and
    for a threat model that the model cannot serve.
    """
    model = fresh_model(config.model, num_classes, config.dataset.image_size, config.seed)
    if config.threat_model.batch_norm_statistics and not models.statistics_like(model):
        raise ConfigError(
            f"threat_model.batch_norm_statistics is set, but model {config.model.name!r} has no batch norm; "
            "unset it or take resnet18"
        )
    path = config.model.weights
    if path is None:
        return model, "untrained"
    try:
        weights, _ = read_tensors(path)
        fresh = _fresh_head(config, model, weights)
        load_state(model, {**weights, **fresh})
    except (OSError, RuntimeError, DamagedFile) as error:
        raise ConfigError(
            f"model.weights {path} does not fit model {config.model.name!r}: {in_one_line(error)}"
        ) from error
    return model, "trained backbone, fresh head" if fresh else "trained"


def check_smallest_step(config: Config, model: nn.Module, photos: tuple[int, int]) -> None:
    """Raises ConfigError if `model` fails on as few photos as a user's smallest step may have.

    `photos` are the fewest and the most of a user.

    Batch statistics want two values a channel at least, and somebody else's model its own image size: each user
    would fail alike, in the middle of the run.
    """
    batch, size = config.federation.batch_size, config.dataset.image_size
    low, high = photos
    count = low if batch == 0 else min(min(n % batch or batch, n) for n in range(low, high + 1))
    try:
        with torch.no_grad():
            outputs = model(torch.zeros(min(count, 2), 3, size, size))
            F.cross_entropy(outputs, torch.zeros(len(outputs), dtype=torch.long))
    except Exception as error:  # of any kind, where the model is somebody else's
        raise ConfigError(
            f"model {config.model.name!r} fails on a step of {min(count, 2)} x 3 x {size} x {size} pixels "
            f"({in_one_line(error)}); raise dataset.photos or dataset.image_size, or take another model"
        ) from error


def remarks(config: Config, model: nn.Module) -> list[str]:
    """A sentence each: where users here train `model` otherwise than users of an app of its own would."""
    name, found = config.model.name, []
    if dropped := dropouts(model):
        found.append(
            f"model {name!r} has dropout ({', '.join(dropped)}), which is off for users and attacker alike: "
            "what it would hide is not measured"
        )
    if name not in models.MODELS and config.model.batch_norm == "eval" and norms(model):
        found.append(
            f"model {name!r} has batch norm, with fixed statistics here; where users train it in training mode, set "
            "model.batch_norm = 'train'"
        )
    size = config.dataset.image_size
    images = torch.rand(2, 3, size, size, generator=seeds.generator(config.seed, "head")) * 2 - 1
    if name not in models.MODELS and acts_otherwise(model, images):
        found.append(
            f"model {name!r} {OTHERWISE}: users and attacker alike have it in eval mode, so what it would hide is not "
            "measured"
        )
    if config.threat_model.labels == "recovered" and logits_layer(model, images) is None:
        found.append(
            f"no linear layer makes the logits of model {name!r}: labels are estimated from its last layer, which is "
            "less exact; threat_model.labels = 'known' grants them"
        )
    return found


def _fresh_head(config: Config, model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the layer that makes the logits, if that of `weights` is for another number of classes; else none.

    A backbone trained for one task then serves another (transfer learning).
    """
    size = config.dataset.image_size
    images = torch.rand(2, 3, size, size, generator=seeds.generator(config.seed, "head")) * 2 - 1
    found = logits_layer(model, images)
    if found is None:
        return {}
    name, layer = found
    head = {f"{name}.{key}": value for key, value in layer.state_dict().items()}
    if not head.keys() <= weights.keys():
        return {}
    same_inputs = all(weights[key].shape[1:] == value.shape[1:] for key, value in head.items())
    classes = {weights[key].shape[:1] for key in head}
    other = len(classes) == 1 and classes != {value.shape[:1] for value in head.values()}
    return head if same_inputs and other else {}
