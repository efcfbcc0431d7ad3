"""Laws of ranks and thresholds in the gallery."""

import pytest
import torch
from pattern_run import Patterns, embed
from torch.nn import functional as F

from experiments.evaluate.gallery import Gallery, build_gallery
from fl_sim.seeds import generator


def test_random_embeddings_give_uniform_ranks() -> None:
    draw = generator(0, "random")
    templates = F.normalize(torch.randn(20, 64, generator=draw), dim=1)
    probes = F.normalize(torch.randn(4000, 64, generator=draw), dim=1)
    gallery = Gallery(templates, 20, torch.zeros(1), torch.zeros(3, 1, 1))
    ranks = torch.tensor([gallery.rank(probe, i % 20) or 0 for i, probe in enumerate(probes)])
    counts = torch.bincount(ranks, minlength=21)[1:]
    assert counts.sum() == 4000
    chi2 = float(((counts - 200) ** 2 / 200).sum())
    assert chi2 < 43.8  # 99.9 % quantile at 19 degrees of freedom


def test_ties_count_against_the_attacker() -> None:
    gallery = build_gallery(Patterns(), embed, 20)
    assert gallery.rank(torch.zeros(48), 0) == 20
    assert gallery.rank(torch.full((48,), torch.nan), 0) is None


@pytest.mark.parametrize("far", [1e-1, 1e-2, 1e-3])
def test_thresholds_yield_the_stated_false_acceptance_rate_on_the_impostors(far: float) -> None:
    gallery = build_gallery(Patterns(), embed, 44)
    accepted = float((gallery.impostors > gallery.threshold(far)).double().mean())
    assert len(gallery.impostors) == 44 * 43
    assert far - 1 / len(gallery.impostors) <= accepted <= far


def test_each_user_is_ranked_among_gallery_size_people_even_if_users_are_more() -> None:
    gallery = build_gallery(Patterns(num_users=30), embed, 5)
    for user in (0, 29):
        own = embed(Patterns().user(user).held_out.photos[:1])[0]
        assert gallery.rank(own, user) == 1
        assert gallery.rank(-own, user) == 5
