"""Every notebook runs from top to bottom, with few pairs."""

from __future__ import annotations

import warnings
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.real_model
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CIRCUITLAB_PAIRS", "3")
    notebook = nbformat.read(path, as_version=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the kernel's transport, not ours
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    complaints = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert complaints == []
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) >= 3


def test_there_is_a_tour_and_every_notebook_is_small() -> None:
    assert "01_tour" in [path.stem for path in NOTEBOOKS]
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert max(len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code") <= 8, "notebooks hold no logic"
        assert path.stat().st_size < 300_000
