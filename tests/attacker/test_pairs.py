import pytest
import torch

from attacker import mean_faces
from attacker.pairs import Album, Pairs, face_space

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


def test_a_mean_is_of_photos_of_the_set_that_the_photo_is_of(clean):
    given = album([0] * 6 + [1] * 6, [0, 1] * 6)
    known = {frozenset(one.tolist()) for one in given.sets()}
    pairs = Pairs(given, face_space(given, 0), CPU)
    photos, means = pairs.draw(200, 0, "test")
    shown = ((photos[:, 0, 0, 0] + 1) / 2 * 255 / 10).round().int().tolist()
    levels = (means[:, 0, 0, 0] + 1) / 2 * 255 / 10
    for photo, level in zip(shown, levels.tolist(), strict=True):
        assert any(photo in one and min(one) <= level <= max(one) for one in known)
    assert set(shown) == set(range(12))


def test_a_single_photo_is_its_own_mean(clean):
    given = album([0, 1], [0, 1])
    photos, means = Pairs(given, face_space(given, 0), CPU).draw(8, 0, "test")
    assert torch.equal(photos, means)


def test_both_of_a_pair_are_mirrored_or_neither(clean):
    given = Album(
        torch.arange(16, dtype=torch.uint8).expand(4, 3, 16, 16), torch.zeros(4).long(), torch.zeros(4).long()
    )
    photos, means = Pairs(given, face_space(given, 0), CPU).draw(32, 0, "test")
    assert torch.allclose(photos, means)
    rising = photos[:, 0, 0, 0] < photos[:, 0, 0, -1]
    assert 4 < int(rising.sum()) < 28


def test_a_draw_depends_on_its_names_alone():
    given = album([0] * 8, [0, 1] * 4)
    space = face_space(given, 0)
    pairs = Pairs(given, space, CPU)
    first = pairs.draw(4, 0, "batch", 3)
    pairs.draw(4, 0, "batch", 4)
    again = Pairs(given, space, CPU).draw(4, 0, "batch", 3)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_an_album_says_what_it_needs():
    with pytest.raises(ValueError, match="uint8 needed"):
        Album(torch.rand(4, 3, 16, 16), torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match="each photo needs a person and a label"):
        Album(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.zeros(3), torch.zeros(4))
