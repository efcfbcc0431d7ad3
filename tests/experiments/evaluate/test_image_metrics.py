"""PSNR, SSIM and LPIPS against independent implementations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from experiments.evaluate import image_metrics
from fl_sim.config import Leakage
from fl_sim.seeds import generator


def photos(n: int = 2) -> Tensor:
    smooth = torch.rand(n, 3, 8, 8, generator=generator(0, "photos"))
    return torch.nn.functional.interpolate(smooth, size=(40, 40), mode="bilinear")


def ssim_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004 in loops: one channel after the other, one window after the other."""
    offset = np.arange(11) - 5
    window = np.exp(-(offset**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    values = []
    for channels in zip(a.astype(float), b.astype(float), strict=True):
        x, y = (np.pad(channel, 5, mode="reflect") for channel in channels)
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
                cov = (window * p * q).sum() - mp * mq
                top = (2 * mp * mq + 0.01**2) * (2 * cov + 0.03**2)
                values.append(top / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2)))
    return float(np.mean(values))


def test_ssim_is_that_of_the_paper_and_of_the_best_photo() -> None:
    several = photos()
    picture = (several[1] + 0.1 * torch.randn(several[1].shape, generator=generator(0, "noise"))).clamp(0, 1)
    expected = max(ssim_by_hand(picture.numpy(), photo.numpy()) for photo in several)
    assert image_metrics.ssim_to(several)(picture) == pytest.approx(expected, abs=1e-3)
    library = structural_similarity_index_measure(picture.expand_as(several), several, data_range=1.0, reduction="none")
    assert image_metrics.ssim_to(several)(picture) == pytest.approx(float(library.max()), abs=1e-5)


def test_psnr_is_the_formula_of_the_best_photo() -> None:
    several = photos()
    picture = several[1] * 0.9
    expected = max(-10 * np.log10(np.mean((photo.numpy().astype(float) - picture.numpy()) ** 2)) for photo in several)
    assert image_metrics.best_psnr(picture, several) == pytest.approx(expected, rel=1e-5)


def test_a_photo_itself_is_perfect() -> None:
    several = photos()
    assert image_metrics.best_psnr(several[1], several) == float("inf")
    assert image_metrics.ssim_to(several)(several[1]) == pytest.approx(1.0)


def alexnet_file(folder: Path) -> Path:
    from torchvision.models import alexnet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(alexnet().state_dict(), folder / image_metrics.ALEXNET)
    return folder / image_metrics.ALEXNET


def test_lpips_takes_its_backbone_from_the_file(tmp_path: Path) -> None:
    weights = alexnet_file(tmp_path)
    several = photos()
    net = image_metrics._lpips(weights)
    state = torch.load(weights, weights_only=True)
    layers = {name.rpartition(".")[2]: layer for name, layer in net.net.named_modules()}
    assert torch.equal(layers["0"].weight, state["features.0.weight"])
    assert torch.equal(layers["10"].weight, state["features.10.weight"])
    assert image_metrics.best_lpips(several[0], several, weights) == pytest.approx(0.0, abs=1e-6)
    assert image_metrics.best_lpips(1 - several[0], several, weights) > 0


def test_lpips_without_weights_is_told_in_a_sentence(tmp_path: Path) -> None:
    absent = Leakage(lpips_weights=tmp_path)
    sentence = image_metrics.lpips_available(absent)
    assert sentence is not None
    assert "lpips_weights" in sentence
    (tmp_path / image_metrics.ALEXNET).touch()
    assert image_metrics.lpips_available(absent) is None
