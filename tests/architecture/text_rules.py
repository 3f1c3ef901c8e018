"""Rules for docstrings, annotations, ``__all__`` and exceptions."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from types import ModuleType

from source_tree import Defined, Function, Source, definitions, dotted, exported, is_command


def missing_docstrings(sources: Iterable[Source]) -> list[str]:
    """Public modules, classes, functions and methods without a docstring."""
    found = []
    for source in sources:
        hidden = any(part.startswith("_") and not part.startswith("__init__") for part in source.module.split("."))
        if not hidden and not ast.get_docstring(source.tree):
            found.append(source.at(source.tree, "the module has no docstring"))
        found += [
            source.at(entry.node, f"{entry.qualname} has no docstring")
            for entry in definitions(source.tree)
            if entry.public and not hidden and not _overload(entry) and not ast.get_docstring(entry.node)
        ]
    return found


def missing_annotations(sources: Iterable[Source]) -> list[str]:
    """Parameters and results of any function, private and nested ones included, without a type."""
    return [
        source.at(entry.node, f"{entry.qualname} does not annotate {', '.join(bare)}")
        for source in sources
        for entry in definitions(source.tree)
        if isinstance(entry.node, Function) and (bare := _unannotated(entry))
    ]


def bad_exports(sources: Iterable[Source]) -> list[str]:
    """``__all__`` out of order, with repeats, or without a public function or class of its module.

    The order is ruff's: constants, then classes, then the rest. Commands are left out: users reach them through their app.
    """
    found = []
    for source in sources:
        names = exported(source.tree)
        if names is None:
            continue
        if names != sorted(set(names), key=_export_order):
            found.append(f"{source.path} __all__ is not sorted")
        found += [
            source.at(entry.node, f"{entry.qualname} is not in __all__")
            for entry in definitions(source.tree)
            if entry.public and "." not in entry.qualname and entry.qualname not in names and not is_command(entry.node)
        ]
    return found


def broken_exports(module: ModuleType) -> list[str]:
    """Names in ``__all__`` that the imported module lacks, and what they name without saying what it is."""
    found = []
    for name in getattr(module, "__all__", []):
        if not hasattr(module, name):
            found.append(f"{module.__name__}.{name} does not exist")
        elif _speaks(value := getattr(module, name)) and not (value.__doc__ or "").strip():
            found.append(f"{module.__name__}.{name} has no docstring")
    return found


def swallowed_exceptions(sources: Iterable[Source]) -> list[str]:
    """Bare ``except:``, handlers that do nothing, and ``suppress`` of every exception."""
    found = []
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ExceptHandler):
                if node.type is None:
                    found.append(source.at(node, "catches everything"))
                if all(map(_nothing, node.body)):
                    found.append(source.at(node, "swallows an exception"))
            elif isinstance(node, ast.Call) and _suppresses_everything(node):
                found.append(source.at(node, "swallows every exception"))
    return found


def _export_order(name: str) -> tuple[int, str]:
    if len(name) > 1 and name.isupper():
        return 0, name
    return (1 if name[:1].isupper() else 2), name


def _overload(entry: Defined) -> bool:
    return any(dotted(decorator).endswith("overload") for decorator in entry.node.decorator_list)


def _unannotated(entry: Defined) -> list[str]:
    arguments = entry.node.args
    names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
    if entry.in_class and not any(dotted(decorator) == "staticmethod" for decorator in entry.node.decorator_list):
        names = names[1:]
    bare = [argument.arg for argument in names if argument.annotation is None]
    return bare if entry.node.returns is not None else [*bare, "its result"]


def _suppresses_everything(call: ast.Call) -> bool:
    wide = {dotted(argument) for argument in call.args} & {"Exception", "BaseException"}
    return dotted(call).rpartition(".")[2] == "suppress" and bool(wide)


def _nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))


def _speaks(value: object) -> bool:
    return inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value)
