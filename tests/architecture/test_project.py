"""Methods are complete, no file names a folder of one machine, and every dependency is pinned."""

from __future__ import annotations

import dataclasses
import pkgutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from project_rules import incomplete_method, loose_torch, machine_paths, unpinned
from source_tree import ROOT

from circuitlab import methods
from circuitlab.execute.contract import Method
from circuitlab.methods import method_classes

LOOKED_AT = ["src", "tasks", "figures", "tests", "notebooks", "benchmarks", "docs", "README.md", "CHANGELOG.md", "Makefile"]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
# pip is what reads the pins: it is there before them, and replacing it while it runs would help nobody.
UNPINNED = {"pip is not pinned"}


def text_files() -> list[str]:
    """Files under version control; what lies in the source folders where there is no repository."""
    command = ["git", "ls-files", "--", *LOOKED_AT]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        listing = []
    return listing or [path.relative_to(ROOT).as_posix() for folder in ("src", "tasks", "tests") for path in (ROOT / folder).rglob("*.*")]


def test_no_file_names_a_folder_of_one_machine() -> None:
    names = text_files()
    assert any(name.startswith("src/circuitlab/") for name in names)
    assert machine_paths(ROOT, names) == []


@pytest.mark.parametrize("folder", ["root", "home", "work", "tmp"])
def test_folders_of_one_machine_are_found(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a.toml").write_text(f"fine = 'a/b'\nstore = '/{folder}/me/runs'\n")
    (tmp_path / "b.py").write_text("ratio = 'home/work'\nfolder = 'frame' + '/temporary/'\n")
    (tmp_path / "c.png").write_bytes(f"/{folder}/\xff".encode("latin-1"))
    assert machine_paths(tmp_path, ["a.toml", "b.py", "c.png", "gone.py"]) == [f"a.toml:2 names /{folder}/"]


def test_each_module_of_methods_is_one_method() -> None:
    modules = {module.name for module in pkgutil.iter_modules(methods.__path__) if not module.ispkg}
    assert set(method_classes()) == modules


@pytest.mark.parametrize("name", sorted(method_classes()))
def test_methods_are_frozen_and_complete(name: str) -> None:
    assert incomplete_method(name, method_classes()[name], Method, {}) == []


@dataclass(frozen=True)
class Complete:
    """A method with all it needs."""

    name: ClassVar[str] = "test_project"
    estimand: ClassVar[str] = "nothing"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("hooks",)
    cost: ClassVar[str] = "none"
    cite: ClassVar[tuple[str, ...]] = ("nobody2020",)
    steps: int = 3


def variant(body: dict[str, object], hints: dict[str, object], *, frozen: bool = True) -> type:
    """`Complete`, with some of its body and annotations replaced; None takes one away."""
    kept = {name: value for name, value in vars(Complete).items() if name in Complete.__annotations__} | body
    annotations = {name: hint for name, hint in (Complete.__annotations__ | hints).items() if hint is not None}
    made = {name: value for name, value in kept.items() if value is not None}
    return dataclass(frozen=frozen)(type("Made", (), made | {"__annotations__": annotations, "__module__": __name__}))


def problems(cls: type) -> list[str]:
    """What the checker says of a class in this file."""
    return incomplete_method(__name__.rpartition(".")[2], cls, Method, {"ClassVar": ClassVar})


def test_incomplete_methods_are_found() -> None:
    assert problems(Complete) == []
    assert problems(variant({}, {})) == []
    assert problems(variant({}, {}, frozen=False)) == ["is not a frozen dataclass"]
    assert problems(variant({"cost": None}, {})) == ["cost has no value"]
    assert problems(variant({"cite": ()}, {})) == ["cite is empty"]
    assert problems(variant({"steps": None}, {})) == ["steps has no default"]
    (found,) = problems(variant({"needs": "hooks"}, {"needs": str}))
    assert found.startswith("needs is not declared as")
    (found,) = problems(variant({"additive": None}, {"additive": None}))
    assert found.startswith("additive is not declared as")
    (found,) = incomplete_method("another", Complete, Method, {"ClassVar": ClassVar})
    assert "one method is one file" in found
    assert not dataclasses.is_dataclass(Bare)
    assert "is not a frozen dataclass" in problems(Bare)


class Bare:
    """Not a dataclass."""


@pytest.mark.parametrize("group", ["", "dev"])
def test_every_dependency_that_make_installs_is_pinned(group: str) -> None:
    assert set(unpinned(PYPROJECT, CONSTRAINTS, group)) <= UNPINNED


@pytest.mark.parametrize("group", ["images", "ray"])
def test_every_optional_dependency_is_pinned(group: str) -> None:
    assert unpinned(PYPROJECT, CONSTRAINTS, group) == []


def test_torch_is_pinned_to_one_plain_release() -> None:
    assert loose_torch(CONSTRAINTS) == []


@pytest.mark.parametrize(
    "lines", ["", "torch>=2.6", "torch==2.13.*", "torch==2.13.0+cu126", "torch==2.13.0\ntorch==2.12.0", "torchvision==1.0.0"]
)
def test_loose_pins_of_torch_are_found(lines: str) -> None:
    assert len(loose_torch(f"numpy==2.4.6\n{lines}\n")) == 1


def test_missing_and_wrong_pins_are_found() -> None:
    project = (
        '[project]\ndependencies = ["torch>=2.6", "scikit-learn", "a.b[extra]>=1.10"]\n[project.optional-dependencies]\ndev = ["ruff"]\n'
    )
    assert unpinned(project, "torch==2.13.0\nscikit_learn==1.2\nA-B==1.10.1\n", "") == []
    assert unpinned(project, "torch>=2.13.0\nscikit_learn==1.*\na-b==1.9\n", "") == [
        "torch is not pinned",
        "scikit-learn is not pinned",
        "a.b is pinned to 1.9, below 1.10",
    ]
    assert unpinned(project, "ruffian==1.0\n", "dev") == ["ruff is not pinned"]
