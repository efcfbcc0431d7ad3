import os
from pathlib import Path

import pytest
import torch

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
