"""Face models as ONNX files, whatever their exporter made of the input: photos in, float32 outputs by name.

The input is read off the file: channels first (n, 3, H, W) or, as TensorFlow exports, last (n, H, W, 3); float, half,
double or bytes; any or a fixed number of photos. What the file does not say is a setting: the order of the colours and
the range of the pixels (`experiments.evaluate.recognition` sees on photos whether they are right).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.evaluate import identity_net
from fl_sim.config import Channels, ConfigError, PixelRange, short

BATCH = 32  # photos at once, where the model takes any number
INPUTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
BYTES = "tensor(uint8)"

Numbers = tuple[float, ...]
RANGES: dict[PixelRange, tuple[Numbers, Numbers]] = {  # what is subtracted from pixels in [0, 1], then divided by
    "0..1": ((0.0,), (1.0,)),
    "-1..1": ((0.5,), (0.5,)),
    "0..255": ((0.0,), (1 / 255,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # red, green, blue
}


@dataclass(frozen=True)
class OnnxModel:
    """A loaded file, called with photos (n, 3, H, W) in [0, 1] of any size and the names of the outputs wanted."""

    session: Any  # onnxruntime.InferenceSession
    name: str  # the file, as messages name it
    size: tuple[int, int]  # height and width that it takes, pixels
    batch: int | None  # photos that it takes, no less and no more; None: any number
    channels_last: bool
    channels: Channels
    pixels: PixelRange

    @property
    def outputs(self) -> dict[str, str]:
        """What the file offers: the shape and type of each output, in words."""
        return {one.name: f"{tuple(one.shape)} {one.type}" for one in self.session.get_outputs()}

    def __call__(self, photos: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs (n, ...), float32. ConfigError where the model fails, or does not answer photo by photo."""
        parts = [self._run(part, outputs) for part in torch.split(photos.float(), self.batch or BATCH)]
        return {name: torch.cat([part[index] for part in parts]) for index, name in enumerate(outputs)}

    def _run(self, photos: Tensor, outputs: Sequence[str]) -> list[Tensor]:
        given = self._input(photos)
        padding = (self.batch or len(given)) - len(given)
        if padding:
            given = np.concatenate([given, given[-1:].repeat(padding, axis=0)])
        try:
            found = self.session.run(list(outputs), {self.session.get_inputs()[0].name: given})
        except Exception as error:  # onnxruntime's own exception types are not public
            raise ConfigError(f"{self.name} fails on an input {given.shape}: {short(error)}") from error
        for name, value in zip(outputs, found, strict=True):
            if value.ndim == 0 or len(value) != len(given):
                raise ConfigError(
                    f"{self.name} answers {len(given)} photos with the output {name!r} of shape {value.shape}; needed "
                    "is one row a photo: export it with a free batch dimension, or for batches of 1"
                )
        return [torch.from_numpy(value[: len(photos)]).float() for value in found]

    def _input(self, photos: Tensor) -> np.ndarray[Any, Any]:
        """Photos as the model was trained on them."""
        pixels = identity_net.resize(photos, self.size)
        kind = self.session.get_inputs()[0].type
        mean, deviation = RANGES["0..255" if kind == BYTES else self.pixels]
        pixels = (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(deviation).view(-1, 1, 1)
        if self.channels == "bgr":
            pixels = pixels.flip(1)
        if self.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        if kind == BYTES:
            return pixels.round().byte().contiguous().numpy()
        return np.ascontiguousarray(pixels.numpy(), dtype=INPUTS[kind])


def open_onnx(
    path: Path, judge: Literal["embedder", "attributes"], channels: Channels = "rgb", pixels: PixelRange = "0..1"
) -> OnnxModel:
    """The model in `path`, on one thread. ConfigError, which names the keys of `judge`, for what cannot be used."""
    name = f"leakage.{judge}_path {path}"
    session = _session(path, name)
    inputs = session.get_inputs()
    listed = ", ".join(f"{one.name} {tuple(one.shape)} {one.type}" for one in inputs)
    shape = inputs[0].shape if len(inputs) == 1 else []
    first, last = len(shape) == 4 and shape[1] == 3, len(shape) == 4 and shape[3] == 3
    size = shape[2:4] if first else shape[1:3]
    if not (first or last) or not all(isinstance(one, int) and one > 0 for one in size):
        raise ConfigError(f"{name} takes {listed}; needed is one image (n, 3, H, W) or (n, H, W, 3) of a fixed size")
    kind = inputs[0].type
    if kind not in INPUTS and kind != BYTES:
        raise ConfigError(f"{name} takes {listed}; needed is an image of float, float16, double or uint8")
    if kind == BYTES and pixels in {"-1..1", "imagenet"}:
        raise ConfigError(f"leakage.{judge}_range is {pixels!r}, but {path} takes bytes; leave that key out")
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    return OnnxModel(session, name, (size[0], size[1]), batch, not first, channels, pixels)


def _session(path: Path, name: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"{name} needs the package onnxruntime; install it") from error
    if not path.is_file():
        raise ConfigError(f"{name} does not exist; give the path of an .onnx file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the same sums in the same order on every machine size
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exception types are not public
        raise ConfigError(f"{name} is not an ONNX model that onnxruntime can load; give another file") from error
