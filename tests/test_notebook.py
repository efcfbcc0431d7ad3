"""The notebook of the docs, executed as it stands."""

from pathlib import Path

import nbformat
import pytest
from fake_run import fake_run
from nbclient import NotebookClient

pytestmark = pytest.mark.slow


def test_the_notebook_walks_from_a_run_to_a_figure(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(repository / "docs" / "from_run_to_figure.ipynb", as_version=4)
    monkeypatch.setenv("FL_SIM_RUN", str(fake_run(tmp_path / "made", users=4, rounds=1, photos=2).root))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(repository / "docs")}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in shown)
    assert "user_diffusion: 0." in said
    assert "p 0.062" in said  # four users, all above: 1 / 16
    assert any("image/png" in output.get("data", {}) for output in shown)
