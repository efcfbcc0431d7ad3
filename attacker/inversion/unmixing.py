"""Blind source separation: images from linear mixtures of them, without knowing the mixture.

Independent component analysis looks for combinations of the mixtures that look least like a mixture: sums of many
images are nearly normally distributed, single images are not. It wants independent sources, and photos of one face are
anything but: their pixels rise and fall together. Yet a filter commutes with mixing, so the same combinations part the
mixtures' derivatives, which say little of each other (Hyvaerinen 1998 on innovations) and are mostly near zero, seldom
large.

Two objectives for the combinations W (n, n) of whitened signals z, y = W z:

- `log_likelihood` (Cardoso 1997): log |det W| + mean log p(y), with p of heavy tails and jointly of all colours and
  directions at a pixel, where an edge shows in all. Sources may correlate; log |det W| keeps two from being one.
- `negentropy` (Kariyappa et al. 2023): rows of norm 1 with non-normal y, a penalty on rows that are alike, and on the
  total variation of the images.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attacker.inversion.descent import Adam, cosine_decay

Objective = Callable[[Tensor], Tensor]  # of W (n, n), to be maximised

FREEDOM = 0.5  # degrees, of the t-distribution of a source's derivatives; fewer or more (0.1 to 1) change little
SHARPNESS = 5.0  # by which likeness of rows is penalised the more, the more alike (the paper's T)
NORMAL = 0.3745672  # mean log cosh of a standard normal variable
RATE = 0.01  # Adam's first
HISTORY = 20  # steps from which L-BFGS knows the curvature


def derivatives(images: Tensor, order: int) -> Tensor:
    """All partial differences of that order of images (n, 3, H, W): (n, 3 * (order + 1), m). 0: the pixels, centred."""
    if order == 0:
        return (images - images.mean((1, 2, 3), keepdim=True)).flatten(2)
    rows, columns = images.shape[2] - order, images.shape[3] - order
    parts = [images.diff(n=down, dim=2).diff(n=order - down, dim=3) for down in range(order + 1)]
    return torch.cat([part[:, :, :rows, :columns].flatten(2) for part in parts], dim=1)


def whitening(signals: Tensor) -> Tensor:
    """The matrix (n, n) that makes signals (n, c, m) uncorrelated with mean square 1; falling by their variance."""
    flat = signals.flatten(1)
    values, vectors = torch.linalg.eigh(flat @ flat.T / flat.shape[1])
    matrix: Tensor = (vectors / values.clamp_min(values[-1] * 1e-15).sqrt()).T.flip(0)
    return matrix


def log_likelihood(z: Tensor) -> Objective:
    """The mean log likelihood of W, up to a constant, for whitened signals z (n, c, m)."""
    channels, flat = z.shape[1], z.flatten(1)

    def objective(w: Tensor) -> Tensor:
        square = (w @ flat).view_as(z).square().sum(1)  # (n, m)
        tails = (FREEDOM + channels) / 2 * torch.log1p(square / FREEDOM).mean(1).sum()
        value: Tensor = channels * torch.linalg.slogdet(w)[1] - tails
        return value

    return objective


def negentropy(z: Tensor, images: Tensor, tv: float, independence: float) -> Objective:
    """That of W, with rows taken at norm 1, for whitened signals z (n, c, m) and the same mixtures as images.

    `images` (n, 3, H, W) enter with weight `tv`, the rows' likeness with weight `independence`.
    """
    flat, count = z.flatten(1), len(z)
    others = max(count * (count - 1), 1)

    def objective(w: Tensor) -> Tensor:
        rows = F.normalize(w, dim=1)
        y = rows @ flat
        log_cosh = F.softplus(2 * y) - y - math.log(2)
        unlike_normal = (log_cosh.mean(1) - NORMAL).square().mean()
        shown = (rows @ images.flatten(1)).view_as(images)
        variation = shown.diff(dim=2).abs().mean() + shown.diff(dim=3).abs().mean()
        alike = (rows @ rows.T).abs() * (1 - torch.eye(count))
        penalty = ((SHARPNESS * alike).exp() - 1).sum() / others
        return unlike_normal - tv * variation - independence * penalty

    return objective


def by_newton(objective: Objective, count: int, steps: int) -> Tensor:
    """W (count, count), double, after at most so many steps of L-BFGS from the identity."""
    from scipy.optimize import minimize  # here, not above: a second, in every worker

    def falling(flat: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat).view(count, count).float().requires_grad_(True)
        value = -objective(w)
        return float(value.detach()), torch.autograd.grad(value, w)[0].double().flatten().numpy()

    limits = {"maxiter": steps, "maxcor": HISTORY, "ftol": 1e-9, "gtol": 1e-6}
    found = minimize(falling, np.eye(count).flatten(), jac=True, method="L-BFGS-B", options=limits)
    return torch.from_numpy(found.x).view(count, count)


def by_adam(objective: Objective, count: int, steps: int) -> Tensor:
    """The same after so many steps of Adam."""
    w, move, rate = torch.eye(count), Adam(pixelwise=True), cosine_decay(RATE)
    for step in range(steps):
        w.requires_grad_(True)
        (grad,) = torch.autograd.grad(-objective(w), w)
        w = w.detach() - rate(step / steps) * move(grad)
    return F.normalize(w, dim=1).double()
