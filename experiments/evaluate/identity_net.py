"""The small face-recognition network for synthetic faces, and its file.

One convolutional trunk reads the photo; two branches leave it: the embedding of the person, and one
classifier an attribute. The file is safetensors; its metadata say how it was trained and how good it is.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from fl_sim.models import normalise
from fl_sim.runs import write_atomically
from fl_sim.tensors import DamagedFile, read_tensors

IMAGE_SIZE = 64  # pixels; photos of another size are resized by the caller
EMBEDDING = 128  # dimensions
SHIPPED = Path(__file__).parent / "weights" / "identity64.safetensors"


class Residual(nn.Module):
    """x + conv(conv(x)), two 3x3 convolutions with batch norm, at constant width and size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.body(x))


def convolution(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm (fixed statistics in eval mode: an embedding never depends on its batch), GELU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()
    )


class IdentityNet(nn.Module):
    """About 1.6 M parameters; `heads` maps each attribute to its number of classes."""

    def __init__(self, heads: Mapping[str, int]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(  # (n, 3, 64, 64) -> (n, 3072)
            convolution(3, 32, 2), convolution(32, 64, 2), Residual(64),
            convolution(64, 128, 2), Residual(128), convolution(128, 192, 2), Residual(192), nn.Flatten(),
        )  # fmt: skip
        features = 192 * (IMAGE_SIZE // 16) ** 2
        self.embedding = nn.Linear(features, EMBEDDING)
        self.attributes = nn.Sequential(nn.Linear(features, EMBEDDING), nn.GELU())
        self.heads = nn.ModuleDict({name: nn.Linear(EMBEDDING, classes) for name, classes in heads.items()})

    def forward(self, photos: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Photos (n, 3, 64, 64) in [0, 1] to embeddings (n, 128) of any norm, and logits (n, classes) by attribute."""
        features = self.trunk(normalise(photos))
        hidden = self.attributes(features)
        return self.embedding(features), {name: head(hidden) for name, head in self.heads.items()}


def save_net(net: IdentityNet, path: Path, facts: Mapping[str, object]) -> None:
    """Write the weights in fp16, with `facts` (JSON) and the heads as metadata."""
    heads = {name: head.out_features for name, head in net.heads.items() if isinstance(head, nn.Linear)}
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in net.state_dict().items()
    }
    metadata = {"heads": json.dumps(heads), **{name: json.dumps(value) for name, value in facts.items()}}
    write_atomically(path, save(tensors, metadata))


def load_net(path: Path = SHIPPED) -> IdentityNet:
    """The network in `path`, fp32, in eval mode. Raises ValueError for a missing file, or one of another kind."""
    if not path.is_file():
        raise ValueError(
            f"identity weights {path} are missing; train them with `fl-sim train-identity`, or choose another embedder"
        )
    refused = f"{path} is not a file of `fl-sim train-identity` or `train-attributes`"
    try:
        tensors, metadata = read_tensors(path)
        net = IdentityNet(json.loads(metadata["heads"]))
        net.load_state_dict(tensors)
    except DamagedFile as error:
        raise ValueError(f"{refused}, or no longer: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{refused}; give one, or another kind of judge") from error
    return net.eval()


def facts(path: Path = SHIPPED) -> dict[str, object]:
    """The metadata of a weights file: metrics, command, seed."""
    with safe_open(path, framework="pt") as file:
        return {name: json.loads(value) for name, value in (file.metadata() or {}).items()}


def resize(photos: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Photos (n, 3, H, W) to a side, or a height and width; bilinear and antialiased, unchanged where the size fits."""
    size = (size, size) if isinstance(size, int) else size
    if photos.shape[-2:] == size:
        return photos
    return F.interpolate(photos, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


@torch.no_grad()
def infer(net: IdentityNet, photos: Tensor, batch: int = 64) -> tuple[Tensor, dict[str, Tensor]]:
    """Normalised embeddings (n, 128) and logits by attribute, of photos of any size, without gradients."""
    outputs = [net(part) for part in torch.split(resize(photos.float(), IMAGE_SIZE), batch)]
    embeddings = torch.cat([embedding for embedding, _ in outputs])
    return F.normalize(embeddings, dim=1), {
        name: torch.cat([logits[name] for _, logits in outputs]) for name in outputs[0][1]
    }
