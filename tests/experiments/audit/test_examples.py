"""Somebody else's federation: the example app, captured and audited as docs/somebody_elses_federation.md says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from external_nets import Net, normed, tiny
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import FedAvg
from grids import ShuffledGrid, train
from tiny_faces import tiny_config

from attacker.capture.audit_plugin import AuditedStrategy, ExternalModel, LocalTraining
from attacker.capture.store import CaptureStore
from attacker.external.external_model import read
from clients.datasets import open_dataset
from experiments.audit.inversion import png
from experiments.cli import app as cli
from fl_sim.config import ConfigError, Dataset
from fl_sim.runs import RunFolder
from fl_sim.updates import norm


@pytest.fixture
def example(repository, tmp_path):
    """A copy of the example app with both diffs of the docs applied."""
    app = tmp_path / "app"
    shutil.copytree(repository / "experiments" / "examples" / "quickstart_pytorch", app)
    for diff in ("audit.diff", "number.diff"):
        subprocess.run(["git", "apply", "--unsafe-paths", app / diff], cwd=app, check=True)
    return app


def federated(**sections):
    return tiny_config(federation={"update": "weights", "learning_rate": 0.5, "rounds": 2}, **sections)


def fed_avg():
    return FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)


def audited(inner, folder, model=tiny, epochs=1, batch_size=0):
    return AuditedStrategy(inner, ExternalModel.of(model, 32), LocalTraining(epochs, batch_size, 0.5), folder)


def anonymous(reply: Message):
    """A client that has never heard of fl-sim."""
    if reply.has_content() and "partition-id" in reply.content["metrics"]:
        del reply.content["metrics"]["partition-id"]
    return [reply]


def test_three_lines_make_it_captured_and_one_tells_whose_updates_are_whose(repository):
    folder = repository / "experiments" / "examples" / "quickstart_pytorch"
    for diff, count in (("audit.diff", 3), ("number.diff", 1)):
        lines = [line for line in (folder / diff).read_text().splitlines() if line[:3] not in ("+++", "---")]
        assert [line[0] for line in lines if line[0] in "+-"] == ["+"] * count
        walkthrough = (repository / "docs" / "somebody_elses_federation.md").read_text()
        assert all(line in walkthrough for line in lines if line[0] == "+")


def test_training_under_audit_ends_in_the_same_parameters(tmp_path):
    config = federated()
    plain = train(fed_avg(), config, ShuffledGrid(config, 3, anonymous))
    watched = train(audited(fed_avg(), tmp_path / "run"), config, ShuffledGrid(config, 3, anonymous))
    left, right = plain.to_torch_state_dict(), watched.to_torch_state_dict()
    assert list(left) == list(right)
    for name, value in left.items():  # FedAvg samples nodes, and adds floats, in an order of its own
        torch.testing.assert_close(right[name], value, rtol=1e-5, atol=1e-6)
    store = CaptureStore(RunFolder(tmp_path / "run"))
    assert store.finished_rounds() == [1, 2]
    assert store.users(1) == store.users(2) == [0, 1, 2, 3]
    nodes = [{row["user"]: row["node"] for row in store.replies(number)} for number in (1, 2)]
    assert nodes[0] == nodes[1]  # a user keeps its number


def test_nobody_is_asked_anything(tmp_path):
    class Telling(ShuffledGrid):
        asked: list[str] = []  # noqa: RUF012

        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            self.asked.extend(message.metadata.message_type for message in messages)
            return super().send_and_receive(messages, timeout=timeout)

    config = federated()
    train(audited(fed_avg(), tmp_path / "run"), config, Telling(config, 0, anonymous))
    assert "query" not in Telling.asked


def test_what_cannot_be_captured_still_reaches_the_strategy(tmp_path):
    def spoiled(reply):
        if reply.has_content() and "arrays" in reply.content and reply.content["metrics"]["partition-id"] == 1:
            arrays = reply.content["arrays"].to_torch_state_dict()
            reply.content["arrays"] = ArrayRecord({name: value * torch.nan for name, value in arrays.items()})
        return [reply]

    config = federated()
    final = train(audited(fed_avg(), tmp_path / "run"), config, ShuffledGrid(config, 0, spoiled))
    assert all(bool(value.isnan().all()) for value in final.to_torch_state_dict().values())  # as without the plugin
    store = CaptureStore(RunFolder(tmp_path / "run"))
    assert store.users(1) == [0, 2, 3]
    assert "NaN" in store.rejected()[0]["reason"]


def test_a_model_with_buffers_is_captured_in_every_round(tmp_path):
    config = federated(model={"name": "tiny_faces:normed_net"})

    def with_buffers(reply):  # as clients do that send their state dict; FedAvg makes floats of the counters
        if reply.has_content() and "arrays" in reply.content:
            sent = normed().state_dict()
            arrays = reply.content["arrays"].to_torch_state_dict()
            reply.content["arrays"] = ArrayRecord({name: arrays.get(name, sent[name]) for name in sent})
        return [reply]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        sent = normed().state_dict()
    strategy = audited(fed_avg(), tmp_path / "run", normed)
    strategy.start(ShuffledGrid(config, 0, with_buffers), ArrayRecord(sent), num_rounds=2)
    store = CaptureStore(RunFolder(tmp_path / "run"))
    assert store.users(1) == store.users(2) == [0, 1, 2, 3]
    assert norm(store.observation(2, 0).gradient) > 0


def test_mistakes_are_told_before_training_starts(tmp_path):
    with pytest.raises(ConfigError, match="cannot be found by its name"):
        audited(fed_avg(), tmp_path / "a", lambda: tiny())
    with pytest.raises(ConfigError, match="does not take images"):
        AuditedStrategy(fed_avg(), ExternalModel.of(Net, 48), LocalTraining(1, 0, 0.1), tmp_path / "a")
    with pytest.raises(ConfigError, match="learning_rate 0"):
        LocalTraining(epochs=1, batch_size=0, learning_rate=0)
    assert not (tmp_path / "a").exists()
    config = federated()
    with pytest.raises(ConfigError, match="the server sends no 'conv1"):
        train(audited(fed_avg(), tmp_path / "b", Net), config)
    train(audited(fed_avg(), tmp_path / "c"), config)
    with pytest.raises(ConfigError, match="earlier capture"):
        audited(fed_avg(), tmp_path / "c")


@pytest.fixture
def fl_sim(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fl-sim", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


def test_the_audit_measures_only_against_photos_that_it_is_given(fl_sim, tmp_path):
    run, photos, config = tmp_path / "run", tmp_path / "photos", federated()
    train(audited(fed_avg(), run), config)
    people = open_dataset(Dataset(users=4, photos=2, image_size=32), 0)
    for user in range(4):
        (photos / str(user)).mkdir(parents=True)
        (photos / str(user) / "photo.png").write_bytes(png(people.user(user).private.photos[0]))
    command = ["audit", run, "--attack", "inverting_gradients", "-o", "steps=2", "--round", 1, "--json"]
    code, out, err = fl_sim(*command)
    assert code == 0, err
    said = json.loads(out)
    assert [(row["round"], row["user"]) for row in said["updates"]] == [(1, user) for user in range(4)]
    assert "facial_similarity" not in said["updates"][0]
    assert said["verdict"] is None
    assert not (run / "leakage.parquet").exists()
    page = Path(said["report"]).read_text()
    assert "Leakage was not measured, which takes the users" in page
    assert page.count("reconstruction of user") == 4 + 4  # on the first screen, and below
    made = {path: path.stat().st_mtime_ns for path in run.glob("reconstructions/*/*/*")}
    code, _, err = fl_sim(*command, "--photos", photos)
    assert code == 2
    assert "--photos without --embedder" in err
    code, out, err = fl_sim(*command, "--photos", photos, "--embedder", "synthetic")
    assert "never seen a photograph" in " ".join(err.split())
    assert {path: path.stat().st_mtime_ns for path in made} == made  # not attacked again
    judged = pd.DataFrame(json.loads(out)["updates"])
    assert judged["facial_similarity"].between(-1, 1).all()
    assert judged["rank"].between(1, 4).all()
    assert set(judged["among"]) == {4}
    code, _, err = fl_sim("audit", run, "--attack", "inverting_gradients", "-o", "steps=3", "--round", 1)
    assert code == 2
    assert "--label" in err
    code, _, err = fl_sim(*command, "--with-private-photos")
    assert code == 2
    assert "give --photos with it" in " ".join(err.split())


def test_the_audit_says_what_it_could_not_read_and_what_it_assumed(fl_sim, tmp_path):
    def odd(reply):  # user 1 sends NaN, the others no count, in arrays without names
        if reply.has_content() and "arrays" in reply.content:
            user, arrays = reply.content["metrics"]["partition-id"], reply.content["arrays"].to_numpy_ndarrays()
            reply.content["arrays"] = ArrayRecord([array * (np.nan if user == 1 else 1) for array in arrays])
            reply.content["metrics"]["weight"] = reply.content["metrics"].pop("num-examples") / 7
        return [reply]

    config = federated()
    inner = FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1, weighted_by_key="weight")
    inner.configure_evaluate = lambda *arguments: []
    train(audited(inner, tmp_path / "run"), config, ShuffledGrid(config, 0, odd))
    command = ["audit", tmp_path / "run", "--attack", "inverting_gradients", "-o", "steps=1", "--round", 1, "--json"]
    code, out, err = fl_sim(*command)
    told = " ".join(err.split())
    assert (code, json.loads(out)["exit_code"]) == (2, 2)
    assert "give --num-examples" in told
    assert re.search(r"not attacked is user 1 in round 1: '[\w.]+' holds NaN or Inf", told)
    assert "arrays without names were taken for the state dict in that order (in 3 replies)" in told
    assert not list((tmp_path / "run").glob("reconstructions/*"))
    code, out, err = fl_sim(*command, "--num-examples", 3)
    assert code == 0, err
    said = json.loads(out)
    assert [row["user"] for row in said["updates"]] == [0, 2, 3]
    assert "do not explain their update" in " ".join(err.split())
    page = " ".join(Path(said["report"]).read_text().split())
    assert "do not explain their update" in page
    assert "holds NaN or Inf" in page


@pytest.mark.parametrize(
    ("arguments", "told"), [(["nowhere"], "no audit.json"), (["run", "--round", "7"], "holds rounds [1, 2]")]
)
def test_an_audit_of_nothing_costs_one_sentence(fl_sim, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    train(audited(fed_avg(), tmp_path / "run"), federated())
    code, out, err = fl_sim("audit", *arguments)
    assert (code, out) == (2, "")
    assert told in " ".join(err.split())


RUN = """
import tomllib
from pathlib import Path
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from fl_sim.engines.simulation import run
from pytorchexample import client_app, server_app

CONFIG = tomllib.loads(Path("app/pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
server = ServerApp()

@server.main()
def main(grid, context):
    context.run_config = CONFIG
    server_app.app(grid, context)

class Client(ClientApp):
    def __call__(self, message, context):
        # A copy: Flower refuses a reply whose context has another config.
        told = Context(context.run_id, context.node_id, context.node_config, context.state, CONFIG)
        return client_app.app(message, told)

run(server, Client(), 2)
"""  # Flower's engine without its command line, which passes the config but takes a minute longer


@pytest.mark.slow
def test_the_example_runs_on_flowers_engine_and_is_audited(example, repository, tmp_path, fl_sim):
    environment = {**os.environ, "PYTHONPATH": f"{example}{os.pathsep}{repository}"}
    subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, env=environment, check=True, timeout=240)
    run = RunFolder(tmp_path / "audit")
    store = CaptureStore(run)
    assert store.finished_rounds() == [1, 2]
    assert store.users(1) == store.users(2) == [0, 1]
    assert read(run).model == "pytorchexample.task:Net"
    assert read(run).folder == str(example)
    code, out, err = fl_sim("audit", run.root, "--attack", "inverting_gradients", "-o", "steps=2", "--json")
    assert code == 0, err
    assert len(json.loads(out)["updates"]) == 4
