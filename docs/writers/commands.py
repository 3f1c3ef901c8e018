"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from circuitlab.cli.main import app
from writers.page import made_by, table

__all__ = ["command_page", "commands"]

_INTRODUCTION = """# Command line

What the command line can do, Python can do in one call, and a study file too. `--json` prints one JSON document. Exit codes: 0 success,
2 bad input (one sentence on standard error), 1 an error in circuitlab, 130 interrupted. `--debug`, anywhere in the line, shows the
traceback. Results are kept in a store (`--store`, or `CIRCUITLAB_STORE`), so that the same call does not run twice."""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its words: ``("tasks check", command)``."""
    yield from _leaves("", typer.main.get_command(app))


def _leaves(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield words, command
        return
    for name, child in children.items():
        yield from _leaves(f"{words} {name}".strip(), child)


def command_page() -> dict[str, str]:
    """The page of all commands."""
    parts = [made_by("the commands' own help"), _INTRODUCTION]
    parts += [one_command(words, command) for words, command in sorted(commands())]
    return {"cli.md": "\n\n".join(parts) + "\n"}


def one_command(words: str, command: Any) -> str:
    """A command, what it is for, its arguments and options."""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join([f"circuitlab {words}", *[_argument(argument) for argument in arguments], "[OPTIONS]"])
    rows = [
        [", ".join(f"`{name}`" for name in parameter.opts), getattr(parameter, "help", None) or "", _default(parameter)]
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.hidden and parameter.name != "help"
    ]
    about = " ".join((command.help or "").split())
    parts = [f"## {words} {{#{words.replace(' ', '-')}}}", about, f"```text\n{usage}\n```"]
    return "\n\n".join([*parts, table(["option", "what it does", "default"], rows)] if rows else parts)


def _argument(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _default(option: Any) -> str:
    value = option.default
    return f"`{value}`" if isinstance(value, str | int | float) and value is not False and value != "" else ""
