"""clients.testing tells honest defenses from those that break a law or claim too much."""

import random

import numpy as np
import pytest
import torch

from clients.testing import check_defense
from fl_sim.config import ConfigError


def factory(kind, **settings):
    """A third party's defense of this file."""
    return {"name": f"{__name__}:{kind}", **settings}


def shrink(factor=0.5):
    return lambda update, generator: {name: value * factor for name, value in update.items()}


def noise(std=0.1, shift=0.0):
    def defend(update, generator):
        return {
            name: value + shift + std * torch.randn(value.shape, generator=generator, dtype=value.dtype)
            for name, value in update.items()
        }

    return defend


def breaker(how):
    """A defense that breaks one law."""

    def defend(update, generator):
        first = next(iter(update))
        if how == "torch":
            torch.rand(1)
        elif how == "numpy":
            np.random.rand(1)  # noqa: NPY002
        elif how == "python":
            random.random()
        elif how == "in place":
            update[first].add_(1)
        elif how == "nan":
            norm = torch.cat([value.flatten() for value in update.values()]).norm()
            return {name: value / norm for name, value in update.items()}
        elif how == "dtype":
            return {name: value.float() for name, value in update.items()}
        elif how == "shape":
            return {name: value.flatten() for name, value in update.items()}
        elif how == "names":
            return {f"module.{name}": value for name, value in update.items()}
        elif how == "seed":
            return {name: value + next(_counter) for name, value in update.items()}
        return update

    return defend


_counter = iter(range(10**6))


def darken(by=0.5, broken=False):
    """A data-side defense: its first parameter is called `training`."""
    from dataclasses import replace

    def prepare(training, generator):
        return replace(training, photos=training.photos * by, labels=training.labels[: 3 if broken else None])

    return prepare


def peek(share=0.5):
    """A defense that looks at the photos."""

    def defend(update, generator, private):
        scale = 1 + share * (float(private.training.photos.mean()) if share else 0.0)
        return {name: value * scale for name, value in update.items()}

    return defend


def mod(strength=1.0):
    return lambda message, context, call_next: call_next(message, context)


@pytest.mark.parametrize(
    ("defense", "claims"),
    [
        (factory("shrink"), {"identity_when_off": {"factor": 1.0}, "random": False}),
        (f"{__name__}:shrink", {}),
        (factory("noise", std=0.2), {"noise_std": 0.2, "unbiased": True, "random": True}),
        (factory("darken"), {"identity_when_off": {"by": 1.0}}),
        (factory("peek"), {"identity_when_off": {"share": 0.0}}),
        ([factory("shrink", factor=100.0), {"name": "clip", "max_norm": 2.0}], {"max_norm": 2.0}),
        ([{"name": "prune", "keep": 0.2}, {"name": "sign"}], {"exactly_k": 0.2}),
    ],
)
def test_the_honest_pass(defense, claims):
    check_defense(defense, claims)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("torch", "global generator"),
        ("numpy", "global generator"),
        ("python", "global generator"),
        ("in place", "in place"),
        ("nan", "makes NaN or Inf of an update of"),
        ("dtype", "torch.float32 of torch.float64"),
        ("shape", "makes '0.weight' (900,) of (12, 3, 5, 5)"),
        ("names", "changes the names"),
        ("seed", "two results for one seed"),
    ],
)
def test_who_breaks_a_law_is_told_which(how, message):
    with pytest.raises(AssertionError) as error:
        check_defense(factory("breaker", how=how))
    assert message in str(error.value)
    assert f"{__name__}:breaker" in str(error.value)


@pytest.mark.parametrize(
    ("defense", "claims", "message"),
    [
        (factory("shrink"), {"max_norm": 1.0}, "claimed: at most 1"),
        (factory("shrink"), {"unbiased": True}, "by 0.5 on average"),
        (factory("noise", shift=0.016), {"unbiased": True}, "moves the mean"),
        (factory("noise", std=0.1), {"noise_std": 0.102}, "adds noise of variance 0.01"),
        (factory("noise", shift=0.01), {"noise_std": 0.1}, "of mean 0.0099"),
        (factory("noise"), {"random": False}, "two results for two seeds"),
        (factory("shrink"), {"random": True}, "one result for two seeds"),
        ({"name": "prune", "keep": 0.1}, {"exactly_k": 0.1001}, "claimed: exactly"),
        (factory("shrink"), {"identity_when_off": {"factor": 0.999999}}, "is not the identity"),
        (factory("darken", broken=True), {}, "6 photos with 3 labels"),
        (factory("darken", by=2.0), {}, "outside [0, 1]"),
    ],
)
def test_who_claims_too_much_is_told_what(defense, claims, message):
    with pytest.raises(AssertionError) as error:
        check_defense(defense, claims)
    assert message in str(error.value)


def test_mistakes_of_the_caller():
    with pytest.raises(ValueError, match="did you mean 'max_norm'"):
        check_defense(factory("shrink"), {"maxnorm": 1.0})
    with pytest.raises(ValueError, match="is a Flower mod"):
        check_defense(factory("mod"))
    with pytest.raises(ConfigError, match="unknown defense"):
        check_defense("clop")
