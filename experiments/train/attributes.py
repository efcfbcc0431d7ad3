"""Trains attribute classifiers for photographs, on a dataset's public people.

    fl-sim train-attributes --out attributes.safetensors -o dataset.name=folder -o dataset.root=FACES

The network and its file are those of the synthetic faces (`identity_net`), without its embedding, which stays
untrained. Labels are those of each photo, so an attribute that varies over the photos of a person, as Smiling does,
is learnt as it shows. In the leakage table it stands against the majority over the person's photos, which is what a
`FaceDataset` knows of a person.

At 64 px, on the public people of a CelebA subset (3,000 photos), after the 600 steps of the command above (about three
minutes of one core), the balanced accuracy on people held out is 0.91 for Eyeglasses, 0.79 for Smiling, 0.89 for Male
and 0.65 for Young: for the last, whose labels are coarse, an age model read as ONNX is the better judge.

There are few public people and hundreds of weights a photo; hence every photo is varied each time it is seen,
and shown as a poor reconstruction might be (blur, noise, colour), and rare classes count as much as common ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.evaluate.identity_net import IMAGE_SIZE, IdentityNet, infer, resize
from experiments.train.classifier import vary
from experiments.train.identity import augment, fresh_nets, schedule
from fl_sim.seeds import generator


@dataclass(frozen=True)
class Settings:
    """The defaults suit 3,000 photos and about three minutes of one core."""

    steps: int = 600
    batch_size: int = 64  # photos
    learning_rate: float = 1e-3  # AdamW, peak; one warm-up of 5 %, then a cosine to zero
    weight_decay: float = 0.3
    dropout: float = 0.5  # of what enters the heads, while training
    seed: int = 0


def train(
    photos: Tensor, labels: Mapping[str, Tensor], settings: Settings, progress: Callable[[int, int], None]
) -> IdentityNet:
    """A net with one head of two classes for each of `labels` (n,) in {0, 1}, fitted to photos (n, 3, H, W) uint8."""
    net, _ = fresh_nets(dict.fromkeys(labels, 2), 1, settings.seed)
    draw = generator(settings.seed, "train-attributes")
    weights = {name: len(known) / (2 * known.bincount(minlength=2).clamp(min=1)) for name, known in labels.items()}
    optimiser = torch.optim.AdamW(net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    net.train()
    for step in range(settings.steps):
        chosen = torch.randint(len(photos), (settings.batch_size,), generator=draw)
        varied = vary(resize(photos[chosen].float() / 255, IMAGE_SIZE), draw)
        images = augment(varied[:, None], draw).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * schedule(step / settings.steps)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = net.attributes(net.trunk(images * 2 - 1)).float()
        kept = torch.rand(hidden.shape, generator=draw) >= settings.dropout
        hidden = hidden * kept / (1 - settings.dropout)
        losses = [
            F.cross_entropy(net.heads[name](hidden), known[chosen], weights[name]) for name, known in labels.items()
        ]
        optimiser.zero_grad()
        torch.autograd.backward(torch.stack(losses).mean())
        optimiser.step()
        progress(step + 1, settings.steps)
    return net.eval()


def balanced_accuracies(net: IdentityNet, photos: Tensor, labels: Mapping[str, Tensor]) -> dict[str, float]:
    """By attribute: the mean over its classes of the share of their photos (n, 3, H, W) uint8 that are read right.

    In [0, 1]; guessing gets 0.5, whatever the classes' shares. NaN for an attribute that only one class has here.
    """
    logits = infer(net, photos.float() / 255)[1]
    result = {}
    for name, known in labels.items():
        right = (logits[name].argmax(1) == known).double()
        result[name] = float((right[known == 0].mean() + right[known == 1].mean()) / 2)
    return result
