"""Execute the notebooks in place and note in each what code its outputs are of: `make notebooks`.

``notebooks/execute.py 01_tour`` executes one. ``CIRCUITLAB_PAIRS`` sets the number of prompt pairs, 16 by default.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
KEY = "circuitlab"  # of a notebook's metadata


def code_digest(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 of the code cells: what the outputs depend on. Text between them may change freely."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n\f\n".join(sources).encode()).hexdigest()


def why_stale(notebook: nbformat.NotebookNode) -> str:
    """Why the outputs are not those of the code as it stands; empty where they are."""
    noted = notebook.metadata.get(KEY, {}).get("code")
    if noted is None:
        return "it has never been executed by `make notebooks`"
    if noted != code_digest(notebook):
        return "its code has changed since it was executed"
    if [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] != list(range(1, _code_cells(notebook) + 1)):
        return "its cells were not executed from top to bottom"
    return ""


def execute(path: Path) -> None:
    """Run one notebook from top to bottom in an empty folder and write it back with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as empty:
        client = NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": empty}}, record_timing=False)
        client.execute()
    notebook.metadata[KEY] = {"code": code_digest(notebook), "pairs": int(os.environ.get("CIRCUITLAB_PAIRS", "16"))}
    notebook.metadata.language_info = {"name": "python"}  # not the version of whoever ran it
    nbformat.write(notebook, path)


def _code_cells(notebook: nbformat.NotebookNode) -> int:
    return sum(cell.cell_type == "code" for cell in notebook.cells)


def main(names: list[str]) -> None:
    """Execute the notebooks of these names, or all."""
    for path in [FOLDER / f"{Path(name).stem}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb")):
        started = time.perf_counter()
        execute(path)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
