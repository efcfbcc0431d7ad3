"""Laws of the synthetic face renderer."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from clients.datasets.face_parts import nose_height
from clients.datasets.renderer import (
    IDENTITY_PARAMETERS,
    NUISANCE_PARAMETERS,
    attributes,
    render,
    sample_identity,
    sample_nuisance,
)

NAMES = [p.name for p in NUISANCE_PARAMETERS]
COLUMNS = [p.name for p in IDENTITY_PARAMETERS]
CLASSES = {
    "glasses": 2,
    "beard": 2,
    "hair_color": 5,
    "long_hair": 2,
    "age_group": 3,
    "skin_tone": 3,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small pictures gain nothing from more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def codes(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """Seeded identity and nuisance codes of n photos of n people."""
    generator = torch.Generator().manual_seed(seed)
    return sample_identity(generator, n), sample_nuisance(generator, n)


def with_nuisance(nuisance: Tensor, **values: float) -> Tensor:
    """The same codes with some columns set."""
    out = nuisance.clone()
    for name, value in values.items():
        out[:, NAMES.index(name)] = value
    return out


def test_tables_are_documented_and_rich() -> None:
    names = [p.name for p in (*IDENTITY_PARAMETERS, *NUISANCE_PARAMETERS)]
    assert len(IDENTITY_PARAMETERS) >= 35
    assert len(set(names)) == len(names)
    assert all(p.meaning for p in (*IDENTITY_PARAMETERS, *NUISANCE_PARAMETERS))


def test_samples_are_codes_fixed_by_the_generator() -> None:
    state = torch.get_rng_state()
    one, two, other = codes(3, 50), codes(3, 50), codes(4, 50)
    assert one[0].shape == (50, len(IDENTITY_PARAMETERS))
    assert one[1].shape == (50, len(NUISANCE_PARAMETERS))
    for a, b, c in zip(one, two, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert a.min() >= 0.0
        assert a.max() <= 1.0
    render(*one, 32)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_picture_does_not_depend_on_its_batch(size: int) -> None:
    identity, nuisance = codes(0, 18)
    noise = torch.randn(18, 3, size, size, generator=torch.Generator().manual_seed(1))
    whole = render(identity, nuisance, size, noise)
    assert whole.shape == (18, 3, size, size)
    assert whole.dtype == torch.float32
    assert whole.min() >= 0.0
    assert whole.max() <= 1.0
    assert torch.equal(whole, render(identity, nuisance, size, noise))
    for i in (0, 17):
        part = slice(i, i + 1)
        alone = render(identity[part], nuisance[part], size, noise[part])
        assert torch.allclose(alone[0], whole[i], atol=1e-5)


def test_an_empty_batch_gives_no_pictures() -> None:
    identity, nuisance = codes(0, 1)
    assert render(identity[:0], nuisance[:0], 32).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_extreme_codes_give_proper_pictures(corner: float) -> None:
    identity, nuisance = codes(5, 4)
    far = torch.full_like(nuisance, corner)
    for a in (identity, torch.full_like(identity, corner)):
        for b in (nuisance, far):
            picture = render(a, b, 64)
            assert torch.isfinite(picture).all()
            assert picture.min() >= 0.0
            assert picture.max() <= 1.0
            assert picture.std() > 0.02


def test_every_identity_parameter_is_visible() -> None:
    people = 4
    identity, nuisance = codes(7, people)
    for name in ("beard", "glasses", "freckles"):  # so that their details can show
        identity[:, COLUMNS.index(name)] = 0.9
    identity[:, COLUMNS.index("fringe")] = 0.1
    count = len(COLUMNS)
    low = identity.repeat(count, 1).reshape(count, people, -1)
    high = low.clone()
    for column in range(count):
        low[column, :, column], high[column, :, column] = 0.05, 0.95
    photos = nuisance.repeat(count, 1)
    change = render(low.flatten(0, 1), photos, 64) - render(high.flatten(0, 1), photos, 64)
    strongest = change.abs().amax(dim=(1, 2, 3)).reshape(count, people).mean(1)
    hidden = [n for n, s in zip(COLUMNS, strongest.tolist(), strict=True) if s < 0.05]
    assert not hidden


def test_people_differ_more_than_expressions_of_one_person() -> None:
    identity, nuisance = codes(8, 40)
    same_photo = nuisance[:1].expand(40, -1)
    base = render(identity, same_photo, 64)
    smiling = render(identity, with_nuisance(same_photo, smile=0.9), 64)
    others = (base - base.roll(1, 0)).abs().mean()
    assert others > 3.0 * (base - smiling).abs().mean()


def test_attributes_are_balanced_labels() -> None:
    identity, _ = codes(9, 4000)
    labels = attributes(identity)
    assert set(labels) == set(CLASSES)
    for name, count in CLASSES.items():
        values = labels[name]
        assert values.shape == (4000,)
        assert values.dtype == torch.int64
        rates = torch.bincount(values, minlength=count).float() / 4000
        assert len(rates) == count
        assert rates.min() > 0.08, (name, rates)
        assert rates.max() < 0.70, (name, rates)


def test_smile_labels_are_balanced_and_visible_at_the_mouth() -> None:
    identity, nuisance = codes(10, 2000)
    smile = nuisance[:, NAMES.index("smile")]
    assert 0.45 < (smile > 0.5).float().mean() < 0.55
    assert ((smile - 0.5).abs() > 0.15).all()
    identity, nuisance = identity[:16], nuisance[:16]
    rest = render(identity, with_nuisance(nuisance, smile=0.15), 64)
    glad = render(identity, with_nuisance(nuisance, smile=0.85), 64)
    change = (rest - glad).abs().mean(dim=(0, 1))
    mouth, top = change[36:56, 16:48].mean(), change[:16].mean()
    assert mouth > 0.01
    assert mouth > 5.0 * top


def test_sizes_agree() -> None:
    identity, nuisance = codes(11, 12)
    large, middle, small = (render(identity, nuisance, s) for s in (128, 64, 32))
    assert (avg_pool2d(large, 2) - middle).abs().mean() < 0.02
    assert (avg_pool2d(middle, 2) - small).abs().mean() < 0.03


def test_noise_is_zero_mean_grain() -> None:
    identity, nuisance = codes(12, 4)
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    clean, noisy = render(identity, nuisance, 64), render(identity, nuisance, 64, noise)
    grain = noisy - clean
    assert 0.001 < grain.std() < 0.05
    assert grain.mean().abs() < 0.002


def test_the_nose_stands_out_so_yaw_moves_it_more_than_the_cheeks() -> None:
    spot = COLUMNS.index("mole_x")
    identity, nuisance = codes(13, 1)
    identity[:, spot : spot + 2] = torch.tensor([0.5, 0.55])
    columns = torch.arange(64, dtype=torch.float32)

    def centre(mole: float, yaw: float) -> float:
        person = identity.clone()
        person[:, spot], person[:, spot + 2] = mole, 1.0
        bare = person.clone()
        bare[:, spot + 1] = 0.0
        photo = with_nuisance(nuisance, yaw=yaw, pitch=0.5, roll=0.5)
        change = (render(person, photo, 64) - render(bare, photo, 64)).abs().sum(1)[0, 30:46]
        return float((change.sum(0) * columns).sum() / change.sum())

    nose = centre(0.5, 0.65) - centre(0.5, 0.35)
    cheek = centre(0.05, 0.65) - centre(0.05, 0.35)
    assert nose > 1.2 * cheek > 0.0
    values = {
        "nose_length": torch.tensor(0.38),
        "nose_bridge": torch.tensor(0.08),
        "nose_tip": torch.tensor(0.10),
    }
    tip, side = torch.tensor(-0.38), torch.tensor(0.4)
    assert nose_height(torch.zeros(()), tip, values) > 0.1
    assert nose_height(side, tip, values) == 0.0
