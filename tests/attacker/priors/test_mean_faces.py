import pytest
import torch

from attacker.priors import eigenfaces, mean_faces
from fl_sim.seeds import generator


@pytest.fixture(scope="module", params=[16, 24])
def photos(request):
    """Smooth pictures (64, 3, S, S) in [0, 1]."""
    coarse = torch.rand(64, 3, 4, 4, generator=generator(0, "photos"))
    return torch.nn.functional.interpolate(coarse, request.param, mode="bicubic").clamp(0, 1)


def damage(photos, seed=0, count=64):
    means = (photos * 2 - 1)[:count]
    return mean_faces.damaged(means, eigenfaces.fit(photos), generator(seed, "damage"))


def undisturbed(monkeypatch):
    """No noise, and nothing scaled."""
    for name in ("DISTURBANCE", "GRAIN"):
        monkeypatch.setattr(mean_faces, name, (1e-9, 1e-9))
    for name in ("FIRST_GAIN", "LAST_GAIN", "REST_GAIN"):
        monkeypatch.setattr(mean_faces, name, (1.0, 1.0))


def test_without_damage_a_mean_stays_what_it_is(photos, monkeypatch):
    undisturbed(monkeypatch)
    assert torch.allclose(damage(photos), photos * 2 - 1, atol=1e-4)


def test_damage_is_in_range_and_decided_by_the_generator(photos):
    seen = damage(photos)
    assert seen.shape == photos.shape
    assert float(seen.abs().max()) <= 1
    assert torch.equal(seen, damage(photos))
    assert not torch.equal(seen, damage(photos, seed=1))


def test_a_gain_of_nothing_leaves_the_mean_of_all_faces(photos, monkeypatch):
    undisturbed(monkeypatch)
    for name in ("FIRST_GAIN", "LAST_GAIN", "REST_GAIN"):
        monkeypatch.setattr(mean_faces, name, (0.0, 0.0))
    assert torch.allclose(damage(photos), eigenfaces.fit(photos).mean.expand_as(photos), atol=1e-4)


def test_components_are_disturbed_in_proportion_to_how_faces_differ_along_them(photos, monkeypatch):
    undisturbed(monkeypatch)
    monkeypatch.setattr(mean_faces, "DISTURBANCE", (0.1, 0.1))
    monkeypatch.setattr(mean_faces, "EVENNESS", 0.0)
    space = eigenfaces.fit(photos)
    means = space.mean.expand(2000, -1, -1, -1)
    found = (mean_faces.damaged(means, space, generator(0, "damage")) - means).flatten(1) @ space.components[:20].T
    assert torch.allclose(found.std(0) / space.deviations[:20], torch.tensor(0.1), rtol=0.1)


def test_the_levels_of_damage_span_more_than_an_order_of_magnitude(photos):
    moved = (damage(photos) - (photos * 2 - 1)).flatten(1).std(1)
    assert float(moved.quantile(0.95) / moved.quantile(0.05)) > 5


def test_faces_that_are_all_alike_are_disturbed_by_finite_numbers():
    alike = torch.full((4, 3, 16, 16), 0.5)
    assert bool(torch.isfinite(damage(alike)).all())
