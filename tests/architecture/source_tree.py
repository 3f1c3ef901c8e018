"""The package's source as text and syntax trees: what the checkers of this folder read."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "circuitlab"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One module: its path inside the package, its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """Dotted name inside the package, ``model.load`` for model/load.py."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def at(self, node: ast.AST, what: str) -> str:
        """One line of a report: where, and what is wrong there."""
        return f"{self.path}:{getattr(node, 'lineno', 1)} {what}"


@dataclass(frozen=True)
class Defined:
    """A function or class with the names around it, and whether a class holds it directly."""

    node: Function | ast.ClassDef
    qualname: str
    in_class: bool
    in_function: bool

    @property
    def public(self) -> bool:
        """Whether a user can reach it: no underscore in any part of the name, not inside a function."""
        return not self.in_function and not any(part.startswith("_") for part in self.qualname.split("."))


def made_up(text: str, path: str = "made_up.py") -> list[Source]:
    """A package of one module with the given text."""
    return [Source(path, text, ast.parse(text))]


def module_names() -> list[str]:
    """Full dotted names of the modules of circuitlab, read from the folders alone."""
    paths = (path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


@functools.cache
def package_sources() -> tuple[Source, ...]:
    """Every module of circuitlab."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(Source(path.relative_to(PACKAGE).as_posix(), text, ast.parse(text)))
    return tuple(found)


def definitions(tree: ast.AST) -> Iterator[Defined]:
    """Every function and class of a module, at any depth."""
    yield from _inside(tree, "", in_class=False, in_function=False)


def _inside(node: ast.AST, prefix: str, *, in_class: bool, in_function: bool) -> Iterator[Defined]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            qualname = f"{prefix}{child.name}"
            yield Defined(child, qualname, in_class, in_function)
            is_class = isinstance(child, ast.ClassDef)
            yield from _inside(child, f"{qualname}.", in_class=is_class, in_function=in_function or not is_class)
        else:
            yield from _inside(child, prefix, in_class=in_class, in_function=in_function)


def docstring_lines(node: Function | ast.ClassDef) -> int:
    """Lines of the node's own docstring."""
    if ast.get_docstring(node) is None:
        return 0
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1


def exported(tree: ast.Module) -> list[str] | None:
    """The module's ``__all__``, or None without one."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in statement.targets):
            return list(ast.literal_eval(statement.value))
    return None


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for a chain of attributes, the called name for a call, empty for anything else."""
    if isinstance(node, ast.Call):
        return dotted(node.func)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str, str]]:
    """Each import as (node, ``module`` or ``module.name``, the name it binds here); ``import_module("x")`` counts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, alias.asname or alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node, f"{'.' * node.level}{node.module or ''}.{alias.name}", alias.asname or alias.name
        elif isinstance(node, ast.Call) and dotted(node).endswith(("import_module", "__import__")) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node, name.value, ""


def is_command(node: Function | ast.ClassDef) -> bool:
    """Whether Typer registers the function: it is decorated with ``@app.command`` or ``@app.callback``."""
    return any(dotted(decorator).endswith((".command", ".callback")) for decorator in node.decorator_list)
