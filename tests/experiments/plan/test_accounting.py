"""Epsilon is the accounting library's, for what the defenses really do; and there is none where nothing gives one."""

import math

import numpy as np
import pytest
import torch
from dp_accounting import (
    GaussianDpEvent,
    LaplaceDpEvent,
    NeighboringRelation,
    SelfComposedDpEvent,
    get_epsilon_gaussian,
)
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_faces import tiny_config

from clients.defenses import load_all
from experiments.plan.privacy import Noise, sentences
from experiments.plan.setup import prepare
from fl_sim.updates import norm

CLIP, NOISE = {"name": "clip", "max_norm": 0.5}, {"name": "gaussian_noise", "std": 2.0}
ENTRIES, TENSORS = 410, 4  # of the tiny net
LOCAL_DP_MOD = {
    "name": "flwr.clientapp.mod:LocalDpMod",
    "clipping_norm": 0.5,
    "sensitivity": 1.0,
    "epsilon": 4.0,
    "delta": 1e-5,
}


def of(*defenses, rounds=1, **sections):
    federation = {"rounds": rounds, "update": "weights"}
    return prepare(tiny_config(defenses=list(defenses), federation=federation, **sections)).accountant.epsilon()


def by_pld(event, rounds, delta=1e-5):
    """Another accountant of the library, by privacy loss distributions."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3)
    accountant.compose(SelfComposedDpEvent(event, rounds))
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(("multiplier", "rounds"), [(4.0, 1), (4.0, 5)])
def test_gaussian_noise_has_the_epsilon_of_the_accounting_library(multiplier, rounds):
    found = Noise("gaussian", multiplier).epsilon(rounds, 1e-5)
    assert found == pytest.approx(by_pld(GaussianDpEvent(multiplier), rounds), rel=1e-3)


@pytest.mark.parametrize(("multiplier", "rounds"), [(1.0, 1), (4.0, 30)])
def test_laplace_noise_has_at_least_the_epsilon_of_the_library_and_at_most_the_pure_one(multiplier, rounds):
    found = Noise("laplace", multiplier).epsilon(rounds, 1e-5)
    assert by_pld(LaplaceDpEvent(multiplier), rounds) * 0.999 <= found <= rounds / multiplier


def test_what_users_do_is_counted_between_any_two_of_their_updates():
    assert of(CLIP, NOISE) == get_epsilon_gaussian(2.0 / (2 * 0.5), 1e-5)
    assert of(CLIP, NOISE, rounds=4) == get_epsilon_gaussian(1.0, 1e-5)
    assert of(CLIP, {"name": "gaussian_noise", "noise_multiplier": 4.0}) == of(CLIP, NOISE)
    per_layer = {"name": "clip", "max_norm": 0.5, "per_layer": True}
    assert of(per_layer, NOISE) == get_epsilon_gaussian(2.0 / (2 * 0.5 * math.sqrt(TENSORS)), 1e-5)
    assert of(CLIP, {"name": "laplace_noise", "scale": 1e3}) == pytest.approx(math.sqrt(ENTRIES) / 1e3, rel=0.01)
    assert of({"name": "local_dp", "epsilon": 3.0, "delta": 1e-5, "max_norm": 7.0}) == pytest.approx(3.0, rel=1e-3)
    std = math.sqrt(2 * math.log(1.25 / 1e-5)) / 4.0  # by Flower's formula
    assert of(LOCAL_DP_MOD) == get_epsilon_gaussian(std / (2 * 0.5), 1e-5)


def test_the_mechanism_that_is_counted_is_the_one_that_runs():
    """Two worst neighbours behind clip and noise differ by 2 max_norm; the noise has the deviation that is counted."""
    generator = torch.Generator().manual_seed(0)
    update = {"w": torch.ones(40_000)}
    clip, noise = load_all([CLIP, NOISE])
    one, other = clip.defend(update, generator), clip.defend({"w": -update["w"]}, generator)
    gap = norm({"w": one["w"] - other["w"]})
    std = float((noise.defend(one, generator)["w"] - one["w"]).std())
    assert Noise("gaussian", std / gap).epsilon(1, 1e-5) == pytest.approx(of(CLIP, NOISE), rel=0.03)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.2, 20), st.integers(1, 50), st.floats(1e-9, 1e-2))
def test_more_noise_fewer_rounds_and_a_larger_delta_cost_less(multiplier, rounds, delta):
    found = Noise("gaussian", multiplier).epsilon(rounds, delta)
    assert Noise("gaussian", multiplier * 1.1).epsilon(rounds, delta) < found
    assert Noise("gaussian", multiplier).epsilon(rounds + 1, delta) > found
    assert Noise("gaussian", multiplier).epsilon(rounds, delta * 2) < found


AFTERWARDS = [{"name": "quantize", "bits": 4}, {"name": "sign"}, {"name": "random_sparsify", "keep": 0.5}]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(AFTERWARDS), max_size=3))
def test_what_follows_the_noise_cannot_undo_it(more):
    assert of(CLIP, NOISE, *more) == of(CLIP, NOISE)


def test_what_keeps_the_norm_may_stand_between_clip_and_noise():
    kept = [{"name": "prune", "keep": 0.1}, {"name": "dropout_update", "rate": 0.5}]
    assert of(CLIP, *kept, NOISE) == of(CLIP, NOISE)
    assert of(CLIP, {"name": "clip", "max_norm": 9.0}, NOISE) == of(CLIP, NOISE)


@pytest.mark.parametrize(
    ("defenses", "reason"),
    [
        ([], "no defense clips"),
        ([CLIP], "no defense clips the update and then adds noise"),
        ([NOISE], "gaussian_noise has no clip right before it"),
        ([NOISE, CLIP], "gaussian_noise has no clip right before it"),
        ([CLIP, {"name": "random_sparsify", "keep": 0.5}, NOISE], "no clip right before it"),  # which scales up
        ([CLIP, {"name": "gaussian_noise", "std": 1.0, "relative": "percentile95"}], "follows the update itself"),
        ([{"name": "clip", "max_norm": math.inf}, NOISE], "nothing bounds"),
        ([CLIP, NOISE, {"name": "representation_perturbation", "prune": 0.5}], "may tell of the photos"),
        ([{"name": "prune", "keep": 0.1}], "no defense clips"),
    ],
)
def test_no_guarantee_where_there_is_none(defenses, reason):
    config = tiny_config(defenses=defenses)
    found = prepare(config).accountant.guarantee("server")
    assert found.noise is None
    assert reason in found.why
    assert prepare(config).accountant.epsilon() is None
    noisy = any(table["name"] == "gaussian_noise" for table in defenses)
    assert (prepare(config).accountant.flaw() is not None) == noisy


def test_batch_norm_statistics_beside_the_update_leave_no_guarantee():
    sections = {"threat_model": {"batch_norm_statistics": True}, "model": {"name": "tiny_faces:normed_net"}}
    assert of(CLIP, NOISE) is not None
    assert of(CLIP, NOISE, **sections) is None


@pytest.mark.parametrize("kind", ["server_fixed", "client_fixed", "server_adaptive", "client_adaptive"])
def test_noise_of_the_server_protects_from_readers_of_the_model_but_not_from_the_server(kind):
    """One reply for another moves the sum of clipped changes by twice the bound, and noise is told in bounds."""
    config = tiny_config(
        federation={"rounds": 3},
        protocol={"differential_privacy": kind, "noise_multiplier": 2.0, "delta": 1e-6},
    )
    assert prepare(config).accountant.epsilon() is None
    assert prepare(config).accountant.epsilon(against="reader") == get_epsilon_gaussian(1.0 / math.sqrt(3), 1e-6)
    assert prepare(config).accountant.epsilon(1, "reader") == get_epsilon_gaussian(1.0, 1e-6)
    told = prepare(config).accountant.facts()
    assert told["server"]["epsilon_run"] is None
    assert told["reader"]["epsilon_round"] == get_epsilon_gaussian(1.0, 1e-6)
    assert sentences(told)["server"].startswith("no guarantee")
    assert "at delta 1e-06, one user's reply replaced by any other's or by none" in sentences(told)["reader"]
    both = config.model_copy(
        update={"defenses": [{"name": "local_dp", "epsilon": 0.1, "delta": 1e-6, "max_norm": 1.0}]}
    )
    assert prepare(both).accountant.epsilon(1, "reader") == pytest.approx(0.1, rel=1e-3)  # the better of the two
    said = sentences(prepare(both).accountant.facts())["reader"]
    assert "or by none" not in said  # it hides what a user sends, not that it does


@pytest.mark.parametrize(("asked", "exact"), [(0.5, None), (1.0, None), (20.0, "25.4"), (100.0, "300")])
def test_what_flowers_local_dp_really_gives_is_told_with_its_fault(asked, exact):
    """Its formula (Dwork & Roth 2014, theorem A.1) is proven for epsilon below 1."""
    config = tiny_config(defenses=[LOCAL_DP_MOD | {"epsilon": asked}], federation={"update": "weights"})
    told = prepare(config).accountant.faults()
    assert prepare(config).accountant.facts()["faults"] == told
    assert (told == []) == (exact is None)
    if exact is not None:
        assert f"asked for epsilon {asked:g} a reply and gives {exact}" in told[0]
    short = tiny_config(defenses=[LOCAL_DP_MOD | {"sensitivity": 0.5}], federation={"update": "weights"})
    assert "twice its clipping_norm" in prepare(short).accountant.faults()[0]
    none = tiny_config(defenses=[LOCAL_DP_MOD | {"sensitivity": 0.0}], federation={"update": "weights"})
    assert "gives inf" in prepare(none).accountant.faults()[0]


def test_secure_aggregation_and_shuffling_are_not_counted():
    assert of(CLIP, NOISE, protocol={"secure_aggregation": 2}) == of(CLIP, NOISE)
    assert of(CLIP, NOISE, protocol={"shuffle": True}) == of(CLIP, NOISE)


def test_huge_and_tiny_noise_stay_finite():
    assert np.isfinite(Noise("gaussian", 1e-5).epsilon(1, 1e-5))
    assert 0 <= Noise("gaussian", 1e4).epsilon(1, 1e-5) < 1e-2
