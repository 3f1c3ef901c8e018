"""Every notebook runs from top to bottom, with few pairs, and its committed outputs are those of its code."""

from __future__ import annotations

import importlib.util
import warnings
from functools import partial
from pathlib import Path

import nbformat
import plotly.io
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import circuitlab as cl

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONG = {path.stem for path in NOTEBOOKS} - {"08_your_own"}
"""Notebooks that take long also with few pairs: run by `make test-every`, their outputs held against their code always."""
SPEC = importlib.util.spec_from_file_location("notebooks_execute", FOLDER / "execute.py")
assert SPEC is not None and SPEC.loader is not None
execute = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(execute)


def stem(path: Path) -> str:
    return path.stem


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One store for all notebooks, which score the same tasks by the same methods."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def few(monkeypatch, tmp_path, smollm2, runs):
    """Few pairs, in an empty folder, with the model that other tests have loaded, and scores that another notebook has computed."""
    monkeypatch.setenv("CIRCUITLAB_PAIRS", "3")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.setattr("circuitlab.workflows.prompts.FITNESS_PAIRS", 8)
    load, check_task = cl.load_model, cl.check_task
    monkeypatch.setattr(cl, "load_model", lambda model, **settings: smollm2 if model == "smollm2-135m" else load(model, **settings))
    monkeypatch.setattr(cl, "check_task", lambda model, task, n=8: check_task(model, task, min(n, 8)))
    monkeypatch.setattr(cl, "score", partial(cl.score, store=runs))


@pytest.fixture
def shell(monkeypatch):
    """An IPython session of its own, which shows figures as a notebook does."""
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


@pytest.mark.real_model
@pytest.mark.parametrize("path", [pytest.param(path, marks=pytest.mark.every if path.stem in LONG else ()) for path in NOTEBOOKS], ids=stem)
def test_a_notebook_runs(few, shell, path) -> None:
    """In this process, which needs no kernel that imports and loads everything again."""
    outputs = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        with capture_output() as captured:
            done = shell.run_cell(cell.source)
        done.raise_error()
        assert captured.stderr == ""
        outputs += captured.outputs
    assert sum("application/vnd.plotly.v1+json" in output.data for output in outputs) >= 3


def test_a_notebook_is_executed_in_place_by_a_kernel_of_its_own(tmp_path) -> None:
    sources = ["import numpy as np\nimport circuitlab as cl\nfrom circuitlab.testing.fakes import fake_scores"]
    sources += ["scores = fake_scores(np.zeros((4, 2, 3)))\nscores", "cl.figures.head_heatmap(scores)"]
    path = tmp_path / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources]), path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the kernel's transport, not ours
        execute.execute(path)
    notebook = nbformat.read(path, as_version=4)
    assert execute.why_stale(notebook) == ""
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"execute_result", "display_data"}, "no complaint"
    for kind in ("text/html", "application/vnd.plotly.v1+json"):
        assert any(kind in output.data for output in outputs)


def test_there_is_a_tour_and_every_notebook_is_small() -> None:
    assert "01_tour" in [path.stem for path in NOTEBOOKS]
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        code = [cell.source for cell in cells if cell.cell_type == "code"]
        assert max(len(source.splitlines()) for source in code if not source.startswith("%%writefile")) <= 8, "notebooks hold no logic"
        assert any(line.startswith("assert ") for line in code[-1].splitlines()), f"{path.name} ends without asserting its claim"
        assert path.stat().st_size < 300_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_committed_outputs_are_those_of_the_code(path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert execute.why_stale(notebook) == "", f"{path.name}: run `make notebooks`"
    assert notebook.metadata[execute.KEY]["pairs"] >= 8, "a reader sees numbers of more than a handful of pairs"
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) >= 3


def test_stale_outputs_would_be_noticed() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("a"), nbformat.v4.new_code_cell("1 + 1", execution_count=1)])
    assert "never been executed" in execute.why_stale(notebook)
    notebook.metadata[execute.KEY] = {"code": execute.code_digest(notebook), "pairs": 16}
    assert execute.why_stale(notebook) == ""
    notebook.cells[0].source = "text may change"
    assert execute.why_stale(notebook) == ""
    notebook.cells[1].execution_count = 2
    assert "top to bottom" in execute.why_stale(notebook)
    notebook.cells[1].source = "1 + 2"
    assert "code has changed" in execute.why_stale(notebook)
