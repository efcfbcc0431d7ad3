"""The protocol: Flower's differential privacy as it is, secure aggregation and shuffling, on the real clients."""

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp import strategy as flower
from grids import initial_arrays
from hypothesis import given
from hypothesis import strategies as st
from tiny_faces import tiny_config

from attacker.store import CaptureStore
from clients.defenses.mods import client_mods
from fl_sim import protocol, seeds
from fl_sim.client import client_app
from fl_sim.config import ConfigError
from fl_sim.engines.inprocess import InProcessGrid
from fl_sim.runs import RunFolder
from fl_sim.secure_aggregation import groups
from fl_sim.server import run_federation
from fl_sim.shuffling import users_by_pseudonym
from fl_sim.strategy import FedSGD, weighted_mean
from fl_sim.updates import flatten, norm, to_gradient

RATE = 0.1
WEIGHTS = {"update": "weights"}


def captured(folder, **sections):
    run = RunFolder(folder)
    run_federation(tiny_config(**sections), run)
    store = CaptureStore(run)
    assert store.rejected() == []
    return store


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Flower's differential privacy


@pytest.mark.parametrize("where", ["server", "client"])
def test_the_server_sees_what_users_send_and_flower_clips_and_adds_noise(where, tmp_path):
    norm_bound, federation = 1e-3, {"update": "weights", "rounds": 1}
    private = {"differential_privacy": f"{where}_fixed", "clipping_norm": norm_bound, "noise_multiplier": 0.0}
    store = captured(tmp_path / "run", protocol=private, federation=federation)
    plain = captured(tmp_path / "plain", federation=federation)
    before, changes = store.parameters(1), []
    for user in range(4):
        sent, honest = store.observation(1, user).gradient, plain.observation(1, user).gradient
        clipped = min(1.0, norm_bound / (RATE * norm(honest)))
        factor = clipped if where == "client" else 1.0  # clipped before it leaves, or only after the capture
        torch.testing.assert_close(flatten(sent), factor * flatten(honest), rtol=1e-3, atol=1e-6)
        changes.append({name: -RATE * clipped * value for name, value in honest.items()})
    mean = weighted_mean(changes, [1.0] * 4)  # no user counts for more than 1 / users, whatever its photos
    after = store.parameters(2)
    torch.testing.assert_close(flatten(after) - flatten(before), flatten(mean), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["server_fixed", "client_fixed"])
def test_the_noise_is_multiplier_times_norm_over_users_and_follows_from_the_seed(kind, tmp_path):
    private = {"differential_privacy": kind, "clipping_norm": 0.5, "noise_multiplier": 8.0}
    state, found = np.random.get_state()[1].tolist(), []  # noqa: NPY002
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = {"protocol": private, "federation": {"update": "weights", "rounds": 1}, "seed": seed}
        store = captured(tmp_path / name, **config)
        found.append(flatten(store.parameters(2)) - flatten(store.parameters(1)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert float(found[0].std()) == pytest.approx(8.0 * 0.5 / 4, rel=0.15)  # 410 entries
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


@pytest.mark.parametrize("kind", ["server_adaptive", "client_adaptive"])
def test_adaptive_clipping_runs(kind, tmp_path):
    private = {"differential_privacy": kind, "noise_multiplier": 0.2}
    store = captured(tmp_path / "run", protocol=private, federation=WEIGHTS)
    assert store.users(2) == [0, 1, 2, 3]


class Still(FedSGD):
    """Whatever users say, the model is zero."""

    def aggregate_train(self, server_round, replies):
        return ArrayRecord({"w": torch.zeros(20_000)}), None


def test_adaptive_clipping_of_flower_1_41_bars_an_epsilon():
    """What docs/protocol.md says of it: a bound that clips everybody shrinks, and the noise is scaled to the next."""
    config = tiny_config(federation=WEIGHTS)
    grid, bound = InProcessGrid(client_app(lambda context: config), 4), 1e-4
    inner = Still(RATE, "weights")
    strategy = flower.DifferentialPrivacyServerSideAdaptiveClipping(inner, 0.3, 4, bound, clip_norm_lr=2.0)
    with seeds.global_generators(0, "test"):
        messages = strategy.configure_train(1, initial_arrays(config), ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert strategy.clipping_norm < bound / 2  # all were clipped, twice as many as wanted
    std = strategy.noise_multiplier * strategy.clipping_norm / 4  # not that of the bound that was clipped to
    assert float(arrays.to_torch_state_dict()["w"].std()) == pytest.approx(std, rel=0.03)


def one_step(mod, update, config_record=None):
    """What user 0 replies to round 1 with `mod` around it, and the model it was sent."""
    config = tiny_config(federation={"update": update})
    InProcessGrid(client_app(lambda context: config), 1)  # stamps messages
    sent = initial_arrays(config)
    record = ConfigRecord({"server-round": 1, **(config_record or {})})
    grid = InProcessGrid(client_app(lambda context: config), 1)
    (node,) = grid.get_node_ids()
    message = Message(RecordDict({"arrays": sent, "config": record}), dst_node_id=node, message_type="train")
    app = client_app(lambda context: config)
    reply = mod(message, grid._contexts[node], app)
    return dict(reply.content["arrays"].to_torch_state_dict()), dict(sent.to_torch_state_dict())


def plain_mod(message, context, call_next):
    return call_next(message, context)


@pytest.mark.parametrize("mod", ["fixedclipping_mod", "LocalDpMod"])
def test_the_mods_of_flower_make_nonsense_of_raw_gradients(mod):
    """The reason why the config refuses them with `update = "gradient"`: they compute w + clip(g - w)."""
    bound = 0.05
    key = {"clipping_norm": bound} if mod == "fixedclipping_mod" else {}
    call = fixedclipping_mod if mod == "fixedclipping_mod" else LocalDpMod(bound, 0.0, 1.0, 1e-5)  # no noise
    weights, sent = one_step(call, "weights", key)
    honest, _ = one_step(plain_mod, "gradient")
    seen = to_gradient(sent, weights, RATE)  # on weights they do as they say: the gradient, shorter
    assert float(torch.cosine_similarity(flatten(seen), flatten(honest), 0)) > 0.999
    assert RATE * norm(seen) <= bound * 1.001

    spoilt, sent = one_step(call, "gradient", key)
    away = flatten(honest) - flatten(sent)
    wrong = flatten(sent) + away * min(1.0, bound / float(away.norm()))
    torch.testing.assert_close(flatten(spoilt), wrong)
    assert float((flatten(spoilt) - flatten(sent)).norm()) <= bound * 1.001  # next to the weights, whatever g is
    assert float(torch.cosine_similarity(flatten(spoilt), flatten(honest), 0)) < 0.5


# Secure aggregation


@pytest.mark.parametrize("update", ["gradient", "weights"])
def test_the_server_learns_the_mean_of_each_group_and_no_single_update(update, tmp_path):
    federation = {"update": update, "rounds": 2}
    told = {"labels": "known"}
    plain = captured(tmp_path / "plain", federation=federation, dataset={"users": 5}, threat_model=told)
    sections = {"federation": federation, "dataset": {"users": 5}, "threat_model": told}
    store = captured(tmp_path / "run", protocol={"secure_aggregation": 2}, **sections)
    assert store.members(1) == store.members(2) == {0: [0, 1], 2: [2, 3, 4]}
    assert sorted(path.name for path in store.run.captures.glob("round-0001/user-*")) == [
        "user-0000.safetensors",
        "user-0002.safetensors",
    ]
    step = 16 / 2**22 / (RATE if update == "weights" else 1)  # of the quantisation, in units of the gradient
    for user, members in store.members(1).items():
        seen, parts = store.observation(1, user), [plain.observation(1, member) for member in members]
        photos = [part.num_examples for part in parts]
        assert seen.members == tuple(members)
        assert seen.num_examples == sum(photos)
        mean = weighted_mean([part.gradient for part in parts], photos)
        assert float((flatten(seen.gradient) - flatten(mean)).abs().max()) < len(members) * step
        shares = sum(n * part.label_proportions for n, part in zip(photos, parts, strict=True)) / sum(photos)
        torch.testing.assert_close(seen.label_proportions, shares)
    torch.testing.assert_close(flatten(store.parameters(3)), flatten(plain.parameters(3)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ["inprocess", pytest.param("simulation", marks=pytest.mark.slow)])
def test_secure_aggregation_and_flowers_mods_follow_from_the_seed_on_any_engine(engine, tmp_path):
    mod = {"name": "flwr.clientapp.mod:LocalDpMod", "clipping_norm": 1.0, "sensitivity": 0.1, "epsilon": 1.0}
    sections = {"protocol": {"secure_aggregation": 2}, "defenses": [mod | {"delta": 1e-5}]}
    first = captured(tmp_path / "a", federation=WEIGHTS, **sections)
    second = captured(tmp_path / "b", federation={**WEIGHTS, "engine": engine}, **sections)
    for user in (0, 2):
        assert same(first.observation(2, user).gradient, second.observation(2, user).gradient)


def test_who_drops_out_takes_the_group_along(tmp_path):
    run = RunFolder(tmp_path / "run")
    broken = {"name": "tiny_faces:open_broken"}  # user 1 cannot be loaded
    run_federation(tiny_config(dataset=broken, protocol={"secure_aggregation": 2}), run)
    store = CaptureStore(run)
    assert store.members(1) == {2: [2, 3]}
    assert [(row["user"], row["status"]) for row in store.replies(1) if row["user"] < 2] == [(0, "error"), (1, "error")]
    assert all("no secure aggregation" in row["reason"] for row in store.rejected())
    assert pd.read_parquet(run.rounds)["accepted"].tolist() == [1, 1]


@given(st.integers(2, 40), st.integers(2, 40))
def test_groups_are_a_partition_and_none_is_smaller_than_asked(count, size):
    found = groups(range(count), size)
    assert [user for group in found for user in group] == list(range(count))
    assert all(len(group) >= min(size, count) for group in found)


# Shuffling


def test_pseudonyms_hide_who_sent_what_from_round_to_round(tmp_path):
    plain, store = captured(tmp_path / "plain"), captured(tmp_path / "run", protocol={"shuffle": True})
    orders = []
    for server_round in (1, 2):
        users = users_by_pseudonym(0, server_round, range(4))
        orders.append(users)
        for pseudonym, user in enumerate(users):
            seen, theirs = (s.observation(server_round, n) for s, n in ((store, pseudonym), (plain, user)))
            assert seen.user == pseudonym
            torch.testing.assert_close(flatten(seen.gradient), flatten(theirs.gradient))
        nodes = {row["node"] for row in store.replies(server_round)}
        assert len(nodes) == 4
    assert orders[0] != orders[1]
    assert {row["node"] for row in store.replies(1)} == {row["node"] for row in store.replies(2)}
    torch.testing.assert_close(flatten(store.parameters(3)), flatten(plain.parameters(3)))  # training goes on as before


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 30))
def test_everybody_has_one_pseudonym_a_round(seed, server_round, count):
    assert sorted(users_by_pseudonym(seed, server_round, range(count))) == list(range(count))


# What is refused


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"protocol": {"differential_privacy": "server_fixed"}}, r"w \+ clip\(g - w\).*update = \"weights\""),
        ({"protocol": {"differential_privacy": "client_adaptive"}}, r"w \+ clip\(g - w\)"),
        (
            {
                "defenses": [
                    {
                        "name": "flwr.clientapp.mod:LocalDpMod",
                        "clipping_norm": 1.0,
                        "sensitivity": 1.0,
                        "epsilon": 1.0,
                        "delta": 1e-5,
                    }
                ]
            },
            r"LocalDpMod: Flower's .* w \+ clip\(g - w\)",
        ),
        (
            {
                "protocol": {"differential_privacy": "server_fixed"},
                "federation": WEIGHTS,
                "model": {"name": "tiny_faces:normed_net"},
            },
            "buffers",
        ),
        ({"protocol": {"secure_aggregation": 1}}, "from 2 to the 4 users of a round"),
        ({"protocol": {"secure_aggregation": 5}}, "from 2 to the 4 users of a round"),
        ({"protocol": {"secure_aggregation": 2, "shuffle": True}}, "take one of them"),
        (
            {"protocol": {"secure_aggregation": 2, "differential_privacy": "client_fixed"}, "federation": WEIGHTS},
            "a reply is a sum",
        ),
        (
            {"protocol": {"differential_privacy": "server_adaptive"}, "federation": WEIGHTS},
            "clipped_count_stddev",  # Flower's own: the noise is too much for so few users
        ),
        (
            {
                "protocol": {"secure_aggregation": 2},
                "threat_model": {"batch_norm_statistics": True},
                "model": {"name": "tiny_faces:normed_net"},
            },
            "user by user",
        ),
    ],
)
def test_what_would_not_do_as_it_says_is_refused_before_the_start(sections, reason, tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ConfigError, match=reason):
        run_federation(tiny_config(**sections), run)
    assert not run.root.exists()


def test_the_clipping_mod_comes_last():
    config = tiny_config(
        federation=WEIGHTS,
        protocol={"differential_privacy": "client_fixed"},
        defenses=[{"name": "gaussian_noise", "std": 1.0}],
    )
    mods = client_mods(config, lambda message, context: pytest.fail("no defense here looks at the photos"))
    assert len(mods) == 2
    assert mods[-1] is fixedclipping_mod
    assert isinstance(protocol.strategy(config), flower.DifferentialPrivacyClientSideFixedClipping)


def test_global_generators_are_put_back():
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    with seeds.global_generators(0, "a"):
        first = np.random.rand(3)  # noqa: NPY002
    with seeds.global_generators(0, "a"):
        assert np.array_equal(first, np.random.rand(3))  # noqa: NPY002
    with seeds.global_generators(0, "b"):
        assert not np.array_equal(first, np.random.rand(3))  # noqa: NPY002
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
