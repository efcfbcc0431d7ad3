"""One update that came from anywhere, inverted without a federation: tensors from files in, pictures out.

observation, notes = observe(external, UpdateFiles(update, weights, "gradient", num_examples=30))
reconstruction = external_model.invert(external, attack, [observation], seed=0, progress=lambda done, total: None)[0]
write(out, reconstruction, {"attack": ...})
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from attacker.external.external_model import ExternalModel
from attacker.observation import LocalTraining, Observation, Reconstruction, pixels
from experiments.evaluate import draws
from experiments.show import images
from experiments.statistics.verdict import EXPLAINED
from fl_sim import updates
from fl_sim.checkpoints import read_state
from fl_sim.config import ConfigError
from fl_sim.runs import write_atomically
from fl_sim.state_dicts import Misfit, ModelTensors
from fl_sim.updates import Update, in_short


@dataclass(frozen=True)
class UpdateFiles:
    """The update of one user in files, and what is known of its making."""

    update: Path  # what the user made of the model: safetensors or .pth
    weights: Path  # the state dict that the user started from, likewise
    kind: Literal["gradient", "weights"]  # what the update is
    num_examples: int  # photos behind it
    labels: tuple[int, ...] | None = None  # of the photos, if known
    training: LocalTraining | None = None  # needed for weights, which its learning rate turns into a gradient

    def __post_init__(self) -> None:
        """Raises ConfigError for what does not go together."""
        if self.kind == "gradient" and self.training is not None:
            raise ConfigError(
                "a gradient has no learning rate, epochs or batches; leave them out, or give --kind weights"
            )
        if self.kind == "weights" and self.training is None:
            raise ConfigError("the update is weights without a learning rate; give that of the user's optimiser")


def observe(external: ExternalModel, files: UpdateFiles) -> tuple[Observation, tuple[str, ...]]:
    """What the files say, and what had to be assumed to read them, a clause each.

    A parameter that the update lacks is frozen: its gradient is zero. Raises ConfigError for files that do not fit the
    model or each other.
    """
    network = external.open()
    tensors = ModelTensors(network)
    sent, sent_notes = _sent(external, tensors, files.weights)
    received, received_notes = _fitting(files.update, tensors, f"an update of {external.model!r}")
    frozen = [name for name in tensors.parameters if name not in received]
    if len(frozen) == len(tensors.parameters):
        raise ConfigError(f"{files.update} holds no parameter of {external.model!r}; give what the user made of it")
    received = {name: received[name] for name in tensors.parameters if name in received}
    gradient = _gradient(files, {name: sent[name] for name in tensors.parameters}, received)
    if updates.norm(gradient) == 0:
        raise ConfigError(f"{files.update} changes nothing about {files.weights}; give the update of a trained user")
    shares = None if files.labels is None else _shares(files.labels, external.classes(network))
    parameters = {name: sent.get(name, value) for name, value in tensors.state.items()}
    notes = [*sent_notes, *received_notes]
    if frozen:
        notes.append(f"{files.update.name} lacks {in_short(frozen)}, taken as frozen: zero gradient")
    notes += _doubts(files, updates.cosine(sent, received))
    return Observation(1, 0, parameters, gradient, files.num_examples, shares, files.training), tuple(notes)


def _sent(external: ExternalModel, tensors: ModelTensors, weights: Path) -> tuple[Update, tuple[str, ...]]:
    """The model that the user started from, whole, and what had to be assumed to read it."""
    sent, notes = _fitting(weights, tensors, f"the state dict of {external.model!r}")
    absent = [name for name in tensors.state if name not in sent and tensors.state[name].is_floating_point()]
    if absent:
        raise ConfigError(f"{weights} lacks {in_short(absent)} of {external.model!r}; give the whole state dict")
    return sent, notes


def _gradient(files: UpdateFiles, start: Update, received: Update) -> Update:
    """The gradient of all parameters, which were `start`; zero for those that were not received."""
    if files.training is None:
        return {name: received.get(name, torch.zeros_like(value)) for name, value in start.items()}
    after = {name: received.get(name, value) for name, value in start.items()}
    return updates.to_gradient(start, after, files.training.learning_rate)


def _shares(labels: Sequence[int], classes: int) -> Tensor:
    """The share (classes,) of each label. ConfigError for labels that the model does not know."""
    if not 0 <= min(labels) <= max(labels) < classes:
        raise ConfigError(f"label {max(labels)} given; the model tells labels 0 to {classes - 1} apart")
    return torch.bincount(torch.tensor(labels), minlength=classes) / len(labels)


def _doubts(files: UpdateFiles, likeness: float) -> list[str]:
    """Whether the update is what it is said to be, by the cosine of what was received with what was sent."""
    if files.kind == "gradient" and likeness > updates.NEAR:
        return [f"{files.update.name} is near the weights that were sent: is it new ones? Then give --kind weights"]
    if files.kind == "weights" and likeness < updates.NEAR:
        return [f"{files.update.name} is far from the weights that were sent: is it a gradient, and no weights?"]
    return []


def write(out: Path, reconstruction: Reconstruction, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `image-K.png`, the answer first, and `reconstruction.json`; the content of the latter, with `facts`.

    Where the attack left draws: `determined.png`, the mean face behind them, `draw-K.png`, and `differ.png`, where
    they differ (experiments.evaluate.draws.heat).
    """
    images = []
    for number, (image, weight) in enumerate(zip(reconstruction.images, reconstruction.weights.tolist(), strict=True)):
        write_atomically(out / f"image-{number}.png", png(image))
        images.append({"file": f"image-{number}.png", "weight": round(weight, 4)})
    loss = reconstruction.matching_loss if math.isfinite(reconstruction.matching_loss) else None
    summary = {**facts, "matching_loss": loss, "seconds": round(reconstruction.seconds, 2), "images": images}
    shown = {} if reconstruction.determined is None else {"determined.png": reconstruction.determined}
    if reconstruction.draws is not None:
        names = [f"draw-{number}.png" for number in range(len(reconstruction.draws))]
        shown |= {**dict(zip(names, reconstruction.draws, strict=True)), "differ.png": draws.heat(reconstruction.draws)}
        summary |= {"draws": names, "draws_spread": round(draws.spread(reconstruction.draws), 4)}
    for name, image in shown.items():
        write_atomically(out / name, png(image))
    write_atomically(out / "reconstruction.json", json.dumps(summary, indent=2).encode())
    return summary


def unexplained(matching_loss: float) -> str | None:
    """A sentence where a picture explains its update too badly to be evidence that nothing leaks."""
    if math.isnan(matching_loss) or matching_loss <= EXPLAINED:  # NaN: the attack matches nothing
        return None
    return (
        f"the pictures do not explain the update (matching loss {matching_loss:.2g}, above {EXPLAINED}); that they "
        "look like nobody does not say that nothing leaks: give more -o steps=, and check what was told of the training"
    )


def left_open(out: Path, summary: Mapping[str, Any]) -> str | None:
    """What to make of the draws that `write` left in `out` and summed up, in a sentence; None without draws."""
    if "draws" not in summary:
        return None
    count, spread = len(summary["draws"]), summary["draws_spread"]
    return (
        f"{count} draws of this update: {out / 'draw-*.png'} (spread {spread:.3f}, 0 where all agree). Where they "
        f"differ, which {out / 'differ.png'} shows in orange, the prior invented it; that they agree proves "
        "nothing, since all begin near one mean face. A realistic face is no evidence: the prior draws one for any "
        "update"
    )


def png(image: Tensor) -> bytes:
    """An image (3, H, W) in [0, 1] as PNG; values outside are clipped, NaN is grey."""
    return images.encoded(images.picture(pixels(image)), "PNG")


def _fitting(path: Path, tensors: ModelTensors, what: str) -> tuple[Update, tuple[str, ...]]:
    """The tensors of a file by the model's names. ConfigError for other names or shapes, NaN, Inf."""
    state, notes = read_state(path)
    try:
        fitted = tensors.fit(state)
        if fitted.unknown:
            raise Misfit(f"the model has no {in_short(fitted.unknown)}")
        for name, value in fitted.values.items():
            if not bool(torch.isfinite(value).all()):
                raise Misfit(f"{name!r} holds NaN or Inf")
    except Misfit as error:
        raise ConfigError(f"{path} is not {what}: {error}; save it from the very model that --model names") from error
    return fitted.values, (*notes, *fitted.notes)
