"""`fl-sim up`, `fl-sim run --engine deployment`, `fl-sim down` for real, and strangers before the SuperLink's door."""

import contextlib
import os
import socket
import stat
import subprocess
import sys

import pytest
from flower_cli import FLWR

from attacker.capture.store import CaptureStore
from fl_sim.deployment import State, certificates
from fl_sim.deployment.programs import environment
from fl_sim.runs import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = [
    "dataset.photos=4", "dataset.image_size=32", "model.name=lenet", "federation.rounds=1", "leakage.gallery_size=4",
    "threat_model.public_people=4", "attacks={prior_only={steps=2}}", "workers.backend=inprocess",
]  # fmt: skip


def fl_sim(folder, *arguments, state="state"):
    environment = {**os.environ, "FL_SIM_STATE": str(folder / state), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "experiments.cli.app", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert "Traceback" not in done.stderr
    return done


def run(folder, *more, **options):
    chosen = [part for key in [*SMALL, *more] for part in ("-o", key)]
    return fl_sim(folder, "run", "--engine", "deployment", *chosen, *options.pop("arguments", ()), **options)


def running(folder):
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    return [line for line in listing.splitlines() if str(folder) in line and not line.startswith("Z")]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    """(folder, HOST:PORT) of a deployment of two users; down again afterwards, and nothing of it left."""
    folder = tmp_path_factory.mktemp("deployment")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    up = fl_sim(folder, "up", "--users", 2, "--port", port)
    assert up.returncode == 0, up.stderr
    assert len(running(folder)) >= 4
    yield folder, f"127.0.0.1:{port}"
    assert "2 SuperNodes" in fl_sim(folder, "down").stdout
    assert running(folder) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert "no deployment is up" in fl_sim(folder, "down").stdout


def test_a_run_is_whole_and_for_its_owner_alone(deployment):
    folder, _ = deployment
    done = run(folder, "name=whole", "dataset.users=2")
    assert done.returncode == 0, done.stderr
    whole = RunFolder(folder / "runs" / "whole")
    assert CaptureStore(whole).users(1) == [0, 1]
    assert whole.report.exists()
    paths = [whole.root, *whole.root.rglob("*")]
    open_to_others = [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_to_others == []


PROTOCOLS = {
    "secure-aggregation": ["protocol.secure_aggregation=2"],
    "privacy-by-clients": ["protocol.differential_privacy=client_fixed", "federation.update=weights"],
    "privacy-by-server": ["protocol.differential_privacy=server_fixed", "federation.update=weights"],
    "shuffled": ["protocol.shuffle=true"],
}


@pytest.mark.skipif("FL_SIM_LONG_TESTS" not in os.environ, reason="takes 4 minutes: set FL_SIM_LONG_TESTS=1")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_leaves_the_same_captures_as_in_one_process(deployment, protocol):
    folder, _ = deployment
    chosen = [*PROTOCOLS[protocol], "dataset.users=2", "workers.backend=none", "federation.rounds=2"]
    captures = []
    for engine in ("deployment", "inprocess"):
        done = run(folder, *chosen, f"name={protocol}-{engine}", arguments=("--engine", engine))
        assert done.returncode == 0, done.stderr
        root = RunFolder(folder / "runs" / f"{protocol}-{engine}").captures
        captures.append({path.relative_to(root): path.read_bytes() for path in root.rglob("*.safetensors")})
    assert captures[0]
    assert captures[0] == captures[1]


def test_a_run_that_fails_there_fails_here(deployment):
    folder, address = deployment
    settings = "name=more-users", "dataset.users=3", "federation.timeout=5"
    done = run(folder, *settings, arguments=("--superlink", address))  # whose SuperNodes are not known here
    assert done.returncode == 1
    assert "finished:failed: 2 SuperNodes are connected, dataset.users is 3" in done.stderr


def test_one_deployment_at_a_time(deployment):
    folder, _ = deployment
    again = fl_sim(folder, "up", "--users", 1)
    assert again.returncode == 2
    assert "fl-sim down stops it" in again.stderr


def test_a_server_that_another_authority_vouches_for_is_not_spoken_to(deployment):
    folder, address = deployment
    certificates.make(State(folder / "other"), 1, ["127.0.0.1"])
    done = run(folder, "name=elsewhere", "dataset.users=2", arguments=("--superlink", address), state="other")
    assert done.returncode == 1
    assert not RunFolder(folder / "runs" / "elsewhere").captures.exists()


WHY = {
    "without a key": "SuperNode authentication is enabled",
    "with a key that nobody registered": "Failed to activate SuperNode",
    "with another authority": "CERTIFICATE_VERIFY_FAILED",
}


@pytest.mark.parametrize("stranger", WHY)
def test_a_supernode_is_refused(deployment, stranger, tmp_path):
    folder, address = deployment
    other = State(tmp_path / "other")
    certificates.make(other, 1, ["127.0.0.1"])
    ours = State(folder / "state")
    authority = other.authority if stranger == "with another authority" else ours.authority
    key = {"with a key that nobody registered": other.node_key(0), "with another authority": ours.node_key(0)}
    command = [FLWR.parent / "flower-supernode", "--superlink", address, "--root-certificates", authority]
    command += ["--auth-supernode-private-key", key[stranger]] if stranger in key else []
    command += ["--port", _free_port(), "--max-retries", "1", "--node-config", "partition-id=0"]
    with (tmp_path / "log").open("wb") as log:  # no pipe: its superexec holds on to that for a while
        refused = subprocess.Popen([*map(str, command)], env=environment(tmp_path), stdout=log, stderr=log)
        assert refused.wait(timeout=200) != 0
    said = (tmp_path / "log").read_text()
    assert "Failed to initialize the connection to the SuperLink" in said
    assert WHY[stranger] in said
    assert "SuperNode ID" not in said


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_plain_http_is_not_answered(deployment):
    _, address = deployment
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert not plain.recv(100).startswith(b"HTTP/1.1 200")
