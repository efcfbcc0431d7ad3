"""`fl-sim up` and `fl-sim down`: a deployment of native processes on loopback, TLS and node authentication on."""

import shutil
import socket
import time
from collections.abc import Callable, Sequence

from fl_sim.config import ConfigError
from fl_sim.deployment import DeploymentError, State, certificates, node, processes
from fl_sim.deployment.flower import Connection, connect
from fl_sim.deployment.health import healthy
from fl_sim.deployment.processes import Deployment, Process
from fl_sim.deployment.programs import program

HOST = "127.0.0.1"
PATIENCE = 120.0  # seconds for the SuperLink to answer, and again for all SuperNodes; a busy machine is slow
PATIENCE_PER_NODE = 15.0  # seconds more for each SuperNode: they start together, and each imports much


def up(state: State, users: int, port: int, progress: Callable[[str], None]) -> Deployment:
    """Start a SuperLink on loopback with the SuperNodes of `users` users; return when all are connected.

    ConfigError if one is up already with this state or the port is taken, DeploymentError if a process fails;
    then nothing is left running.
    """
    if shutil.which("ps") is None:
        raise DeploymentError("fl-sim up watches its processes with ps, which is not on PATH; install procps")
    before = processes.recorded(state)
    if before is not None and before.alive():
        raise ConfigError(f"a deployment of {before.users} users is up at {before.superlink}; fl-sim down stops it")
    address = f"{HOST}:{port}"
    if _taken(port):
        raise ConfigError(f"something listens on {address} already; give another --port")
    certificates.make(state, users, [HOST])
    connection = connect(address, state)
    started: list[Process] = []

    def start(name: str, command: Sequence[str]) -> Process:
        process = processes.start(state, name, command)
        started.append(process)
        processes.record(state, Deployment(address, users, started))
        return process

    try:
        superlink = start("superlink", superlink_command(state, HOST, port))
        progress("the SuperLink starts")
        _await(lambda: healthy(f"https://{address}", state), state, [superlink], PATIENCE)
        start("superexec", superexec_command(state, address))
        progress(f"registers {users} keys and starts {users} SuperNodes")
        register(state, connection)
        for user in range(users):
            start(f"user-{user:04d}", node.command(state, address, user, users, _free_port()))
        _await(lambda: online(connection) == users, state, started, PATIENCE + users * PATIENCE_PER_NODE)
    except BaseException:
        down(state)
        raise
    return Deployment(address, users, started)


def down(state: State) -> Deployment | None:
    """Stop what `up` has started with this state, nothing else; None if nothing is recorded."""
    deployment = processes.recorded(state)
    if deployment is not None:
        processes.end(deployment.processes)
        state.record.unlink()
    return deployment


def superlink_command(state: State, host: str, port: int) -> list[str]:
    """A SuperLink that only registered SuperNodes and holders of the secret may work for."""
    return [
        program("flower-superlink"),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(state.authority)),
        *("--ssl-certfile", str(state.tls_certificate)),
        *("--ssl-keyfile", str(state.tls_key)),
        "--enable-supernode-auth",
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(state.superexec_secret)),
        "--disable-runtime-dependency-installation",
    ]


def superexec_command(state: State, superlink: str) -> list[str]:
    """The process in which the ServerApps of this SuperLink run."""
    return [
        program("flower-superexec"),
        *("--runtime-api-address", superlink),
        *("--root-certificates", str(state.authority)),
        *("--superexec-auth-secret-file", str(state.superexec_secret)),
    ]


def register(state: State, connection: Connection) -> None:
    """Tell the SuperLink the public keys of all users, before their SuperNodes start; twice does no harm."""
    for key in state.node_keys():
        try:
            connection.ask("supernode", "register", str(key.with_suffix(".pub")))
        except DeploymentError as error:
            if "already in use" not in str(error):
                raise


def online(connection: Connection) -> int:
    """SuperNodes that are connected now."""
    return sum(one["status"] == "online" for one in connection.ask("supernode", "ls")["nodes"])


def _free_port() -> int:
    """A port of loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _await(done: Callable[[], bool], state: State, running: Sequence[Process], patience: float) -> None:
    """Wait until `done`; DeploymentError if one of `running` ends before, or patience does."""
    deadline = time.monotonic() + patience
    while not done():
        for process in running:
            if not process.alive():
                raise DeploymentError(f"{process.name} ended: {_last_line(state, process)}")
        if time.monotonic() > deadline:
            raise DeploymentError(f"not up after {patience:.0f} s; the logs are in {state.log('superlink').parent}")
        time.sleep(1)


def _last_line(state: State, process: Process) -> str:
    log = state.log(process.name)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f"{said[-1] if said else 'it said nothing'} (all of it in {log})"
