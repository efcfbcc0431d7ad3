import os
from pathlib import Path

import pytest
import torch
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


# They start Ray, Flower, dispatchers or a browser, with time limits of their own: one after the other.
STARTS_PROCESSES = {
    "test_dispatch",
    "test_federation",
    "test_flwr_run",
    "test_end_to_end",
    "test_report_browser",
    "test_cli",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Under pytest-xdist a file's tests share a worker, so its fixtures are made once.

    `--dist loadgroup`, meant for that, has no effect with pytest-xdist 3.8 under pytest 9.2.
    """
    return ByFile(config, log)


class ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        name = Path(nodeid.split("::")[0]).stem
        return "processes" if name in STARTS_PROCESSES else name
