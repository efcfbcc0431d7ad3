"""The notebook of the docs, executed as it stands, where nothing has run yet."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow


def test_the_notebook_walks_from_a_run_to_a_figure(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(repository / "docs" / "from_run_to_figure.ipynb", as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = "".join("".join(output.get("data", {}).get("text/html", "")) for output in shown)
    assert "From one update" in pages  # the outcome shows its verdict
    assert "Too few users to tell whether defended leaks less than open" in pages
    said = "".join(output.get("text", "") for output in shown)
    assert "p 0.062" in said  # four users, all above: 1 / 16
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2  # a row of faces, and the figure
    assert (tmp_path / "runs" / "defended" / "report.html").is_file()
