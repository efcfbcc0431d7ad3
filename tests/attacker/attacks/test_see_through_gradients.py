"""GradInversion: seeds that agree, and batch-norm statistics that pull where the threat model grants them."""

import dataclasses

import torch
from tiny_faces import normed_net

from attacker.attack import Attacker
from attacker.attacks import see_through_gradients
from attacker.attacks.see_through_gradients import Settings, regularisers, statistics_gradient
from attacker.observation import Observation, Reconstruction
from clients.local_training import local_gradient
from clients.user import Faces
from fl_sim.models import batch_statistics, normalise
from fl_sim.seeds import generator

SIZE = 16


def victim() -> tuple[Attacker, Observation]:
    """An attacker, and what it sees of four photos of four labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = normed_net(4, SIZE).eval()
    photos = torch.rand(4, 3, SIZE, SIZE, generator=generator(0, "photos"))
    gradient = local_gradient(model, Faces(photos, torch.arange(4), {}))
    with torch.no_grad():
        statistics = batch_statistics(model, normalise(photos))
    seen = Observation(1, 0, dict(model.state_dict()), gradient, 4, torch.full((4,), 0.25), statistics=statistics)
    return Attacker(model, SIZE, 4, None, torch.device("cpu")), seen


def run(attacker: Attacker, seen: Observation, **settings: float) -> Reconstruction:
    (found,) = see_through_gradients.attack(
        [seen], attacker, Settings(**settings), [generator(0, "attack")], lambda done, total: None
    )
    return found


def distance(attacker: Attacker, images: torch.Tensor, told: dict[str, torch.Tensor]) -> float:
    """Mean relative distance of the images' batch-norm statistics to those told."""
    with torch.no_grad():
        found = batch_statistics(attacker.model, normalise(images))
    return float(torch.stack([(found[name] - value).norm() / value.norm() for name, value in told.items()]).mean())


def test_more_steps_match_better() -> None:
    attacker, seen = victim()
    short, long = (run(attacker, seen, steps=steps, seeds=2) for steps in (1, 20))
    assert long.matching_loss < 0.5 * short.matching_loss


def test_the_statistics_are_heeded_where_they_are_granted_and_nothing_is_made_of_their_absence() -> None:
    attacker, seen = victim()
    assert seen.statistics is not None
    told, deaf = (run(attacker, seen, steps=20, seeds=1, statistics=weight) for weight in (1.0, 0.0))
    not_told = run(attacker, dataclasses.replace(seen, statistics=None), steps=20, seeds=1, statistics=1.0)
    assert distance(attacker, told.images, seen.statistics) < 0.5 * distance(attacker, deaf.images, seen.statistics)
    assert torch.equal(deaf.images, not_told.images)


def test_steps_along_the_statistics_lead_to_those_of_the_photos() -> None:
    attacker, seen = victim()
    assert seen.statistics is not None
    x = normalise(torch.rand(1, 4, 3, SIZE, SIZE, generator=generator(1, "photos")))
    before = distance(attacker, (x[0] + 1) / 2, seen.statistics)
    grad = statistics_gradient(attacker.model, x, seen.statistics)
    after = distance(attacker, (x[0] - 0.5 * grad[0] / grad.norm() + 1) / 2, seen.statistics)
    assert after < before


def test_group_consistency_draws_the_seeds_towards_their_mean_and_leaves_a_mean_alone() -> None:
    x = torch.randn(3, 2, 3, SIZE, SIZE, generator=generator(0, "x"))
    settings = Settings(tv=0, l2=0, group=1.0)
    assert torch.allclose(regularisers(x, settings).sum(0), torch.zeros(2, 3, SIZE, SIZE), atol=1e-6)
    moved = x - 10 * regularisers(x, settings)
    assert float(moved.var(0).mean()) < float(x.var(0).mean())
    assert float(regularisers(x[:1], settings).abs().max()) == 0
