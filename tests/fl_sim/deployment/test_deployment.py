"""A deployment without starting one: certificates, keys, the processes that are ours, what is refused."""

import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.config import ConfigError, load
from fl_sim.deployment import DeploymentError, State, certificates, flower, native, node, processes
from fl_sim.engines import deployment
from fl_sim.engines.deployment import await_users
from fl_sim.runs import RunFolder


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("FL_SIM_STATE", str(tmp_path / "state"))
    made = State(tmp_path / "state")
    certificates.make(made, 2, ["superlink", "10.0.0.7"])
    return made


def read(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_all_that_is_written_is_for_the_owner_alone(state):
    modes = {stat.S_IMODE(path.stat().st_mode) for path in state.root.rglob("*") if path.is_file()}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in state.root.rglob("*") if path.is_dir()}
    assert (modes, folders) == ({0o600}, {0o700})


def test_the_certificate_is_the_authoritys_and_names_its_hosts(state):
    certificate, authority = read(state.tls_certificate), read(state.authority)
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", "superlink"}
    assert {str(one) for one in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "10.0.0.7"}


def test_nobody_can_sign_another_one(state):
    """The authority's private key is nowhere: the only key beside the nodes' is the server's."""
    assert certificates.serves(state, 2)
    keys = [path for path in state.root.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert sorted(keys) == [state.node_key(0), state.node_key(1), state.tls_key]
    assert read(state.authority).public_key() != read(state.tls_certificate).public_key()


def test_made_anew_nothing_is_as_before(state):
    before = {path: path.read_bytes() for path in state.root.rglob("*") if path.is_file()}
    old = read(state.authority)
    certificates.make(state, 1, [])
    assert len(state.node_keys()) == 1
    assert all(path.read_bytes() != content for path, content in before.items() if path.exists())
    with pytest.raises((InvalidSignature, ValueError)):
        read(state.tls_certificate).verify_directly_issued_by(old)
    assert not certificates.serves(state, 2)


def test_each_supernode_becomes_another_user(state, monkeypatch):
    became = []

    def execve(program, arguments, environment):
        became.append(arguments[arguments.index("--node-config") + 1])
        raise SystemExit  # the real one does not return either

    monkeypatch.setattr(node.os, "execve", execve)
    for _ in range(2):
        with pytest.raises(SystemExit):
            node.become(state, "127.0.0.1:1", 2)
    assert became == ["partition-id=0 num-partitions=2", "partition-id=1 num-partitions=2"]
    with pytest.raises(DeploymentError, match="all 2 keys"):
        node.become(state, "127.0.0.1:1", 2)


def test_a_process_that_only_has_the_pid_of_ours_is_left_alone(state):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        recorded = processes.Process("superlink", stranger.pid, ["flower-superlink", "--port", "1"])
        assert not recorded.alive()
        processes.record(state, processes.Deployment("127.0.0.1:1", 1, [recorded]))
        assert native.down(state) is not None
        assert stranger.poll() is None
        assert native.down(state) is None
    finally:
        stranger.kill()
        stranger.wait()


def test_without_ps_nothing_is_started(state, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeploymentError, match="install procps"):
        native.up(state, 2, 9092, print)
    assert not state.record.exists()


def test_with_a_process_end_all_that_it_started(state):
    child = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '61']).pid, flush=True); time.sleep(60)"
    ours = processes.start(state, "parent", [sys.executable, "-c", child])
    while not (said := state.log("parent").read_text()):
        time.sleep(0.05)
    grandchild = processes.Process("", int(said), ["sleep 61"])
    assert ours.alive()
    assert grandchild.alive()
    processes.end([ours])
    assert not ours.alive()
    assert not grandchild.alive()


ASCII = st.text(st.characters(codec="ascii"))


@settings(max_examples=50, deadline=None)
@given(host=ASCII, port=ASCII)
def test_what_is_no_address_is_refused_in_one_sentence(host, port):
    if not host or not port.isdigit():
        with pytest.raises(ConfigError, match="give HOST:PORT"):
            flower.connect(f"{host}:{port.replace(':', '')}", State(Path("/nowhere")))


def test_a_superlink_is_found_or_the_reason_told(state):
    with pytest.raises(ConfigError, match="fl-sim up"):
        flower.find(None, 1)
    processes.record(state, processes.Deployment("127.0.0.1:7", 1, []))
    with pytest.raises(ConfigError, match=r"has started 1 SuperNodes, dataset.users is 3; give -o dataset.users=1"):
        flower.find(None, 3)
    found = flower.find(None, 1)
    assert str(state.authority) in (found.home / "config.toml").read_text()
    assert "insecure" not in (found.home / "config.toml").read_text()
    assert flower.find("mine", 3) == flower.Connection("mine")
    state.authority.unlink()
    with pytest.raises(ConfigError, match="cannot be checked"):
        flower.find("far:1", 3)


def test_an_occupied_port_is_refused_before_anything_starts(state):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(ConfigError, match="another --port"):
            native.up(state, 1, server.getsockname()[1], print)
    assert not state.record.exists()


@pytest.mark.parametrize("connected", [1, 3])
def test_rounds_do_not_start_without_all_users_or_with_others(connected):
    class Grid:
        def get_node_ids(self):
            return range(connected)

    with pytest.raises(DeploymentError, match=rf"{connected} SuperNodes are connected, dataset.users is 2"):
        await_users(Grid(), 2, timeout=0)


class Told:
    """A SuperLink that has run an app to its end, and says how it ended."""

    def __init__(self, details: str) -> None:
        self.details = details

    def ask(self, *arguments: str) -> dict[str, str]:
        return {"run-id": "1"}

    def log(self, run_id: str, file: object) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", ""])

    def status(self, run_id: str) -> dict[str, str]:
        return {"status": "finished:failed", "status-details": self.details}


@pytest.mark.parametrize(("details", "rounds"), [(deployment.UNTOLD, 1), ("Simulation failed", 2)])
def test_a_run_that_failed_is_an_error(tmp_path, details, rounds):
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    pd.DataFrame({"round": range(rounds)}).to_parquet(run.rounds)
    with pytest.raises(DeploymentError, match=details):
        deployment.run(load(overrides=["federation.rounds=2"]), run, Told(details))


def test_a_run_of_whose_end_flower_did_not_hear_is_complete_with_its_last_round(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    pd.DataFrame({"round": [1, 2]}).to_parquet(run.rounds)
    assert deployment.run(load(overrides=["federation.rounds=2"]), run, Told(deployment.UNTOLD)) == "1"
