import pytest
import torch

from attacker.priors import mean_faces
from attacker.priors.pairs import Album, Pairs, fit_eigenfaces

CPU = torch.device("cpu")


def album(people, labels):
    """Each photo of one grey, its index times 10."""
    grey = torch.arange(len(people), dtype=torch.uint8)[:, None, None, None] * 10
    return Album(grey.expand(-1, 3, 16, 16).clone(), torch.tensor(people), torch.tensor(labels))


def sets(people, labels):
    return [one.tolist() for one in album(people, labels).sets()]


@pytest.fixture
def clean(monkeypatch):
    """Means as they are, without damage."""
    monkeypatch.setattr(mean_faces, "damaged", lambda means, space, random: means)


def test_a_persons_photos_are_a_set_and_so_are_those_of_each_known_label():
    assert sets([7, 7, 7, 8], [0, 1, 0, 1]) == [[0, 1, 2], [0, 2], [1], [3]]
    assert sets([7, 7, 8], [-1, -1, 1]) == [[0, 1], [2]]


def levels(pictures):
    """The first pixel of pictures (n, 3, H, W) in [-1, 1], as `album` numbers greys."""
    return ((pictures[:, 0, 0, 0] + 1) / 2 * 255 / 10).tolist()


@pytest.mark.parametrize("without", [0.0, 1.0])
def test_a_photo_is_of_the_set_that_the_mean_is_of(without, clean):
    given = album([0] * 6 + [1] * 6, [0, 1] * 6)
    pairs = Pairs(given, fit_eigenfaces(given, 0), CPU)
    known = [one.tolist() for one in given.sets()]
    photos, means = pairs.draw(200, without, 0, "test")
    shown = [round(level) for level in levels(photos)]
    assert set(shown) == set(range(12))
    for photo, mean in zip(shown, levels(means), strict=True):
        assert without or any(photo in one and min(one) <= mean <= max(one) for one in known)


def test_a_mean_face_goes_with_one_of_the_photos_nearest_to_it(clean):
    given = album([0] * 20, [0] * 20)
    photos, means = Pairs(given, fit_eigenfaces(given, 0), CPU).draw(200, 0.0, 0, "test")
    typical, chance = (torch.tensor(levels(photos)) - torch.tensor(levels(means))).abs().mean(), 20 / 4
    assert float(typical) < 0.7 * chance


def test_a_share_has_zeros_for_a_mean(clean):
    given = album([0] * 8, [0, 1] * 4)
    pairs = Pairs(given, fit_eigenfaces(given, 0), CPU)
    for without in (0.0, 0.3, 1.0):
        means = pairs.draw(400, without, 0, "test")[1]
        assert float((means == 0).all((1, 2, 3)).float().mean()) == pytest.approx(without, abs=0.08)


def test_a_single_photo_is_its_own_mean(clean):
    given = album([0, 1], [0, 1])
    photos, means = Pairs(given, fit_eigenfaces(given, 0), CPU).draw(8, 0.0, 0, "test")
    assert torch.equal(photos, means)


def test_both_of_a_pair_are_mirrored_or_neither(clean):
    given = Album(
        torch.arange(16, dtype=torch.uint8).expand(4, 3, 16, 16), torch.zeros(4).long(), torch.zeros(4).long()
    )
    photos, means = Pairs(given, fit_eigenfaces(given, 0), CPU).draw(32, 0.0, 0, "test")
    assert torch.allclose(photos, means)
    rising = photos[:, 0, 0, 0] < photos[:, 0, 0, -1]
    assert 4 < int(rising.sum()) < 28


def test_a_draw_depends_on_its_names_alone():
    given = album([0] * 8, [0, 1] * 4)
    space = fit_eigenfaces(given, 0)
    pairs = Pairs(given, space, CPU)
    first = pairs.draw(4, 0.2, 0, "batch", 3)
    pairs.draw(4, 0.2, 0, "batch", 4)
    again = Pairs(given, space, CPU).draw(4, 0.2, 0, "batch", 3)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_an_album_says_what_it_needs():
    with pytest.raises(ValueError, match="uint8 needed"):
        Album(torch.rand(4, 3, 16, 16), torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match="each photo needs a person and a label"):
        Album(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.zeros(3), torch.zeros(4))
