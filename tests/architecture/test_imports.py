"""Imports point down, heavy libraries load late, and nothing reaches for the network when it is imported."""

from __future__ import annotations

import ast
import shutil
import tomllib
from pathlib import Path

import pytest
from import_rules import cheapest, circles, lint_contracts, load, misplaced_transformer_lens, over_budget, unlayered
from source_tree import PACKAGE, ROOT, Source, made_up, package_sources

PYPROJECT = ROOT / "pyproject.toml"
CONTRACTS = {contract["name"]: contract for contract in tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]}
# One bad import for each contract: file, and what is added to it.
BAD_IMPORTS = {
    "Layers point down": ("core/nodes.py", "import circuitlab.scores.parts"),
    "Only models, methods, metrics and what stands above them import torch or transformers": ("circuits/select.py", "import torch"),
    "Only the adapter imports transformer_lens": ("model/load.py", "import transformer_lens"),
    "Only figures import plotly": ("studies/build.py", "import plotly.graph_objects"),
}

HEAVY_AT_IMPORT = {"torch", "transformers", "transformer_lens", "xarray", "pandas", "plotly"}
HEAVY_IN_COMMANDS = {"torch", "transformers", "transformer_lens"}
IMPORT_COST = 1.0
COMMAND_COST = 7.0
"""In imports of numpy; torch alone costs more than ten. Listing looks into a file for each of some forty methods and roles."""
LIGHT_COMMANDS = [
    "--help",
    "--version",
    "models list",
    "models list --json",
    "tasks list",
    "tasks list --json",
    "tasks show ioi",
    "methods list",
    "methods list --json",
    "cite ioi",
    "cite activation_patching",
]


def command(line: str) -> str:
    """Code that runs one command in process."""
    return f"from circuitlab.cli.main import run\nrun({line.split()!r})"


def test_every_import_contract_is_kept() -> None:
    found = lint_contracts(PYPROJECT, PACKAGE.parent)
    assert found.code == 0, found.output
    assert found.kept == dict.fromkeys(CONTRACTS, True)


@pytest.mark.parametrize("contract", BAD_IMPORTS)
def test_a_bad_import_breaks_its_contract_and_no_other(tmp_path: Path, contract: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "circuitlab", ignore=shutil.ignore_patterns("__pycache__"))
    path, line = BAD_IMPORTS[contract]
    module = tmp_path / "circuitlab" / path
    module.write_text(f"{module.read_text()}\n{line}\n")
    found = lint_contracts(PYPROJECT, tmp_path)
    assert found.code != 0
    assert [name for name, kept in found.kept.items() if not kept] == [contract], found.output


def test_every_contract_has_an_import_that_breaks_it() -> None:
    assert set(BAD_IMPORTS) == set(CONTRACTS)


def test_no_files_import_each_other_in_any_way() -> None:
    assert circles(package_sources()) == []


@pytest.mark.parametrize(
    "back",
    [
        "import circuitlab.a",
        "from circuitlab import a",
        "from circuitlab.a import x",
        "if TYPE_CHECKING:\n    from circuitlab.a import x",
        "def f():\n    from circuitlab.a import x",
        "importlib.import_module('circuitlab.a')",
    ],
)
def test_a_circle_of_any_kind_is_found(back) -> None:
    texts = {"a.py": "from circuitlab.b import y", "b.py": back, "c.py": "from circuitlab.a import x"}
    sources = [Source(path, text, ast.parse(text)) for path, text in texts.items()]
    assert circles(sources) == [["circuitlab.a", "circuitlab.b"]]


def test_every_package_has_its_layer() -> None:
    names = {source.module.partition(".")[0] for source in package_sources()} - {"__init__"}
    assert set(unlayered(names, CONTRACTS["Layers point down"]["layers"])) == set()


def test_a_package_without_a_layer_is_found() -> None:
    assert unlayered(["a", "b", "c"], ["circuitlab.a", "circuitlab.b | circuitlab.c"]) == []
    assert unlayered(["a", "bb"], ["circuitlab.a", "circuitlab.b"]) == ["bb"]


def test_import_circuitlab_is_light() -> None:
    found = cheapest("import circuitlab", IMPORT_COST)
    assert "circuitlab" in found.modules
    assert over_budget(found, IMPORT_COST, HEAVY_AT_IMPORT) == []


@pytest.mark.parametrize("line", LIGHT_COMMANDS)
def test_light_commands_load_no_model_library(line: str) -> None:
    found = cheapest(command(line), COMMAND_COST)
    assert found.output.strip(), f"circuitlab {line} printed nothing: {found.errors}"
    assert over_budget(found, COMMAND_COST, HEAVY_IN_COMMANDS) == []


def test_heavy_slow_and_failing_imports_are_found() -> None:
    heavy = load("import circuitlab, xarray")
    assert over_budget(heavy, 60, HEAVY_AT_IMPORT) == ["loads pandas", "loads xarray"]
    slow = cheapest("import numpy, time\nend = 3 * time.process_time()\nwhile time.process_time() < end: pass", 1.5, tries=2)
    assert over_budget(slow, 1.5, HEAVY_AT_IMPORT)[0].endswith("the budget is 1.5")
    wrong = load(command("tasks show no_such_task"))
    assert over_budget(wrong, 60, HEAVY_AT_IMPORT)[0].startswith("exit code 2")
    raises = load("import no_such_module")
    assert "exit code 1" in over_budget(raises, 60, HEAVY_AT_IMPORT)[0]


def test_importing_every_module_leaves_the_network_alone() -> None:
    names = ["circuitlab" if source.path == "__init__.py" else f"circuitlab.{source.module}" for source in package_sources()]
    found = load(f"import importlib\nfor name in {names!r}: importlib.import_module(name)", offline=True)
    assert over_budget(found, 120, ()) == []
    assert {"torch", "transformers"} <= found.modules
    assert "transformer_lens" not in found.modules, "it takes seconds; only a bridge needs it"


def test_a_download_at_import_is_found() -> None:
    found = load("import urllib.request\nurllib.request.urlopen('http://localhost:9/weights')", offline=True)
    assert "network at import" in over_budget(found, 120, ())[0]


def test_only_the_adapter_touches_transformer_lens() -> None:
    assert misplaced_transformer_lens(package_sources()) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("model/load.py", "from transformer_lens.model_bridge import TransformerBridge"),
        ("model/load.py", "def f():\n    import transformer_lens as tl"),
        ("model/load.py", "importlib.import_module('transformer_lens.patching')"),
        ("model/transformer_lens.py", "from transformer_lens import HookedTransformer"),
        ("model/transformer_lens.py", "import transformer_lens\nclass A(transformer_lens.TransformerBridge): ..."),
        ("model/transformer_lens.py", "from transformer_lens.model_bridge import TransformerBridge as B\nclass A(B): ..."),
    ],
)
def test_misplaced_transformer_lens_is_found(path: str, text: str) -> None:
    assert len(misplaced_transformer_lens(made_up(text, path))) == 1


def test_the_adapter_may_import_transformer_lens() -> None:
    text = "from transformer_lens.model_bridge import TransformerBridge\nfrom circuitlab.model.transformer_lens import X\nclass A(X): ..."
    assert misplaced_transformer_lens(made_up(text, "model/transformer_lens.py")) == []
