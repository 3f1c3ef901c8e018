"""Budgets of size: files, functions, classes, parameters, names of modules and folders."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterable, Mapping, Sequence

from source_tree import Defined, Function, Source, definitions, docstring_lines, dotted, is_command

FILE_LINES = 400
MEDIAN_LINES = 200
FUNCTION_LINES = 45
CLASS_LINES = 260
PARAMETERS = 6
VAGUE = {"utils", "util", "helpers", "misc", "common"}
FOLDERS = {"src", "notebooks", "tasks", "tests", "figures", "benchmarks", "docs"}


def long_files(sources: Sequence[Source]) -> list[str]:
    """Files above the cap, and the median if it is above its own."""
    lengths = {source.path: len(source.text.splitlines()) for source in sources}
    found = [f"{path} has {lines} lines, the cap is {FILE_LINES}" for path, lines in lengths.items() if lines > FILE_LINES]
    median = statistics.median(lengths.values())
    return found + ([f"the median file has {median:.0f} lines, the cap is {MEDIAN_LINES}"] if median > MEDIAN_LINES else [])


def long_functions(sources: Iterable[Source]) -> list[str]:
    """Functions above the budget, from ``def`` to the end without the docstring.

    Docstrings do not count: they are asked for on every public function, and a good one should not cost code. Decorators do
    not count either.
    """
    return [
        source.at(entry.node, f"{entry.qualname} has {lines} lines, the cap is {FUNCTION_LINES}")
        for source in sources
        for entry in definitions(source.tree)
        if isinstance(entry.node, Function) and (lines := _lines(entry.node) - docstring_lines(entry.node)) > FUNCTION_LINES
    ]


def long_classes(sources: Iterable[Source]) -> list[str]:
    """Classes above the budget, without the docstrings of the class and of what it defines."""
    found = []
    for source in sources:
        for entry in definitions(source.tree):
            if not isinstance(entry.node, ast.ClassDef):
                continue
            inside = [inner.node for inner in definitions(entry.node)]
            lines = _lines(entry.node) - sum(map(docstring_lines, [entry.node, *inside]))
            if lines > CLASS_LINES:
                found.append(source.at(entry.node, f"{entry.qualname} has {lines} lines, the cap is {CLASS_LINES}"))
    return found


def many_parameters(sources: Sequence[Source], allowed: Mapping[str, int] | None = None) -> list[str]:
    """Functions with more parameters than the budget, self and cls not counted.

    Commands of the command line are exempt: Typer reads one option from each parameter, so a command has as many parameters
    as a user has options. ``allowed`` names exceptions with their number of parameters; one that is no longer needed is
    reported too.
    """
    commands = _commands(sources)
    counts = {
        f"{source.module}.{entry.qualname}": (source, entry, _parameters(entry))
        for source in sources
        for entry in definitions(source.tree)
        if isinstance(entry.node, Function) and not (source.path.startswith("cli/") and _is_command(source, entry, commands))
    }
    caps = dict.fromkeys(counts, PARAMETERS) | dict(allowed or {})
    found = [
        source.at(entry.node, f"{entry.qualname} has {count} parameters, the cap is {caps[name]}")
        for name, (source, entry, count) in counts.items()
        if count > caps[name]
    ]
    stale = [name for name, cap in (allowed or {}).items() if name not in counts or counts[name][2] < cap]
    return found + [f"{name} no longer needs its exception" for name in stale]


def catch_all_parameters(sources: Iterable[Source]) -> list[str]:
    """Functions that take ``**kwargs``: a wrong name would pass unseen."""
    return [
        source.at(entry.node, f"{entry.qualname} takes **{entry.node.args.kwarg.arg}")
        for source in sources
        for entry in definitions(source.tree)
        if isinstance(entry.node, Function) and entry.node.args.kwarg
    ]


def vague_modules(sources: Iterable[Source]) -> list[str]:
    """Modules and packages whose name says nothing."""
    return [f"{source.path} has a name that says nothing" for source in sources if VAGUE & set(source.module.split("."))]


def unknown_folders(paths: Iterable[str]) -> list[str]:
    """Top-level folders of files outside the layout; hidden ones are free."""
    folders = {path.partition("/")[0] for path in paths if "/" in path}
    return sorted(name for name in folders if name not in FOLDERS and not name.startswith("."))


def _lines(node: Function | ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _parameters(entry: Defined) -> int:
    arguments = entry.node.args
    names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
    static = any(dotted(decorator) == "staticmethod" for decorator in entry.node.decorator_list)
    return len(names) - (entry.in_class and not static)


def _commands(sources: Iterable[Source]) -> set[str]:
    """Functions registered from elsewhere, ``app.command("score")(results.score)``, as ``results.score``."""
    return {
        dotted(node.args[0])
        for source in sources
        if source.path.startswith("cli/")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Call) and dotted(node.func).endswith(".command") and node.args
    }


def _is_command(source: Source, entry: Defined, commands: set[str]) -> bool:
    return is_command(entry.node) or f"{source.module.rpartition('.')[2]}.{entry.qualname}" in commands
