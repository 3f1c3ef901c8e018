"""The wheel, built from the checkout, installed into an empty folder and used outside the repository: everything it reads is in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")

USE = """
import json, sys
from importlib import metadata
import circuitlab
from circuitlab.circuits.published import list_published, published_circuit
from circuitlab.experiments.catalogue import RESULTS, shipped_records
from circuitlab.experiments.registry import experiment_classes
from circuitlab.explorer.example import Example, example_payload
from circuitlab.explorer.page import explorer_page, front_end
from circuitlab.studies.report.render import _environment
from circuitlab.tasks import list_tasks, load_task, sample_pairs, tasks_folder
from circuitlab.texts import list_kinds
for name in list_published():
    published_circuit(name)
print(json.dumps({
    "package": circuitlab.__file__,
    "version": metadata.version("circuitlab"),
    "tasks_folder": str(tasks_folder()),
    "pairs": {name: next(sample_pairs(load_task(name))).clean for name in list_tasks()},
    "kinds": len(list_kinds()),
    "published": list_published(),
    "results": str(RESULTS),
    "records": [record.experiment for name in experiment_classes() for record in shipped_records(name)],
    "front_end": len(front_end()[0]),
    "page": len(explorer_page(example_payload(Example(layers=2, heads=2, kv_heads=1)))),
    "templates": sorted(_environment().list_templates()),
}))
"""


def packaged() -> dict[str, Path]:
    """Every file that the wheel must hold, by its name in the wheel."""
    source = {path: path.relative_to(ROOT / "src") for path in (ROOT / "src" / "circuitlab").rglob("*")}
    tasks = {path: Path("circuitlab/_tasks") / path.relative_to(ROOT / "tasks") for path in (ROOT / "tasks").rglob("*")}
    left_out = (ROOT / "src/circuitlab/explorer/frontend").parts
    return {
        name.as_posix(): path
        for path, name in (source | tasks).items()
        if path.is_file() and "__pycache__" not in path.parts and path.parts[: len(left_out)] != left_out
    }


def called(*command: str, folder: Path, path: Path | None = None) -> str:
    """What a command prints, run in a folder, with only ``path`` before the installed packages."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("CIRCUITLAB_", "PYTHONPATH"))}
    variables |= {"PYTHONPATH": str(path)} if path else {}
    done = subprocess.run(command, cwd=folder, env=variables, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="the wheel is built with hatchling (dev extra)")
    folder = tmp_path_factory.mktemp("wheel")
    called(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(ROOT), folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.wheel
def test_the_wheel_holds_the_package_and_nothing_else(wheel) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        differing = [name for name, path in packaged().items() if name in names and file.read(name) != path.read_bytes()]
    assert names == set(packaged()) and not differing
    assert wheel.stat().st_size < 3_000_000


@pytest.mark.wheel
def test_the_source_archive_holds_no_built_pages_and_no_modules_of_npm(tmp_path) -> None:
    pytest.importorskip("hatchling")
    called(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path), folder=ROOT)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {member.name.partition("/")[2] for member in file.getmembers()}
    beginnings = {name.partition("/")[0] for name in names}
    files = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "constraints.txt", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert beginnings == {"src", "tasks"} | files
    assert not [name for name in names if "node_modules" in name or name.endswith((".ipynb", ".pyc"))]
    assert "src/circuitlab/explorer/frontend/package-lock.json" in names  # what the bundle is built from
    assert archive.stat().st_size < 3_000_000


@pytest.mark.wheel
def test_the_installed_wheel_works_outside_the_checkout(wheel, tmp_path) -> None:
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    called(*PIP, "install", "--no-deps", "--no-index", "--target", str(installed), str(wheel), folder=elsewhere)
    read = json.loads(called(sys.executable, "-c", USE, folder=elsewhere, path=installed))
    assert Path(read["package"]).is_relative_to(installed) and Path(read["results"]).is_relative_to(installed)
    assert Path(read["tasks_folder"]) == (installed / "circuitlab" / "_tasks").resolve()
    assert list(read["pairs"]) == sorted(path.stem for path in (ROOT / "tasks").glob("*.toml") if path.stem != "pools")
    assert all(read["pairs"].values()) and read["kinds"] > 30
    circuits = (ROOT / "src/circuitlab/circuits/published").glob("*.toml")
    assert sorted(read["published"]) == sorted(path.stem for path in circuits)
    assert read["records"] and read["front_end"] > 100_000 and read["page"] > read["front_end"]
    assert sorted(path.name for path in (ROOT / "src/circuitlab/studies/report/templates").iterdir()) == read["templates"]
    listed = called(sys.executable, "-m", "circuitlab", "tasks", "list", folder=elsewhere, path=installed)
    assert all(name in listed for name in read["pairs"])
