import gc
import os
import signal
import socket
from pathlib import Path

import pytest
import torch
from flower_cli import FLWR
from xdist.scheduler import LoadScopeScheduling

REPOSITORY = Path(__file__).parent.parent

# Each test process takes one core: two torch threads in several processes on two cores are 11 times slower.
torch.set_num_threads(1)


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def real_faces() -> Path:
    """A folder of real faces in the form of the `folder` dataset; tests that need it skip without."""
    folder = Path(os.environ.get("FACES_DIR", REPOSITORY.parent / "shared" / "faces"))
    if not (folder / "faces.csv").exists():
        pytest.skip("no real faces here: set FACES_DIR to a folder with faces.csv")
    return folder


@pytest.fixture
def flower_environment(tmp_path):
    """A home for Flower below tmp_path and a free port; the SuperLink that `flwr run` leaves behind is ended."""
    if not Path("/proc/self/environ").exists() or not FLWR.exists():
        pytest.skip("needs flwr beside this Python, and /proc to find the SuperLink that it leaves behind")
    home = tmp_path / "flwr"
    home.mkdir()
    (home / "config.toml").write_text('[superlink]\ndefault = "local"\n[superlink.local]\naddress = ":local:"\n')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield {
        **os.environ,
        "PATH": f"{FLWR.parent}{os.pathsep}{os.environ['PATH']}",  # Flower calls its other programs by name
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    mark = f"FLWR_HOME={home}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if ours:
            os.kill(int(process.name), signal.SIGTERM)


# They start Ray, Flower, dispatchers or a browser, and mostly wait: two chains of them, each one after the other, leave
# enough of two cores for their time limits. They are begun first, all else fills the gaps at the end.
CHAINS = {
    "flower": {
        "test_flwr_run",
        "test_up_down",
        "test_compose",
        "test_clients_fail",
        "test_supernode_killed",
        "test_examples",
        "test_protocol",
        "test_federation",
        "test_ray_cluster",
    },
    "ray": {
        "test_end_to_end",
        "test_dispatch",
        "test_metrics",
        "test_watch",
        "test_watch_web",
        "test_queue",
        "test_dispatcher_killed",
        "test_report_browser",
        "test_cli",
    },
}


def chain(nodeid: str) -> str:
    """What shares a test process: a chain, or else a file, whose fixtures are then made once."""
    name = Path(nodeid.split("::")[0]).stem
    return next((chain for chain, names in CHAINS.items() if name in names), name)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: chain(item.nodeid) not in CHAINS)


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported by now is left out of collections; some of Flower's strategies ask for 20 of them


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Under pytest-xdist a chain shares a worker.

    `--dist loadgroup`, meant for that, has no effect with pytest-xdist 3.8 under pytest 9.2.
    """
    config.option.loadscopereorder = False  # which would begin what has the most tests
    return Chains(config, log)


class Chains(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return chain(nodeid)
