import json
import time

import pandas as pd
import pytest
import torch
from flwr.server.superlink.linkstate import InMemoryLinkState
from tiny_faces import model_of, open_tiny, tiny_config

from attacker.capture.store import CaptureStore
from clients.local_training import evaluate
from experiments.plan.setup import prepare
from experiments.run import federation
from experiments.run.federation import run_federation
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder
from fl_sim.updates import to_gradient

ENGINES = ["inprocess", pytest.param("simulation", marks=pytest.mark.slow)]


def files(run):
    """What was captured, by file name; index lines without what differs from run to run."""
    found = {str(path.relative_to(run.root)): path.read_bytes() for path in run.captures.rglob("*.safetensors")}
    rows = [json.loads(line) for line in (run.captures / "index.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("node", None)
        row.pop("seconds", None)
    return found, rows


def rounds(run):
    return pd.read_parquet(run.rounds).drop(columns="seconds")


def test_a_run_leaves_its_captures_and_one_row_a_round(tmp_path):
    run, calls = RunFolder(tmp_path / "run"), []
    config = tiny_config(federation={"rounds": 3})
    run_federation(prepare(config), run, lambda done, total: calls.append((done, total)))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    table = pd.read_parquet(run.rounds)
    columns = ["round", "accuracy", "loss", "examples", "accepted", "rejected", "seconds"]
    assert list(table.columns) == [*columns, "epsilon", "epsilon_reader", "delta"]
    assert table["round"].tolist() == [1, 2, 3]
    assert table["accepted"].tolist() == [4, 4, 4]

    store, dataset = CaptureStore(run), open_tiny(config.dataset, config.seed)
    model = model_of(config)
    model.load_state_dict(store.parameters(4))  # the final model
    results = [evaluate(model, dataset.user(user).held_out) for user in range(4)]
    assert table["examples"].tolist() == [12, 12, 12]
    assert table["accuracy"].iloc[-1] == sum(result.correct for result in results) / 12
    assert table["loss"].iloc[-1] == pytest.approx(sum(result.loss for result in results) / 4, rel=1e-6)


def test_the_server_steps_along_the_weighted_mean_of_what_was_captured(tmp_path):
    run = RunFolder(tmp_path / "run")
    config = tiny_config(federation={"learning_rate": 0.25})
    run_federation(prepare(config), run)
    store = CaptureStore(run)
    for server_round in (1, 2):
        seen = [store.observation(server_round, user) for user in range(4)]
        step = to_gradient(store.parameters(server_round), store.parameters(server_round + 1), 0.25)
        total = sum(one.num_examples for one in seen)
        for name, value in step.items():
            mean = sum(one.num_examples * one.gradient[name] for one in seen) / total
            torch.testing.assert_close(value, mean, rtol=0, atol=1e-6)


def test_the_seed_decides_everything(tmp_path):
    first, second, other = (RunFolder(tmp_path / name) for name in "abc")
    run_federation(prepare(tiny_config()), first)
    run_federation(prepare(tiny_config()), second)
    run_federation(prepare(tiny_config(seed=1)), other)
    assert files(first) == files(second)
    assert files(first) != files(other)


@pytest.mark.parametrize("moment", ["in training", "after aggregation", "in evaluation"])
@pytest.mark.parametrize("update", ["gradient", "weights"])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(moment, update, tmp_path, monkeypatch):
    config = tiny_config(federation={"rounds": 4, "update": update}, defenses=[{"name": "gaussian_noise", "std": 0.01}])
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    run_federation(prepare(config), whole)

    method = {
        "in training": "configure_train",
        "after aggregation": "configure_evaluate",
        "in evaluation": "aggregate_evaluate",
    }[moment]
    real = getattr(federation.MaliciousServer, method)

    def stop(self, server_round, *rest):
        if server_round == 3:
            raise KeyboardInterrupt
        return real(self, server_round, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(federation.MaliciousServer, method, stop)
        with pytest.raises(KeyboardInterrupt):
            run_federation(prepare(config), stopped)
    assert rounds(stopped)["round"].tolist() == [1, 2]
    calls = []
    run_federation(prepare(config), stopped, lambda done, total: calls.append(done))
    assert calls == [2, 3, 4]
    assert files(stopped) == files(whole)
    assert rounds(stopped).equals(rounds(whole))
    run_federation(prepare(config), stopped)  # nothing is left to do
    assert files(stopped) == files(whole)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_that_fails_costs_its_update_and_nothing_else(engine, tmp_path):
    run = RunFolder(tmp_path / "run")
    config = tiny_config(dataset={"name": "tiny_faces:open_broken"}, federation={"engine": engine})
    run_federation(prepare(config), run)
    store = CaptureStore(run)
    assert [(row["user"], row["status"]) for row in store.rejected()] == [(1, "error"), (1, "error")], store.rejected()
    assert store.users(1) == store.users(2) == [0, 2, 3]
    assert all("this user's disk is gone" in row["reason"] for row in store.rejected())
    assert rounds(run)["rejected"].tolist() == [1, 1]


@pytest.mark.slow
def test_no_round_of_a_simulation_begins_before_all_users_are_registered(tmp_path, monkeypatch):
    create = InMemoryLinkState.create_node

    def slow(*arguments, **named):
        time.sleep(0.5)
        return create(*arguments, **named)

    monkeypatch.setattr(InMemoryLinkState, "create_node", slow)
    run = RunFolder(tmp_path / "run")
    run_federation(prepare(tiny_config(federation={"engine": "simulation", "rounds": 1})), run)
    assert rounds(run)["accepted"].tolist() == [4]


@pytest.mark.slow
@pytest.mark.parametrize("update", ["gradient", "weights"])
def test_both_engines_capture_the_same_bits(update, tmp_path):
    runs = {}
    for engine in ("inprocess", "simulation"):
        runs[engine] = RunFolder(tmp_path / engine)
        config = tiny_config(
            model={"name": "convnet"},
            federation={"engine": engine, "update": update},
            defenses=[{"name": "clip", "max_norm": 1.0}, {"name": "gaussian_noise", "std": 0.001}],
        )
        run_federation(prepare(config), runs[engine])
    assert CaptureStore(runs["simulation"]).rejected() == []
    assert files(runs["inprocess"]) == files(runs["simulation"])
    assert rounds(runs["inprocess"]).equals(rounds(runs["simulation"]))


@pytest.mark.slow
def test_batch_norm_models_train_and_their_buffers_stay(tmp_path):
    run = RunFolder(tmp_path / "run")
    run_federation(prepare(tiny_config(model={"name": "resnet18"}, dataset={"users": 2})), run)
    store = CaptureStore(run)
    first, last = store.parameters(1), store.parameters(3)
    seen = store.observation(1, 0)
    buffers = first.keys() - seen.gradient.keys()
    assert buffers
    assert all(torch.equal(first[name], last[name]) for name in buffers)


def test_mistakes_come_before_the_start(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ConfigError, match="unknown defense"):
        run_federation(prepare(tiny_config(defenses=[{"name": "clipp"}])), run)
    wrong = tmp_path / "weights.safetensors"
    wrong.write_bytes(b"not safetensors")
    for path in (wrong, tmp_path / "missing.safetensors"):
        with pytest.raises(ConfigError, match=r"model\.weights"):
            run_federation(prepare(tiny_config(model={"weights": str(path)})), run)
    assert not run.root.exists()
