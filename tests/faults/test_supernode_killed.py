"""A SuperNode is killed and started again: rounds go on without its user, who is back when Flower lets the node back.

Flower counts a node that fell silent as online for a minute, and refuses its key until then.
"""

import os
import signal
import socket
import subprocess
import sys

import pytest
from dispatching import wait_for

from attacker.capture.store import CaptureStore
from fl_sim.deployment import State, native, processes
from fl_sim.deployment.flower import connect
from fl_sim.runs import RunFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif("FL_SIM_LONG_TESTS" not in os.environ, reason="takes 5 minutes: set FL_SIM_LONG_TESTS=1"),
]
ROUNDS = 8
SMALL = ["name=killed", "dataset.users=2", "dataset.photos=4", "dataset.image_size=32", "model.name=lenet",
         f"federation.rounds={ROUNDS}", "federation.timeout=40", "workers.backend=none"]  # fmt: skip


def test_a_supernode_that_is_killed_costs_its_updates_until_it_is_back(tmp_path):
    state = State(tmp_path / "state")
    environment = {**os.environ, "FL_SIM_STATE": str(state.root), "OMP_NUM_THREADS": "1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    deployment = native.up(state, 2, port, lambda sentence: None)
    try:
        options = [part for key in SMALL for part in ("-o", key)]
        command = [sys.executable, "-m", "experiments.cli.app", "run", "--engine", "deployment", *options]
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as run:
            store = CaptureStore(RunFolder(tmp_path / "runs" / "killed"))
            wait_for(lambda: store.finished_rounds() or run.poll() is not None, seconds=300)
            node = next(process for process in deployment.processes if process.name == "user-0001")
            for one in (node, *processes._descendants({node.pid})):
                os.kill(one.pid, signal.SIGKILL)
            connection = connect(deployment.superlink, state)
            wait_for(lambda: native.online(connection) == 1, seconds=300)
            again = processes.start(state, "user-0001", node.command)
            kept = [process for process in deployment.processes if process is not node]
            processes.record(state, processes.Deployment(deployment.superlink, 2, [*kept, again]))
            wait_for(lambda: native.online(connection) == 2, seconds=300)
            _, told = run.communicate(timeout=600)
        assert run.returncode == 0, told
        assert store.finished_rounds() == list(range(1, ROUNDS + 1))
        present = {number: store.users(number) for number in store.finished_rounds()}
        assert all(0 in users for users in present.values())
        assert present[1] == present[ROUNDS] == [0, 1], present
        assert any(users == [0] for users in present.values()), present
    finally:
        native.down(state)
