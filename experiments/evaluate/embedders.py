"""Face embedders: photos in, one unit vector a photo out; two photos of a person have a high cosine.

An embedder is any callable of the `Embedder` signature, so a new one is one function here. The shipped
`synthetic` one knows rendered faces alone; real faces need `dlib`, `facenet` or `onnx`.
"""

import socket
from pathlib import Path
from typing import Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.evaluate import identity_net
from experiments.evaluate.dlib_faces import DlibEmbedder
from experiments.evaluate.onnx_models import open_onnx
from fl_sim.config import Channels, ConfigError, Leakage, PixelRange

FACENET_SIZE = 160  # pixels, the crop that InceptionResnetV1 was trained on
DOWNLOAD_TIMEOUT = 20.0  # seconds without an answer, after which the machine counts as offline


class Embedder(Protocol):
    def __call__(self, photos: Tensor) -> Tensor:
        """Photos (n, 3, H, W) in [0, 1], of any size, to embeddings (n, d) float32 of L2 norm 1."""


def open_embedder(leakage: Leakage) -> Embedder:
    """The embedder that the config names, `auto` the synthetic one. ConfigError where it or its weights are missing."""
    if leakage.embedder in ("auto", "synthetic"):
        return synthetic()
    if leakage.embedder == "dlib":
        return DlibEmbedder()
    if leakage.embedder == "facenet":
        return facenet(leakage.facenet_weights, leakage.embedder_path)
    if leakage.embedder == "onnx":
        if leakage.embedder_path is None:
            raise ConfigError("leakage.embedder is 'onnx' without a model; set leakage.embedder_path to an .onnx file")
        output, channels, pixels = leakage.embedder_output, leakage.embedder_channels, leakage.embedder_range
        return onnx(leakage.embedder_path, output, channels, pixels)
    raise ConfigError(
        f"leakage.embedder is {leakage.embedder!r}; allowed are 'auto', 'synthetic', 'dlib', 'facenet' and 'onnx'"
    )


def variants(leakage: Leakage) -> list[dict[str, str]]:
    """Other settings under which the model of `leakage` can be read: the other colours, the other ranges of pixels."""
    if leakage.embedder != "onnx":
        return []
    swapped = "rgb" if leakage.embedder_channels == "bgr" else "bgr"
    ranges = [pixels for pixels in get_args(PixelRange) if pixels != leakage.embedder_range]
    return [{"embedder_channels": swapped}, *({"embedder_range": pixels} for pixels in ranges)]


def synthetic(path: Path = identity_net.SHIPPED) -> Embedder:
    """The shipped network for rendered faces (see train_identity)."""
    try:
        net = identity_net.load_net(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error

    def embed(photos: Tensor) -> Tensor:
        return identity_net.infer(net, photos)[0]

    return embed


def facenet(weights: str = "vggface2", path: Path | None = None) -> Embedder:
    """facenet-pytorch's InceptionResnetV1, with its own download of `weights` or the state dict in `path`."""
    try:
        from facenet_pytorch import InceptionResnetV1
    except ImportError as error:
        raise ConfigError("leakage.embedder 'facenet' needs the package facenet-pytorch; install it") from error
    if path is not None:
        if not path.is_file():
            raise ConfigError(
                f"leakage.embedder_path {path} does not exist; give facenet-pytorch's {weights} weights file"
            )
        net = InceptionResnetV1()
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            net.load_state_dict({name: value for name, value in state.items() if not name.startswith("logits.")})
        except Exception as error:  # torch.load and load_state_dict raise many kinds, all with the same remedy
            raise ConfigError(
                f"leakage.embedder_path {path} holds no InceptionResnetV1 weights; give facenet-pytorch's file"
            ) from error
    else:
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # the package's download has none of its own
        try:
            net = InceptionResnetV1(pretrained=weights)
        except OSError as error:
            raise ConfigError(
                f"facenet weights {weights!r} are neither on this machine nor can be downloaded ({error}); "
                "connect to the network once, or set leakage.embedder_path to a copy of the file"
            ) from error
        finally:
            socket.setdefaulttimeout(before)
    net.eval()

    @torch.no_grad()
    def embed(photos: Tensor) -> Tensor:
        pixels = identity_net.resize(photos.float(), FACENET_SIZE) * 255
        standard = (pixels - 127.5) / 128  # fixed_image_standardization of facenet-pytorch
        return F.normalize(torch.cat([net(part) for part in torch.split(standard, 16)]), dim=1)

    return embed


def onnx(path: Path, output: str = "", channels: Channels = "rgb", pixels: PixelRange = "0..1") -> Embedder:
    """Any face-recognition model whose `output` has a row (d,) a photo; "": its `embedding`, or its only output."""
    model = open_onnx(path, "embedder", channels, pixels)
    listed = ", ".join(f"{name} {what}" for name, what in model.outputs.items())
    chosen = output or ("embedding" if "embedding" in model.outputs else next(iter(model.outputs)))
    if output and output not in model.outputs:
        raise ConfigError(f"leakage.embedder_output is {output!r}, but {path} has the outputs {listed}; name one")
    if not output and chosen != "embedding" and len(model.outputs) > 1:
        raise ConfigError(
            f"{path} has the outputs {listed}; set leakage.embedder_output to that which is the embedding"
        )

    def embed(photos: Tensor) -> Tensor:
        answer = model(photos, [chosen])[chosen]
        rows = answer.reshape(len(answer), -1)  # some exporters leave (n, d, 1, 1)
        if answer.ndim < 2 or rows.shape[1] != max(answer.shape[1:]) or rows.shape[1] < 2:
            raise ConfigError(
                f"leakage.embedder_output {chosen!r} of {path} has the shape {tuple(answer.shape)} for {len(photos)} "
                f"photos; needed is a row of numbers a photo (outputs: {listed})"
            )
        return F.normalize(rows, dim=1)

    return embed
