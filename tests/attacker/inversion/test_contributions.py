"""Whose photos weigh how much in an update: what representatives are weighted by."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacker.attack import Attacker
from attacker.inversion.representatives import known_labels
from attacker.observation import Observation
from attacker.priors import eigenfaces
from fl_sim.models import normalise, trainable
from fl_sim.seeds import generator
from fl_sim.traits import Traits

SIZE, USERS, PHOTOS = 16, 20, 30
DARK = 0.3  # mean brightness of photos here, where noise in [-1, 1] has 0.5


def photos(name: str, count: int) -> Tensor:
    """Photos (count, 3, SIZE, SIZE) in [0, 1] that differ in brightness and a little in all else."""
    draw = generator(0, "contributions", name)
    light = DARK + 0.06 * torch.randn(count, 1, 1, 1, generator=draw)
    return (light + 0.02 * torch.randn(count, 3, SIZE, SIZE, generator=draw)).clamp(0, 1)


def calibrated() -> nn.Module:
    """Says of a photo how likely its label is 1, by its brightness: one half at that of most photos."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 2))
    steepness = 16.0  # of the logit by the mean of an image in [-1, 1], about 2 a standard deviation of photos
    with torch.no_grad():
        model[1].weight[0], model[1].bias[0] = 0.0, 0.0
        model[1].weight[1], model[1].bias[1] = steepness / (3 * SIZE**2), -steepness * (DARK * 2 - 1)
    return model


def error(space: eigenfaces.Eigenfaces | None, told: bool = False) -> float:
    """How far the share of label 0 is off its photos' part of the residuals 1 - p(label), in the mean over users.

    `told`: the threat model grants how many photos have each label.
    """
    model, missed = calibrated(), []
    attacker = Attacker(model, SIZE, 2, None, torch.device("cpu"), space)
    for user in range(USERS):
        images = normalise(photos(f"user {user}", PHOTOS))
        logits = model(images)
        likely = logits.detach().softmax(1)
        labels = torch.bernoulli(likely[:, 1], generator=generator(0, "labels", user)).long()
        values = torch.autograd.grad(F.cross_entropy(logits, labels), list(model.parameters()))
        update = dict(zip(trainable(model), values, strict=True))
        residuals = 1 - likely[torch.arange(PHOTOS), labels]
        shares = labels.bincount(minlength=2) / PHOTOS if told else None
        seen = known_labels(Observation(1, user, trainable(model), update, PHOTOS, shares), model, attacker)
        assert shares is None or torch.equal(seen.photos, shares)
        missed.append(abs(float(seen.contributed[0] - residuals[labels == 0].sum() / residuals.sum())))
    return sum(missed) / USERS


def test_what_a_label_contributes_is_read_with_faces_as_probes_not_with_noise() -> None:
    """A model that has learnt answers otherwise on noise than on faces; representatives would be weighted wrongly."""
    assert error(eigenfaces.fit(photos("public", 500))) < 0.1
    assert error(None) > 0.3


def test_told_labels_do_not_hide_what_each_contributes() -> None:
    """An attacker who is told more does not do worse: representatives are not weighted by how many photos there are."""
    assert error(eigenfaces.fit(photos("public", 500)), told=True) < 0.1


@pytest.mark.parametrize("case", ["untrained", "no public faces", "defended"])
def test_told_shares_stay_the_weights_where_the_update_cannot_better_them(case: str) -> None:
    """Whatever is read off the update: here that most, or half, of it is of label 0."""
    model, shares = calibrated(), torch.tensor([0.25, 0.75])
    if case == "untrained":
        torch.nn.init.zeros_(model[1].weight)
        torch.nn.init.zeros_(model[1].bias)
    space = None if case == "no public faces" else eigenfaces.fit(photos("public", 500))
    attacker = Attacker(model, SIZE, 2, None, torch.device("cpu"), space)
    defenses = (Traits(noise="gaussian"),) if case == "defended" else ()
    update = {name: torch.ones_like(value) for name, value in trainable(model).items()}
    update["1.bias"] = torch.tensor([-0.5, 0.5])
    told = Observation(1, 0, trainable(model), update, PHOTOS, shares, defenses=defenses)
    blind = dataclasses.replace(told, label_proportions=None)
    assert known_labels(blind, model, attacker).contributed[0] >= 0.5
    assert torch.equal(known_labels(told, model, attacker).contributed, shares)


def test_a_label_that_is_told_to_be_absent_contributes_nothing() -> None:
    model = calibrated()
    images = normalise(photos("one label", PHOTOS) + 0.1)  # known well: the update is faint, and read as of both labels
    labels = torch.ones(PHOTOS, dtype=torch.int64)
    values = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
    update = dict(zip(trainable(model), values, strict=True))
    attacker = Attacker(model, SIZE, 2, None, torch.device("cpu"), eigenfaces.fit(photos("public", 500)))
    blind = Observation(1, 0, trainable(model), update, PHOTOS, None)
    told = dataclasses.replace(blind, label_proportions=torch.tensor([0.0, 1.0]))
    assert known_labels(blind, model, attacker).contributed.min() > 0.1
    assert known_labels(told, model, attacker).contributed.tolist() == [0, 1]
