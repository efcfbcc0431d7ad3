"""Laws of the training of the identity net; its skill is tested with the shipped weights."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from experiments.evaluate import identity_net
from experiments.train import identity as training
from fl_sim.seeds import generator


def test_the_contrastive_loss_is_that_of_the_paper() -> None:
    embeddings = F.normalize(torch.randn(6, 5, generator=generator(0, "embeddings")), dim=1)
    person = torch.tensor([0, 0, 0, 1, 1, 1])
    expected = 0.0
    for i in range(6):
        others = [a for a in range(6) if a != i]
        total = sum(math.exp(8 * float(embeddings[i] @ embeddings[a])) for a in others)
        mates = [p for p in others if person[p] == person[i]]
        expected -= sum(8 * float(embeddings[i] @ embeddings[p]) - math.log(total) for p in mates) / len(mates) / 6
    assert float(training.contrastive(embeddings, person, 8.0)) == pytest.approx(expected, rel=1e-5)


def test_augmented_photos_keep_shape_and_range_and_show_the_same_people() -> None:
    people = training.synthetic_people(generator(0, "people"), 6, 3)
    seen = training.augment(people.photos, generator(0, "augment"))
    assert seen.shape == people.photos.shape
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 1
    assert not torch.equal(seen, people.photos)
    small, plain = (F.adaptive_avg_pool2d(p.flatten(0, 1), 8).flatten(1) for p in (seen, people.photos))
    assert torch.equal(torch.cdist(small, plain).argmin(1) // 3, torch.arange(18) // 3)


def test_blur_keeps_the_mean_and_sigma_0_is_the_identity() -> None:
    photos = torch.rand(2, 3, 64, 64, generator=generator(0, "photos"))
    torch.testing.assert_close(training.blur(photos, 0.0), photos)
    torch.testing.assert_close(training.blur(torch.full_like(photos, 0.3), 2.0), torch.full_like(photos, 0.3))
    assert float(training.blur(photos, 2.0).std()) < 0.3 * float(photos.std())


@pytest.mark.slow
def test_the_same_seed_trains_the_same_net_and_another_seed_another(tmp_path: Path) -> None:
    nets = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = training.Settings(
            steps=2, people=4, photos=2, pool=60, pool_photos=2, renewed=1, unseen=4, seed=seed
        )
        before = torch.random.get_rng_state()
        training.train_identity(tmp_path / name, settings)
        assert torch.equal(before, torch.random.get_rng_state())
        nets.append(identity_net.load_net(tmp_path / name).state_dict())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert not all(torch.equal(nets[0][name], nets[2][name]) for name in nets[0])
    assert "metrics" in identity_net.facts(tmp_path / "a")


def test_the_figures_of_a_perfect_net_are_1() -> None:
    class Reader(torch.nn.Module):
        """Reads the person off the first pixel."""

        def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            person = (photos[:, 0, 0, 0] * 255).round().long()
            return F.one_hot(person, 128).float(), {"odd": F.one_hot(person % 2, 2).float()}

    who = torch.arange(100)
    photos = (who.float() / 255).view(100, 1, 1, 1, 1).expand(100, 3, 3, 64, 64)
    people = training.People(photos, torch.zeros(100, 1), {"odd": who % 2})
    figures = training.evaluate(Reader(), people)  # type: ignore[arg-type]
    assert figures == {"auc": 1.0, "rank1_of_100": 1.0, "same": 1.0, "different": 0.0, "attr_odd": 1.0}
