"""Label recovery: which labels a user's photos have, read off the gradient of the last layer.

For the cross-entropy of logits W h + b, averaged over n photos, the gradient of b is
`mean_i softmax_i - p`, where p holds the label proportions (Zhao et al. 2020, iDLG, for n = 1; Yin et al.
2021 and others for batches). The row k of W's gradient is the same, photo by photo, times the features h.
Unknown is the mean softmax over the user's photos. With q the model's mean softmax over probe images,

    mean softmax = (1 - a) p + a q,      a = E[s (1 - s)] / (q (1 - q))   (averaged over the classes)

holds for any calibrated model: a = 1 where the output does not depend on the image (an untrained model),
a = 0 where it is always right. So p = q - g_b / a, rounded to whole photos.

Of an absent class g_b / (a q) is 1. So the factor of an update that was scaled down (clipped, or reduced to signs times
a magnitude) is the median of that over the classes, if more than half of three or more are absent; and a class whose
entry was zeroed, by a defense that keeps large ones, is taken for absent. If no entry left says that a class is there,
W's rows are asked, as they are where there is no b. One logit z is two, 0 and z.

Where no linear layer makes the logits, p is what explains the gradient of the last layer that there is: the mixture of
the gradients that probes would have caused with each label, nearest to the update (`_mixture`).

Of a user whom a trained model knows well, p is not the share of photos but of what they contribute to the update, the
sum of 1 - softmax[label] over them: photos that the model gets right hardly count. With faces as probes it is 0.09 off
in the mean on 18 people, smile or not, whom a convnet (84 %) had not seen; with smooth noise 0.28, for a model that has
learnt faces answers otherwise on noise.

How well it does for the share of photos with noise as probes, on 20 users of 26 real photos, smile or not, 64 px (mean
absolute error of the share; always saying one half: 0.19): untrained convnet, mlp and lenet 0.00; untrained resnet18
0.06; convnet trained to 50 % held-out accuracy 0.01, to 82 % 0.17, to 85 % 0.22, no better than saying one half. There
the user's photos are fitted better than any probe, and who needs shares had better be granted them
(`threat_model.labels = "known"`). The label of a user who has only one still lies on the right side of one half in
95 % and 78 % of the cases.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_sim.modules import logits_layer


@torch.no_grad()
def unexplained(model: nn.Module, probes: Tensor) -> float:
    """How little of the labels the model's answers on `probes` (m, 3, H, W) explain: a above, in [0, 1].

    Near 1, as of untrained models, every photo counts the same in an update.
    """
    return float(_unexplained(_softmax(model, probes)))


@torch.no_grad()
def recover_proportions(
    gradient: Mapping[str, Tensor],
    model: nn.Module,
    probes: Tensor,
    num_examples: int,
    scaled: bool = False,
    masked: bool = False,
) -> Tensor:
    """The share of each class (classes,) among the photos behind `gradient`, in [0, 1], sum 1.

    `model` is the model that the server sent; `probes` (m, 3, H, W) in [-1, 1] are images like the user's
    as far as the attacker has any (samples of the prior; smooth noise otherwise). `num_examples` photos.
    `scaled`, `masked`: it is known that the update may have been scaled down, or that entries were set to zero.
    """
    softmax = _softmax(model, probes)  # (m, classes)
    q, left = softmax.mean(0), _unexplained(softmax)
    if not masked:  # what is zero all over is frozen, or does not reach the logits: it says nothing
        gradient = {name: value for name, value in gradient.items() if bool(value.any())}
    if not gradient:
        return torch.full_like(q, 1 / len(q))
    layer = logits_layer(model, probes)
    name = "" if layer is None else layer[0]
    shift = gradient.get(f"{name}.bias")
    if shift is None and (layer is None or f"{name}.weight" not in gradient):
        return _whole_photos(_mixture(gradient, model, probes, len(q)), num_examples)
    shift = None if shift is None else by_class(shift)
    silent = masked and shift is not None and not bool((shift < 0).any())  # the entry of what is there was zeroed
    if shift is None or silent:  # rows of W's gradient are the same sum, each photo times its features
        features = _features(model, name, probes).mean(0)  # (d,)
        rows = by_class(gradient[f"{name}.weight"])  # (classes, d)
        seen = (rows != 0).to(rows) if masked else torch.ones_like(rows)
        shift = rows @ features / (seen @ features.square()).clamp_min(1e-12)
    missing = shift / (left * q).clamp_min(1e-12)  # (classes,) 1: absent
    factor = missing.median()
    if len(q) > 2 and factor > 0 and (silent or (scaled and factor < 1)):
        missing = missing / factor
    if masked and bool((shift < 0).any()):
        missing = torch.where(shift == 0, 1.0, missing)
    shares = (q * (1 - missing)).clamp_min(0)
    if not math.isfinite(total := float(shares.sum())) or total == 0:
        return torch.full_like(q, 1 / len(q))  # the update says nothing
    return _whole_photos(shares / total, num_examples)


def by_class(rows: Tensor) -> Tensor:
    """The gradient (classes, ...) of the last layer's bias or weights; of a single logit z it is that of -z and z."""
    return torch.cat([-rows, rows]) if len(rows) == 1 else rows


@torch.enable_grad()
def _mixture(gradient: Mapping[str, Tensor], model: nn.Module, probes: Tensor, classes: int) -> Tensor:
    """Shares (classes,) with which the probes' gradients mix to what is nearest to `gradient`, in the last layer."""
    names = _last_called(model, probes)
    parameters = [model.get_parameter(name) for name in names]
    logits = model(probes)
    losses = [
        F.cross_entropy(logits, torch.full_like(logits[:, 0], label, dtype=torch.int64)) for label in range(classes)
    ]
    caused = torch.stack([_vector(torch.autograd.grad(loss, parameters, retain_graph=True)) for loss in losses])
    observed = _vector(
        [gradient.get(name, torch.zeros_like(value)) for name, value in zip(names, parameters, strict=True)]
    )
    scale = caused.norm().clamp_min(1e-30)
    products, seen = caused @ caused.T / scale**2, caused @ observed / scale**2  # (classes, classes), (classes,)
    shares, step = torch.full_like(seen, 1 / classes), 1 / products.diagonal().sum().clamp_min(1e-30)
    for _ in range(2000):
        shares = _simplex(shares - step * (products @ shares - seen))
    return shares.to(probes)


def _vector(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])


def _last_called(model: nn.Module, probes: Tensor) -> list[str]:
    """Names of the trained parameters of the module that finishes last, of those that have any of their own."""
    seen: list[list[str]] = []
    handles = []
    for prefix, module in model.named_modules():
        own = [
            f"{prefix}.{name}".strip(".") for name, one in module.named_parameters(recurse=False) if one.requires_grad
        ]
        if own:
            handles.append(module.register_forward_hook(lambda *_, own=own: seen.append(own)))
    try:
        model(probes)
    finally:
        for handle in handles:
            handle.remove()
    return seen[-1]


def _simplex(vector: Tensor) -> Tensor:
    """The nearest of the vectors (classes,) that are 0 or more and sum to 1 (Duchi et al. 2008)."""
    ordered = vector.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(vector) + 1, device=vector.device)
    return (vector - excess[int((ordered > excess).sum()) - 1]).clamp_min(0)


def _whole_photos(shares: Tensor, n: int) -> Tensor:
    """Shares rounded to multiples of 1/n that sum to 1 (largest remainders)."""
    photos = (shares * n).floor()
    missing = n - int(photos.sum())
    photos[(shares * n - photos).argsort(descending=True, stable=True)[:missing]] += 1
    return photos / n


def _unexplained(softmax: Tensor) -> Tensor:
    """a () from answers (m, classes)."""
    q = softmax.mean(0)
    return (softmax * (1 - softmax)).mean(0).sum() / (q * (1 - q)).sum().clamp_min(1e-12)


def _softmax(model: nn.Module, probes: Tensor) -> Tensor:
    logits: Tensor = model(probes)
    return logits.softmax(1)


def _features(model: nn.Module, name: str, probes: Tensor) -> Tensor:
    """The inputs (m, d) of the layer `name`."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model(probes)
    finally:
        handle.remove()
    return seen[-1]
