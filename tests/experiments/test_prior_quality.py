import pytest
import torch

from experiments import prior_quality
from fl_sim.seeds import generator


def cloud(seed, shift=0.0, n=200):
    return torch.randn(n, 4, generator=generator(seed)) + shift


def test_equal_clouds_are_at_distance_zero_and_shifted_ones_at_their_shift():
    assert prior_quality.frechet(cloud(0), cloud(0)) == pytest.approx(0, abs=1e-6)
    assert prior_quality.frechet(cloud(0), cloud(0) + 2) == pytest.approx(4 * 2**2, rel=1e-6)


def test_precision_is_high_for_the_same_kind_and_zero_far_away():
    assert prior_quality.precision(cloud(0), cloud(0)) == 1
    assert prior_quality.precision(cloud(1), cloud(0)) > 0.7
    assert prior_quality.precision(cloud(1, shift=30), cloud(0)) == 0


@pytest.mark.slow
def test_blurred_faces_are_told_from_rendered_ones():
    from clients.datasets.synthetic import training_photos
    from experiments.embedders import synthetic

    samples = training_photos("quality-samples", 96, 64, 1, 0).photos.float() / 255
    found = prior_quality.compare(samples, synthetic(), 0)
    assert found["samples"]["recall"] > found["blurred"]["recall"] + 0.3
    assert found["samples"]["frechet"] < 0.5 * found["blurred"]["frechet"]
