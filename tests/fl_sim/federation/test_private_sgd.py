"""The strategy under differential privacy keeps its promise whoever replies, errs, lies or is missing."""

import math
from collections import Counter

import pandas as pd
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from grids import ShuffledGrid, initial_arrays, train
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from clients.defenses.mods import BOUND, WITHIN
from experiments.plan.privacy import Noise
from experiments.plan.setup import prepare
from experiments.run import federation
from experiments.run.federation import run_federation
from fl_sim.federation.private_sgd import PrivateSGD, shares
from fl_sim.federation.replies import claimed_partition
from fl_sim.runs import RunFolder
from fl_sim.updates import flatten, norm

USERS, C = 10, 0.5
W = {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor(0.25)}  # b is 0-dimensional
BUFFERS = {"mean": torch.tensor([3.0]), "count": torch.tensor(7)}


class Nodes:
    def __init__(self, users=USERS):
        self._nodes = [100 + user for user in range(users)]

    def get_node_ids(self):
        return self._nodes


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


def strategy(update="weights", users=USERS, multiplier=0.0, **more):
    return PrivateSGD(
        0.1, update, list(W), users=users, noise_multiplier=multiplier, clipping_norm=C, **{"seed": 0, **more}
    )


def reply(user, arrays, **metrics):
    request = Message(RecordDict(), dst_node_id=100 + user, message_type="train")
    record = MetricRecord({"partition-id": user, "num-examples": 3 + user, **metrics})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": record}), reply_to=request)


def error(user):
    request = Message(RecordDict(), dst_node_id=100 + user, message_type="train")
    return Message(Error(code=2, reason="gone"), reply_to=request)


def moved(change):
    """The weights of a user who wants `change` added to W."""
    return {name: W[name] + value for name, value in change.items()}


def step(private, replies, server_round=1):
    """What the round adds to W, by name."""
    messages = list(private.configure_train(server_round, ArrayRecord({**W, **BUFFERS}), ConfigRecord(), Nodes()))
    assert all(message.content["config"][BOUND] == private.bound for message in messages)
    after = dict(private.aggregate_train(server_round, replies)[0].to_torch_state_dict())
    assert all(torch.equal(after[name], value) for name, value in BUFFERS.items())
    return {name: after[name] - value for name, value in W.items()}


def draw(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(value.shape, generator=generator) for name, value in W.items()}


BAD = {
    "an error": lambda: error(0),
    "another shape": lambda: reply(0, {**W, "w": torch.zeros(3)}),
    "another dtype": lambda: reply(0, {**W, "w": torch.zeros(2, dtype=torch.float64)}),
    "NaN": lambda: reply(0, {**W, "w": torch.tensor([math.nan, 0])}),
    "a missing array": lambda: reply(0, {"w": W["w"]}),
    "nothing": lambda: Message(RecordDict(), reply_to=error(0)),
    "from a stranger": lambda: reply(77, moved(draw(1))),
}


@pytest.mark.parametrize("update", ["weights", "gradient"])
@pytest.mark.parametrize("bad", BAD)
def test_a_reply_of_no_use_counts_as_no_change_and_the_others_as_ever(bad, update):
    changes = [draw(user, 5.0) for user in range(1, 8)]  # and two users say nothing
    sent = [moved(change) if update == "weights" else {n: -10 * v for n, v in change.items()} for change in changes]
    replies = [reply(user, arrays) for user, arrays in enumerate(sent, 1)]
    found = step(strategy(update), [BAD[bad](), *replies])
    for name in W:
        expected = sum(min(1.0, C / norm(change)) * change[name] for change in changes) / USERS
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, USERS), st.sampled_from(["none", "error", "small", "huge", "opposite"]), st.sampled_from([1e-3, 1e6])
)
def test_one_users_reply_moves_the_model_by_at_most_twice_the_bound_over_users(others, instead, scale):
    """The sensitivity that the accounting counts with, however few of the others reply."""
    rest = [reply(user, moved(draw(user, 3.0))) for user in range(1, others + 1) if user < USERS]
    large = {name: scale * torch.ones_like(value) for name, value in W.items()}
    other = {
        "none": [],
        "error": [error(0)],
        "small": [reply(0, W)],
        "huge": [reply(0, moved({name: 1e20 * value for name, value in large.items()}))],
        "opposite": [reply(0, moved({name: -value for name, value in large.items()}))],
    }[instead]
    one, two = step(strategy(), [reply(0, moved(large)), *rest]), step(strategy(), [*rest, *other])
    assert norm({name: one[name] - two[name] for name in W}) <= 2 * C / USERS * 1.001


def test_arrays_are_paired_by_name_whatever_their_order_and_buffers_may_come_along():
    change = draw(3, 0.01)
    plain = step(strategy(), [reply(0, moved(change))])
    turned = dict(reversed({**moved(change), **BUFFERS}.items()))
    assert all(torch.equal(plain[name], value) for name, value in step(strategy(), [reply(0, turned)]).items())


def test_nobody_counts_twice_nor_by_the_number_of_photos_and_the_order_does_not_matter():
    replies = [reply(user, moved(draw(user, 3.0))) for user in range(USERS)]
    found = step(strategy(), replies)
    for others in (replies[::-1], [*replies, *[reply(3, moved(draw(99)))] * 5]):
        again = step(strategy(), others)
        assert all(torch.equal(found[name], value) for name, value in again.items())
    heavy = [reply(user, moved(draw(user, 3.0)), **{"num-examples": 10**6}) for user in range(USERS)]
    assert norm({name: found[name] - value for name, value in step(strategy(), heavy).items()}) == 0


def test_noise_falls_on_all_parameters_in_every_round_also_where_nobody_replies():
    rounds = [step(strategy(multiplier=4.0, seed=seed), [], server_round=2) for seed in range(300)]
    for name in W:
        drawn = torch.stack([one[name].reshape(-1) for one in rounds])
        assert float(drawn.std()) == pytest.approx(4.0 * C / USERS, rel=0.1)
    again = step(strategy(multiplier=4.0, seed=7), [], server_round=2)
    assert all(torch.equal(again[name], rounds[7][name]) for name in W)
    other = step(strategy(multiplier=4.0, seed=7), [], server_round=3)
    assert not torch.equal(other["w"], rounds[7]["w"])


def worst(present, seed, multiplier, delta_of_present):
    """One coordinate of the next model where user 0 pulls it one way, or the other way; most others are missing."""
    pull = {"w": torch.tensor([100.0 * delta_of_present, 0.0]), "b": torch.tensor(0.0)}
    rest = [reply(1, W), error(2)] if present else []
    return float(step(strategy(multiplier=multiplier, seed=seed), [reply(0, moved(pull)), *rest])["w"][0])


@pytest.mark.slow
@pytest.mark.parametrize("present", [True, False])
def test_the_privacy_that_is_lost_is_what_is_told_and_not_more(present):
    """An audit by the best test there is, of two worst neighbours (Jagielski et al. 2020), 5 of 10 users and fewer.

    Of any (epsilon, delta) mechanism P(S) <= e^epsilon P'(S) + delta. Bounds by Clopper-Pearson, 99.9 % each.
    """
    multiplier, delta, runs = 2.0, 1e-3, 3000
    config = tiny_config(protocol={"differential_privacy": "server_fixed", "delta": delta, "noise_multiplier": 2.0})
    told = prepare(config).accountant.epsilon(1, "reader")
    one = torch.tensor([worst(present, seed, multiplier, +1) for seed in range(runs)])
    two = torch.tensor([worst(present, seed + runs, multiplier, -1) for seed in range(runs)])
    lost = []
    for threshold in torch.linspace(-0.15, 0.15, 13):
        hits, false = int((one > threshold).sum()), int((two > threshold).sum())
        low = beta.ppf(1e-3, hits, runs - hits + 1) if hits else 0.0
        high = beta.ppf(1 - 1e-3, false + 1, runs - false) if false < runs else 1.0
        lost.append(math.log(max(low - delta, 1e-9) / high))
    assert max(lost) <= told
    assert max(lost) > Noise("gaussian", multiplier).epsilon(1, delta)  # of sensitivity C it would not be true


# Adaptive


def test_the_bound_finds_the_median_norm_from_above_and_from_below():
    """Flower's goes the other way (docs/protocol.md)."""
    norms = [0.02 * 1.3**user for user in range(USERS)]
    unit = {"w": torch.tensor([1.0, 0.0]), "b": torch.tensor(0.0)}
    for start in (1e-3, 10.0):
        private = PrivateSGD(
            0.1, "weights", list(W), users=USERS, noise_multiplier=0.0, clipping_norm=start, seed=0, adaptive=True
        )
        for server_round in range(1, 120):
            replies = [reply(user, moved({n: size * v for n, v in unit.items()})) for user, size in enumerate(norms)]
            step(private, replies, server_round)
        assert norms[3] <= private.bound <= norms[6]


@pytest.mark.parametrize("counted_by", ["server", "clients"])
def test_who_is_missing_or_lies_moves_the_bound_by_no_more_than_one_user(counted_by):
    """Of the count the sensitivity is 1: a reply within the bound, or not; who says nothing stands in between."""
    bounds = {}
    cases = {"in": W, "out": moved(draw(0, 9.0))}
    said = {"in": 1, "out": 0, "lie": 10**9}
    rest = [reply(user, W, **{WITHIN: 1}) for user in range(1, 4)]
    for case in [*cases, "missing", "error", *(["lie"] if counted_by == "clients" else [])]:
        private = strategy(adaptive=True, counted_by=counted_by)
        mine = {"missing": [], "error": [error(0)]}.get(case)
        if mine is None:
            mine = [reply(0, cases.get(case, W), **{WITHIN: said[case]})]
        step(private, [*mine, *rest])
        bounds[case] = -math.log(private.bound / C) / 0.2 * USERS  # in users
    assert bounds["in"] - bounds["out"] == pytest.approx(1)
    assert bounds["missing"] == bounds["error"] == pytest.approx((bounds["in"] + bounds["out"]) / 2)
    assert bounds.get("lie", bounds["missing"]) == bounds["missing"]


@given(st.floats(1e-3, 1e3), st.integers(1, 10**5))
def test_count_and_changes_together_cost_what_the_multiplier_says(multiplier, users):
    """Squared inverse multipliers add up (Gaussian noise); the sensitivities are 2 C and 1, the latter twice a half."""
    changes, count = shares(multiplier, users)
    assert changes**-2 + (2 * count) ** -2 == pytest.approx(multiplier**-2)
    assert changes <= 1.16 * multiplier
    assert shares(0.0, users) == (0.0, 0.0)


def test_the_noise_of_adaptive_clipping_is_scaled_to_the_bound_that_clipped():
    private = strategy(multiplier=0.3, adaptive=True, seed=1)
    replies = [reply(user, moved(draw(user, 100.0))) for user in range(USERS)]
    noisy = step(private, replies)
    quiet = step(strategy(adaptive=True, seed=1), replies)
    expected = shares(0.3, USERS)[0] * C / USERS
    added = flatten({name: noisy[name] - quiet[name] for name in W}) / expected
    again = flatten(step(strategy(multiplier=1.0, seed=1), replies)) - flatten(quiet)
    torch.testing.assert_close(added * C / USERS, again, atol=1e-5, rtol=1e-4)  # the same draws


# In a federation


PRIVATE = {"differential_privacy": "server_fixed", "clipping_norm": 1e-3, "noise_multiplier": 0.0}


@pytest.mark.parametrize("update", ["gradient", "weights"])
@pytest.mark.parametrize("kind", ["server_fixed", "client_fixed", "server_adaptive", "client_adaptive"])
def test_a_user_who_errs_costs_its_own_change_alone(kind, update, tmp_path):
    """User 1 cannot be loaded: the round goes on, and n stays 4."""
    protocol = PRIVATE | {"differential_privacy": kind}
    run = RunFolder(tmp_path / "run")
    config = tiny_config(
        dataset={"name": "tiny_faces:open_broken"}, federation={"update": update, "rounds": 2}, protocol=protocol
    )
    run_federation(prepare(config), run)
    store, table = CaptureStore(run), pd.read_parquet(run.rounds)
    assert table["accepted"].tolist() == [3, 3]
    total = torch.zeros(410, dtype=torch.float64)
    for user in (0, 2, 3):
        change = -0.1 * flatten(store.observation(1, user).gradient).double()
        total += change * min(1.0, 1e-3 / float(change.norm()))
    found = flatten(store.parameters(2)) - flatten(store.parameters(1))
    torch.testing.assert_close(found.double(), total / 4, atol=2e-7, rtol=1e-2)
    expected = 1e-3 * math.exp(0.2 * (0.5 - 0.5 / 4)) if kind.endswith("adaptive") else 1e-3  # three were clipped
    assert table["next_clipping_norm"].iloc[0] == pytest.approx(expected)


def test_in_flowers_own_loop_what_the_network_loses_spoils_or_repeats_changes_nothing_else():
    """Of four users one never arrives, one arrives as NaN, and one twice."""
    config = tiny_config(federation={"rounds": 1})

    def tamper(reply):
        user = claimed_partition(reply)
        if reply.metadata.message_type != "train" or user == 3:
            return [reply]
        if user == 1:
            arrays = reply.content["arrays"].to_torch_state_dict()
            reply.content["arrays"] = ArrayRecord({name: value * math.nan for name, value in arrays.items()})
        return {0: [], 1: [reply], 2: [reply, reply]}[user]

    names = list(initial_arrays(config))
    found = []
    for grid in (ShuffledGrid(config), ShuffledGrid(config, seed=1, tamper=tamper)):
        private = PrivateSGD(0.1, "gradient", names, users=4, noise_multiplier=0.0, clipping_norm=1e-3, seed=0)
        seen = []
        honest = private._change
        private._change = lambda *rest, honest=honest, seen=seen: seen.append(honest(*rest)) or seen[-1]
        after = train(private, config, grid).to_torch_state_dict()
        moved_by = flatten(after) - flatten(initial_arrays(config).to_torch_state_dict())
        found.append((moved_by.double(), [flatten(change) for change in seen if change is not None]))
    (_, everybody), (moved_by, two) = found
    assert (len(everybody), len(two)) == (4, 2)
    expected = sum(change * min(1.0, 1e-3 / float(change.norm())) for change in (everybody[2], everybody[3])) / 4
    torch.testing.assert_close(moved_by, expected, atol=2e-7, rtol=1e-2)


def test_shuffled_users_make_the_same_model(tmp_path):
    ends = []
    for shuffle in (False, True):
        run = RunFolder(tmp_path / str(shuffle))
        run_federation(prepare(tiny_config(protocol=PRIVATE | {"noise_multiplier": 1.0, "shuffle": shuffle})), run)
        ends.append(flatten(CaptureStore(run).parameters(3)))
    torch.testing.assert_close(*ends, atol=1e-6, rtol=1e-5)


def test_a_model_with_batch_norm_gets_no_noise_on_its_buffers(tmp_path):
    run = RunFolder(tmp_path / "run")
    config = tiny_config(model={"name": "tiny_faces:normed_net"}, protocol=PRIVATE | {"noise_multiplier": 1.0})
    run_federation(prepare(config), run)
    store = CaptureStore(run)
    first, last = store.parameters(1), store.parameters(3)
    changed = Counter(torch.equal(first[name], last[name]) for name in first)
    same = {name for name in first if torch.equal(first[name], last[name])}
    assert same == {name for name in first if "running" in name or "num_batches" in name}
    assert changed[False] == len(first) - len(same)


def test_a_server_that_sends_a_model_for_spying_does_not_train_on_noise_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(federation, "rewriter", lambda config: lambda server_round, parameters: parameters)
    run = RunFolder(tmp_path / "run")
    run_federation(prepare(tiny_config(protocol=PRIVATE | {"noise_multiplier": 1.0})), run)
    first, last = CaptureStore(run).parameters(1), CaptureStore(run).parameters(3)
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_an_adaptive_run_that_was_stopped_goes_on_with_its_bound(tmp_path, monkeypatch):
    private = {"differential_privacy": "client_adaptive", "noise_multiplier": 0.5, "clipping_norm": 1e-3}
    config = tiny_config(federation={"rounds": 4}, protocol=private)
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    run_federation(prepare(config), whole)
    real = federation.MaliciousServer.configure_train

    def stop(self, server_round, *rest):
        if server_round == 3:
            raise KeyboardInterrupt
        return real(self, server_round, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(federation.MaliciousServer, "configure_train", stop)
        with pytest.raises(KeyboardInterrupt):
            run_federation(prepare(config), stopped)
    run_federation(prepare(config), stopped)
    one, two = (pd.read_parquet(run.rounds).drop(columns="seconds") for run in (whole, stopped))
    assert one.equals(two)
    assert one["next_clipping_norm"].nunique() == 4
    last = [CaptureStore(run).parameters(5) for run in (whole, stopped)]
    assert torch.equal(*map(flatten, last))
