"""`sys.exit` in a plug-in, of the server's side or of a user's, never reads as success."""

import signal
import sys

import pytest
import torch
from command_line import fl_sim, sentence
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import ServerApp
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from clients.app import client_app
from experiments.plan.setup import prepare
from experiments.run import federation
from experiments.run.federation import run_federation
from fl_sim import engines
from fl_sim.config import ConfigError
from fl_sim.engines.inprocess import InProcessGrid
from fl_sim.runs import RunFolder

ENGINES = ["inprocess", pytest.param("simulation", marks=pytest.mark.slow)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("code", [0, 7])
def test_an_exit_of_the_server_app_is_an_error(engine, code):
    server = ServerApp()

    @server.main()
    def main(grid, context):
        sys.exit(code)

    with pytest.raises(ConfigError, match=rf"sys.exit\({code}\) before the run's end"):
        engines.run(engine, server, ClientApp(), 1)


@pytest.mark.parametrize("code", [0, 7])
def test_so_is_one_in_the_app_that_flwr_run_starts(code, monkeypatch):
    monkeypatch.setattr(federation, "config_file", lambda context: sys.exit(code))
    with pytest.raises(ConfigError, match=rf"sys.exit\({code}\) before the run's end"):
        federation.app(InProcessGrid(ClientApp(), 1), Context(0, 0, {}, RecordDict(), {}))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_exit_of_a_user_is_that_users_error(engine, tmp_path):
    run = RunFolder(tmp_path / "run")
    config = tiny_config(federation={"engine": engine, "rounds": 1}, defenses=[{"name": "faulty_client:leave"}])
    run_federation(prepare(config), run)
    store = CaptureStore(run)
    assert store.finished_rounds() == [1]
    assert [row["status"] for row in store.rejected()] == ["error"] * 4


def leaving(dataset, seed):
    """A dataset factory that gives up quietly."""
    sys.exit(0)


def test_an_exit_of_a_plug_in_before_the_start_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, told = fl_sim("run", "-o", f"dataset.name={__name__}:leaving")
    assert code == 2
    assert "called sys.exit(0) before the command's end" in sentence(told)


def test_the_in_process_engine_names_the_error_as_flower_does():
    config = tiny_config(dataset={"name": "tiny_faces:open_broken"})
    grid = InProcessGrid(client_app(lambda context: config), 2)
    content = RecordDict({"arrays": ArrayRecord({"w": torch.zeros(1)}), "config": ConfigRecord({"server-round": 1})})
    messages = [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
    codes = [reply.error.code for reply in grid.send_and_receive(messages)]
    assert codes == [ErrorCode.CLIENT_APP_RAISED_EXCEPTION] * 2


def ended(dataset, seed):
    """What Ray's handler of SIGTERM does, wherever the process is."""
    sys.exit(signal.SIGTERM)


def test_a_sigterm_is_no_mistake_and_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, told = fl_sim("run", "-o", f"dataset.name={__name__}:ended")
    assert code == 128 + signal.SIGTERM
    assert "give the same command again" in sentence(told)
