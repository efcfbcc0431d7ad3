"""The protocol: differential privacy, Flower's mods as they are, secure aggregation, shuffling, on the real clients."""

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from grids import initial_arrays
from hypothesis import given
from hypothesis import strategies as st
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from clients.app import client_app
from clients.defenses.mods import BOUND, WITHIN
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from fl_sim import seeds
from fl_sim.config import ConfigError
from fl_sim.engines.inprocess import InProcessGrid
from fl_sim.federation import grids, protocol
from fl_sim.federation.secure_aggregation import groups
from fl_sim.federation.shuffling import users_by_pseudonym
from fl_sim.federation.strategy import weighted_mean
from fl_sim.runs import RunFolder
from fl_sim.updates import flatten, norm, to_gradient

RATE = 0.1
WEIGHTS = {"update": "weights"}


def captured(folder, **sections):
    run = RunFolder(folder)
    run_federation(prepare(tiny_config(**sections)), run)
    store = CaptureStore(run)
    assert store.rejected() == []
    return store


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Differential privacy


@pytest.mark.parametrize("where", ["server", "client"])
def test_the_server_sees_what_users_send_and_clips_it_before_it_is_used(where, tmp_path):
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
@pytest.mark.parametrize("update", ["gradient", "weights"])
def test_adaptive_clipping_moves_its_bound_towards_the_norms(kind, update, tmp_path):
    private = {"differential_privacy": kind, "noise_multiplier": 0.2, "clipping_norm": 1e-4}
    captured(tmp_path / "run", protocol=private, federation={"update": update})
    bounds = pd.read_parquet(tmp_path / "run" / "rounds.parquet")["next_clipping_norm"]
    assert 1e-4 < bounds[0] < bounds[1]  # which clips everybody


# Flower's mods


LOCAL_DP_MOD = {
    "name": "flwr.clientapp.mod:LocalDpMod",
    "clipping_norm": 1.0,
    "sensitivity": 1.0,
    "epsilon": 1.0,
    "delta": 1e-5,
}


def one_step(mod, update, config_record=None, app=None):
    """What user 0 replies to round 1 with `mod` around it, the model it was sent, and the metrics."""
    config = tiny_config(federation={"update": update})
    app = app or client_app(lambda context: config)
    grid = InProcessGrid(app, 1)
    sent = initial_arrays(config)
    record = ConfigRecord({"server-round": 1, **(config_record or {})})
    (node,) = grid.get_node_ids()
    message = Message(RecordDict({"arrays": sent, "config": record}), dst_node_id=node, message_type="train")
    content = mod(message, grid._contexts[node], app).content
    return dict(content["arrays"].to_torch_state_dict()), dict(sent.to_torch_state_dict()), content["metrics"]


def plain_mod(message, context, call_next):
    return call_next(message, context)


@pytest.mark.parametrize("mod", ["fixedclipping_mod", "LocalDpMod"])
def test_the_mods_of_flower_make_nonsense_of_raw_gradients(mod):
    """The reason why the config refuses them with `update = "gradient"`: they compute w + clip(g - w)."""
    bound = 0.05
    key = {"clipping_norm": bound} if mod == "fixedclipping_mod" else {}
    call = fixedclipping_mod if mod == "fixedclipping_mod" else LocalDpMod(bound, 0.0, 1.0, 1e-5)  # no noise
    weights, sent, _ = one_step(call, "weights", key)
    honest, _, _ = one_step(plain_mod, "gradient")
    seen = to_gradient(sent, weights, RATE)  # on weights they do as they say: the gradient, shorter
    assert float(torch.cosine_similarity(flatten(seen), flatten(honest), 0)) > 0.999
    assert RATE * norm(seen) <= bound * 1.001

    spoilt, sent, _ = one_step(call, "gradient", key)
    away = flatten(honest) - flatten(sent)
    wrong = flatten(sent) + away * min(1.0, bound / float(away.norm()))
    torch.testing.assert_close(flatten(spoilt), wrong)
    assert float((flatten(spoilt) - flatten(sent)).norm()) <= bound * 1.001  # next to the weights, whatever g is
    assert float(torch.cosine_similarity(flatten(spoilt), flatten(honest), 0)) < 0.5


def test_flowers_local_dp_leaves_a_parameter_without_dimensions_as_it_is():
    """The reason why it is refused: neither noise nor, in Flower's clipping, a factor reaches a numpy scalar."""
    app = client_app(lambda context: tiny_config(model={"name": "tiny_faces:scaled_net"}, federation=WEIGHTS))
    grid = InProcessGrid(app, 1)
    sent = ArrayRecord({"w": torch.zeros(3), "scale": torch.tensor(1.0)})
    record = ConfigRecord({"server-round": 1})
    (node,) = grid.get_node_ids()
    message = Message(RecordDict({"arrays": sent, "config": record}), dst_node_id=node, message_type="train")

    def honest(message, context):
        arrays = ArrayRecord({"w": torch.zeros(3), "scale": torch.tensor(9.0)})
        return Message(RecordDict({"arrays": arrays}), reply_to=message)

    reply = LocalDpMod(1.0, 2.0, 1.0, 1e-5)(message, grid._contexts[node], honest)
    found = reply.content["arrays"].to_torch_state_dict()
    assert float(found["scale"]) == 9.0
    assert float(found["w"].abs().min()) > 0


def test_a_loader_that_seeds_numpy_does_not_give_all_users_the_same_noise(tmp_path):
    """Flower's LocalDpMod draws from numpy's global generator, which the loading of photos may have seeded."""
    sections = {"dataset": {"name": "tiny_faces:open_seeding"}, "federation": WEIGHTS}
    plain = captured(tmp_path / "plain", **sections)
    store = captured(tmp_path / "run", defenses=[LOCAL_DP_MOD | {"clipping_norm": 1e-9}], **sections)  # noise alone
    noises = torch.stack([flatten(store.observation(1, user).gradient) for user in range(4)])
    assert float(noises.std()) > 10 * float(flatten(plain.observation(1, 0).gradient).std())
    assert float((torch.corrcoef(noises) - torch.eye(4)).abs().max()) < 0.3  # 410 entries
    again = captured(tmp_path / "again", defenses=[LOCAL_DP_MOD | {"clipping_norm": 1e-9}], **sections)
    assert all(same(store.observation(2, user).gradient, again.observation(2, user).gradient) for user in range(4))


def test_flowers_mods_leave_evaluation_alone(tmp_path):
    """On the whole app they make an error of each reply to EVALUATE; here they are around TRAIN."""
    captured(tmp_path / "run", defenses=[LOCAL_DP_MOD], federation=WEIGHTS)
    assert pd.read_parquet(tmp_path / "run" / "rounds.parquet")["examples"].tolist() == [12, 12]


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
    run_federation(prepare(tiny_config(dataset=broken, protocol={"secure_aggregation": 2})), run)
    store = CaptureStore(run)
    assert store.members(1) == {2: [2, 3]}
    assert [(row["user"], row["status"]) for row in store.replies(1) if row["user"] < 2] == [(0, "error"), (1, "error")]
    assert all("no secure aggregation" in row["reason"] for row in store.rejected())
    assert pd.read_parquet(run.rounds)["accepted"].tolist() == [1, 1]


@pytest.mark.parametrize(("known", "size"), [(1, 2), (2, 3), (3, 4)])
def test_no_group_is_smaller_than_asked_for_also_where_users_do_not_say_who_they_are(
    known, size, tmp_path, monkeypatch
):
    """A user whose node does not answer the first question of a run is in no group."""
    monkeypatch.setattr(
        protocol, "nodes_by_partition", lambda *rest: dict(list(grids.nodes_by_partition(*rest).items())[:known])
    )
    run = RunFolder(tmp_path / "run")
    run_federation(prepare(tiny_config(protocol={"secure_aggregation": size})), run)
    store = CaptureStore(run)
    assert store.users(1) == store.users(2) == []
    said = [row["reason"] for row in store.rejected() if row["user"] < known]
    assert set(said) == {f"no secure aggregation: {known} users, and {size} are needed"}


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
        ({"protocol": {"differential_privacy": "server_fixed", "secure_aggregation": 2}}, "user by user"),
        (
            {"defenses": [LOCAL_DP_MOD]},
            r"LocalDpMod: Flower's .* w \+ clip\(g - w\)",
        ),
        ({"defenses": [LOCAL_DP_MOD], "federation": WEIGHTS, "model": {"name": "tiny_faces:normed_net"}}, "buffers"),
        (
            {"defenses": [LOCAL_DP_MOD], "federation": WEIGHTS, "model": {"name": "tiny_faces:scaled_net"}},
            "neither clips nor adds noise to a parameter without dimensions, such as '2.scale'",
        ),
        ({"defenses": [LOCAL_DP_MOD | {"epsilon": 0.0}], "federation": WEIGHTS}, "epsilon above 0"),
        ({"defenses": [LOCAL_DP_MOD | {"delta": 0.0}], "federation": WEIGHTS}, r"delta in \(0, 1\)"),
        ({"defenses": [LOCAL_DP_MOD | {"delta": 1.5}], "federation": WEIGHTS}, r"delta in \(0, 1\)"),
        ({"protocol": {"secure_aggregation": 1}}, "from 2 to the 4 users of a round"),
        ({"protocol": {"secure_aggregation": 5}}, "from 2 to the 4 users of a round"),
        ({"protocol": {"secure_aggregation": 2, "shuffle": True}}, "take one of them"),
        (
            {"protocol": {"secure_aggregation": 2, "differential_privacy": "client_fixed"}, "federation": WEIGHTS},
            "a reply is a sum",
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
        run_federation(prepare(tiny_config(**sections)), run)
    assert not run.root.exists()


@pytest.mark.parametrize("update", ["gradient", "weights"])
def test_users_who_clip_do_so_last_and_to_the_bound_they_are_sent(update):
    sections = {
        "federation": {"update": update},
        "protocol": {"differential_privacy": "client_fixed"},
        "defenses": [{"name": "gaussian_noise", "std": 100.0}],
    }
    app = client_app(lambda context: tiny_config(**sections))
    for bound, within in ((0.05, 0), (1e6, 1)):
        found, sent, metrics = one_step(plain_mod, update, {BOUND: bound}, app)
        change = flatten(found) - flatten(sent) if update == "weights" else -RATE * flatten(found)
        assert metrics[WITHIN] == within
        assert float(change.norm()) == pytest.approx(0.05 if within == 0 else 100 * RATE * 410**0.5, rel=0.1)


def test_global_generators_are_put_back():
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    with seeds.global_generators(0, "a"):
        first = np.random.rand(3)  # noqa: NPY002
    with seeds.global_generators(0, "a"):
        assert np.array_equal(first, np.random.rand(3))  # noqa: NPY002
    with seeds.global_generators(0, "b"):
        assert not np.array_equal(first, np.random.rand(3))  # noqa: NPY002
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
