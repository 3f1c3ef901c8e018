"""Examples in docstrings run and say what they print, and every public name stands in an example that the tests run."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

import circuitlab as cl

ROOT = Path(__file__).parents[2]
MODULES = ["circuitlab", *sorted(found.name for found in pkgutil.walk_packages(cl.__path__, "circuitlab.") if "__main__" not in found.name)]
SUBMODULES = ["circuits", "comparison", "exports", "figures", "interventions", "methods", "metrics", "texts"]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def docstring_examples(module: ModuleType) -> list[doctest.DocTest]:
    """Docstrings of a module with at least one example that is not skipped."""
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    return [test for test in found if any(runs(example) for example in test.examples)]


def runs(example: doctest.Example) -> bool:
    return not example.options.get(doctest.SKIP, False)


def public_names() -> dict[str, Any]:
    """Everything a reader can reach from ``circuitlab`` and its public submodules, by name."""
    names = {name: getattr(cl, name) for name in cl.__all__}
    for submodule in SUBMODULES:
        names |= {f"{submodule}.{name}": getattr(getattr(cl, submodule), name) for name in getattr(cl, submodule).__all__}
    return names | {f"methods.{cls.__name__}": cls for cls in cl.methods.method_classes().values()}


def used_objects(code: str, namespace: Mapping[str, Any]) -> Iterator[Any]:
    """What the names of a piece of code (``cl.figures.upset``) stand for, read and not run: its own imports, then ``namespace``."""
    tree = ast.parse(code)
    known = dict(namespace)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) and not written_by_the_reader(node)]
    exec(compile(ast.Module(imports, []), "imports", "exec"), known)
    for node in ast.walk(tree):
        if isinstance(node, ast.alias | ast.Attribute | ast.Name):
            text = (node.asname or node.name) if isinstance(node, ast.alias) else ast.unparse(node)
            first, *rest = text.split(".")
            if first in known and all(part.isidentifier() for part in rest):
                yield from resolved(known[first], rest)


def written_by_the_reader(node: ast.stmt) -> bool:
    """Whether a module is imported that the example itself has written to a file (a notebook's ``%%writefile indirect.py``)."""
    return isinstance(node, ast.ImportFrom) and node.module == "indirect"


def resolved(value: Any, path: Iterable[str]) -> Iterator[Any]:
    yield value
    for name in path:
        if not (isinstance(value, ModuleType) and hasattr(value, name)):
            return
        value = getattr(value, name)
        yield value


def unused(examples: Iterable[tuple[str, Mapping[str, Any]]], names: Mapping[str, Any]) -> list[str]:
    """Public names that no example uses; two names of one object are one."""
    seen = {id(value) for code, namespace in examples for value in used_objects(code, namespace)}
    return sorted(name for name, value in names.items() if id(value) not in seen)


def executed_examples() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Code that this file, test_readme.py and test_notebooks.py run, each with the names it finds there."""
    for name in MODULES:
        module = importlib.import_module(name)
        for test in docstring_examples(module):
            yield "".join(example.source for example in test.examples if runs(example)), vars(module)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    yield from ((code, {}) for code in re.findall(r"^```python\n(.*?)^```", readme, flags=re.DOTALL | re.MULTILINE))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        yield "\n".join(cell.source for cell in cells if cell.cell_type == "code" and not cell.source.startswith("%%")), {}


@pytest.mark.parametrize("name", [name for name in MODULES if docstring_examples(importlib.import_module(name))])
def test_examples_of_docstrings_say_what_they_print(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples may write files
    runner, told = doctest.DocTestRunner(optionflags=FLAGS), []
    for test in docstring_examples(importlib.import_module(name)):
        runner.run(test, out=told.append)
    assert told == []


def test_every_public_name_stands_in_an_example_that_is_run() -> None:
    assert unused(executed_examples(), public_names()) == []


def test_a_name_without_an_example_and_a_wrong_example_would_be_noticed() -> None:
    names = {"figures.upset": cl.figures.upset, "TopK": cl.TopK, "circuits.TopK": cl.circuits.TopK, "cite": cl.cite}
    assert unused([("import circuitlab as cl\ncl.figures.upset(x)", {}), ("TopK(3)", {"TopK": cl.TopK})], names) == ["cite"]
    assert unused([("from circuitlab import cite\nx = 'cl.TopK'", {})], names) == ["TopK", "circuits.TopK", "figures.upset"]
    example = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n>>> 1 / 0  # doctest: +SKIP\n", {}, "made up", None, None)
    assert [runs(one) for one in example.examples] == [True, False]
    told: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=told.append)
    assert any("Expected:\n    3\nGot:\n    2" in text for text in told)
