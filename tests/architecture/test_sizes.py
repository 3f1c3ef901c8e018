"""Files, functions, classes and parameter lists stay within their budgets."""

from __future__ import annotations

import subprocess

import pytest
from size_rules import (
    catch_all_parameters,
    long_classes,
    long_files,
    long_functions,
    many_parameters,
    unknown_folders,
    vague_modules,
)
from source_tree import ROOT, made_up, package_sources

# Exceptions to the budget of parameters, each at its present number: it may shrink and not grow.
WIDE = {
    # What a person types: each parameter is one choice of a run.
    "model.load.load_model": 7,
    "workflows.circuit.evaluate": 8,
    "workflows.circuit.find_circuit": 9,
    "workflows.compare.compare": 10,
    "workflows.compare.transfer": 10,
    "workflows.head_card.head_card": 11,
    "workflows.score.score": 9,
    "workflows.score.score_edges": 8,
    "workflows.score.score_task": 7,
}


def tracked() -> list[str]:
    """Paths of the files under version control; files on the disk where there is no repository."""
    try:
        listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        listing = []
    return listing or [path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*.py")]


@pytest.mark.parametrize("rule", [long_files, long_functions, long_classes, catch_all_parameters, vague_modules])
def test_the_package_keeps_its_budgets(rule) -> None:
    assert rule(package_sources()) == []


def test_the_package_keeps_its_budget_of_parameters() -> None:
    assert many_parameters(package_sources(), WIDE) == []


def test_the_repository_has_no_other_folders() -> None:
    assert unknown_folders(tracked()) == []


def function(lines: int, head: str = "def f() -> int:", doc: str = "") -> str:
    """A function of that many lines, the docstring not counted."""
    return "\n".join([head, *([f'    """{doc}"""'] if doc else []), *["    x = 1"] * (lines - 2), "    return x"])


def test_long_files_and_long_medians_are_found() -> None:
    assert long_files(made_up("x = 1\n" * 200)) == []
    assert long_files(made_up("x = 1\n" * 201)) == ["the median file has 201 lines, the cap is 200"]
    many = [*made_up("x = 1\n" * 401, "long.py"), *made_up("", "a.py"), *made_up("", "b.py")]
    assert long_files(many) == ["long.py has 401 lines, the cap is 400"]


def test_long_functions_are_found() -> None:
    assert long_functions(made_up(function(45, doc="A\n\n    long\n    docstring\n    "))) == []
    assert long_functions(made_up("@decorated\n@twice\n" + function(45))) == []
    assert long_functions(made_up(function(46))) == ["made_up.py:1 f has 46 lines, the cap is 45"]
    method = "class A:\n" + "\n".join("    " + line for line in function(46).splitlines())
    assert long_functions(made_up(method)) == ["made_up.py:2 A.f has 46 lines, the cap is 45"]


def test_long_classes_are_found() -> None:
    body = "\n    x = 1" * 259
    assert long_classes(made_up('class A:\n    """Says\n    what.\n    """' + body)) == []
    assert long_classes(made_up("class A:" + body + "\n    y = 1")) == ["made_up.py:1 A has 261 lines, the cap is 260"]


def test_many_parameters_are_found() -> None:
    six = "a, b, c, *, d, e, f"
    assert many_parameters(made_up(f"def f({six}): ...\nclass A:\n    def f(self, {six}): ...")) == []
    assert many_parameters(made_up(f"def f(z, {six}): ...")) == ["made_up.py:1 f has 7 parameters, the cap is 6"]
    static = f"class A:\n    @staticmethod\n    def f(self, {six}): ..."
    assert many_parameters(made_up(static)) == ["made_up.py:3 A.f has 7 parameters, the cap is 6"]


def test_commands_may_have_many_options_and_other_functions_of_the_command_line_may_not() -> None:
    wide = "def f(a, b, c, d, e, f, g): ...\n"
    assert many_parameters(made_up("@app.command('f')\n" + wide, "cli/runs.py")) == []
    registered = [*made_up(wide, "cli/runs.py"), *made_up("app.command('f')(runs.f)", "cli/main.py")]
    assert many_parameters(registered) == []
    assert len(many_parameters(made_up(wide, "cli/runs.py"))) == 1
    assert len(many_parameters(made_up("@app.command('f')\n" + wide, "runs.py"))) == 1


def test_an_exception_may_not_grow_nor_outlive_its_need() -> None:
    source = made_up("def f(a, b, c, d, e, f, g): ...")
    assert many_parameters(source, {"made_up.f": 7}) == []
    assert many_parameters(source, {"made_up.f": 8}) == ["made_up.f no longer needs its exception"]
    assert len(many_parameters(source, {"made_up.f": 7, "made_up.gone": 7})) == 1
    wider = made_up("def f(a, b, c, d, e, f, g, h): ...")
    assert many_parameters(wider, {"made_up.f": 7}) == ["made_up.py:1 f has 8 parameters, the cap is 7"]


def test_catch_all_parameters_are_found() -> None:
    assert catch_all_parameters(made_up("def f(*args): ...")) == []
    assert catch_all_parameters(made_up("def f(**options): ...")) == ["made_up.py:1 f takes **options"]


@pytest.mark.parametrize("path", ["utils.py", "model/helpers.py", "misc/__init__.py", "scores/common.py"])
def test_vague_names_are_found(path: str) -> None:
    assert len(vague_modules(made_up("", path))) == 1
    assert vague_modules(made_up("", "model/utilisation.py")) == []


def test_unknown_folders_are_found() -> None:
    assert unknown_folders(["README.md", ".ci/run", "src/circuitlab/core/nodes.py"]) == []
    assert unknown_folders(["scripts/a.py", "src/b.py", "data/c.csv"]) == ["data", "scripts"]
