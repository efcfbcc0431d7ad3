"""One update that came from anywhere, inverted without a federation: tensors from files in, pictures out.

observation = observe(foreign, weights, update, "weights", learning_rate=0.1, num_examples=30)
found = attacker.foreign.invert(foreign, attack, [observation], seed=0, progress=lambda done, total: None)[0]
write(out, found, {"attack": ...})
"""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attacker.foreign import ForeignModel
from attacker.observation import LocalTraining, Observation, Reconstruction
from fl_sim import updates
from fl_sim.config import ConfigError
from fl_sim.runs import write_atomically
from fl_sim.tensors import DamagedFile, read_tensors
from fl_sim.updates import Update


def observe(
    foreign: ForeignModel,
    weights: Path,
    update: Path,
    kind: Literal["gradient", "weights"],
    num_examples: int,
    labels: Tensor | None = None,
    local: LocalTraining | None = None,
) -> Observation:
    """What the files say: `weights` the model that was sent, `update` what one user made of it, as safetensors.

    `labels` (n,) are those of the user's photos, if known. `local` is needed for weights: its learning rate turns
    them into a gradient. Raises ConfigError for files that do not fit the model or each other.
    """
    network = foreign.open()
    state = {name: value.detach() for name, value in network.state_dict().items()}
    sent = _fitting(weights, state, f"the state dict of {foreign.model!r}")
    parameters = {name: sent[name] for name, _ in network.named_parameters()}
    found = _read(update)
    if kind == "weights":  # buffers may come along, they carry no gradient
        found = {name: value for name, value in found.items() if name in parameters or name not in state}
    received = _checked(update, found, parameters, f"the parameters of {foreign.model!r}")
    if kind == "weights":
        if local is None:
            raise ConfigError("the update is weights without a learning rate; give that of the user's optimiser")
        received = updates.to_gradient(parameters, received, local.learning_rate)
    if updates.norm(received) == 0:
        raise ConfigError(f"{update} changes nothing about {weights}; give the update of a user who has trained")
    shares, classes = None, foreign.classes(network)
    if labels is not None:
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ConfigError(f"label {int(labels.max())} given; the model tells labels 0 to {classes - 1} apart")
        shares = torch.bincount(labels, minlength=classes) / len(labels)
    return Observation(1, 0, sent, received, num_examples, shares, local)


def write(out: Path, found: Reconstruction, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `image-K.png`, the answer first, and `reconstruction.json`; the content of the latter, with `facts`."""
    images = []
    for number, (image, weight) in enumerate(zip(found.images, found.weights.tolist(), strict=True)):
        write_atomically(out / f"image-{number}.png", png(image))
        images.append({"file": f"image-{number}.png", "weight": round(weight, 4)})
    loss = found.matching_loss if math.isfinite(found.matching_loss) else None
    said = {**facts, "matching_loss": loss, "seconds": round(found.seconds, 2), "images": images}
    write_atomically(out / "reconstruction.json", json.dumps(said, indent=2).encode())
    return said


def png(image: Tensor) -> bytes:
    """An image (3, H, W) in [0, 1] as PNG; values outside are clipped, NaN is grey."""
    pixels = (image.nan_to_num(0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def _fitting(path: Path, expected: Update, what: str) -> Update:
    return _checked(path, _read(path), expected, what)


def _checked(path: Path, found: Update, expected: Update, what: str) -> Update:
    """The tensors in the order and dtypes of `expected`. ConfigError for other names or shapes, NaN, Inf."""
    cast = {name: value.to(expected[name].dtype) if name in expected else value for name, value in found.items()}
    reason = updates.problem(cast, expected, math.inf)
    if reason is not None:
        raise ConfigError(f"{path} is not {what}: {reason}; save it from the very model that --model names")
    return {name: cast[name] for name in expected}


def _read(path: Path) -> Update:
    try:
        return read_tensors(path)[0]
    except (OSError, DamagedFile) as error:
        what = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read as safetensors ({what}); write it with safetensors.torch") from error
