"""Face embedders: photos in, one unit vector a photo out; two photos of a person have a high cosine.

An embedder is any callable of the `Embedder` signature, so a new one is one function here. The shipped
`synthetic` one knows rendered faces alone; real faces need `facenet` or `onnx`.
"""

import socket
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments import identity_net
from fl_sim.config import ConfigError, Leakage

FACENET_SIZE = 160  # pixels, the crop that InceptionResnetV1 was trained on
DOWNLOAD_TIMEOUT = 20.0  # seconds without an answer, after which the machine counts as offline


class Embedder(Protocol):
    def __call__(self, photos: Tensor) -> Tensor:
        """Photos (n, 3, H, W) in [0, 1], of any size, to embeddings (n, d) float32 of L2 norm 1."""


def open_embedder(leakage: Leakage) -> Embedder:
    """The embedder that the config names, `auto` the synthetic one. ConfigError where it or its weights are missing."""
    if leakage.embedder in ("auto", "synthetic"):
        return synthetic()
    if leakage.embedder == "facenet":
        return facenet(leakage.facenet_weights, leakage.embedder_path)
    if leakage.embedder == "onnx":
        if leakage.embedder_path is None:
            raise ConfigError("leakage.embedder is 'onnx' without a model; set leakage.embedder_path to an .onnx file")
        return onnx(leakage.embedder_path)
    raise ConfigError(
        f"leakage.embedder is {leakage.embedder!r}; allowed are 'auto', 'synthetic', 'facenet' and 'onnx'"
    )


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


def onnx(path: Path) -> Embedder:
    """Any face-recognition model with one image input (n, 3, H, W) in [0, 1]; its `embedding` or first output."""
    session = open_onnx(path, "leakage.embedder_path")
    names = [output.name for output in session.get_outputs()]
    name = "embedding" if "embedding" in names else names[0]

    def embed(photos: Tensor) -> Tensor:
        return F.normalize(run_onnx(session, photos, [name])[name].flatten(1), dim=1)

    return embed


def open_onnx(path: Path, key: str) -> Any:
    """An onnxruntime session on one thread; ConfigError that names the config `key` if that cannot be had."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"{key} needs the package onnxruntime; install it") from error
    if not path.is_file():
        raise ConfigError(f"{key} {path} does not exist; give the path of an .onnx file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the same sums in the same order on every machine size
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exception types are not public
        raise ConfigError(f"{key} {path} is not an ONNX model that onnxruntime can load; give another file") from error
    shape = session.get_inputs()[0].shape
    if len(session.get_inputs()) != 1 or len(shape) != 4 or shape[1] != 3 or not isinstance(shape[2], int):
        raise ConfigError(f"{key} {path} takes {shape}; needed is one input (n, 3, H, W) of a fixed size")
    return session


def run_onnx(session: Any, photos: Tensor, outputs: list[str]) -> dict[str, Tensor]:
    """The named outputs of `session` for photos (n, 3, H, W) in [0, 1] of any size."""
    image = session.get_inputs()[0]
    pixels = identity_net.resize(photos.float(), image.shape[2])
    batch = image.shape[0] if isinstance(image.shape[0], int) else 32
    parts = [session.run(outputs, {image.name: part.numpy()}) for part in torch.split(pixels, batch)]
    return {name: torch.cat([torch.from_numpy(part[index]) for part in parts]) for index, name in enumerate(outputs)}
