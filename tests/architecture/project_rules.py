"""Rules for method classes, for paths in files, and for pinned dependencies."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, get_origin, get_type_hints

# Spelled apart, so that this file does not hold what it looks for.
FOLDERS_OF_ONE_MACHINE = re.compile("/(?:" + "|".join(["root", "home", "work", "tmp", "Users"]) + ")/")
TEXT = {"", ".py", ".md", ".toml", ".csv", ".txt", ".json", ".ipynb", ".cfg", ".yml", ".yaml", ".css", ".js", ".html", ".cff"}


def machine_paths(root: Path, names: Iterable[str]) -> list[str]:
    """Lines of text files that name a folder of somebody's machine."""
    found = []
    for name in names:
        path = root / name
        if path.suffix not in TEXT or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if match := FOLDERS_OF_ONE_MACHINE.search(line):
                found.append(f"{name}:{number} names {match.group()}")
    return found


def incomplete_method(name: str, cls: type, protocol: type, namespace: Mapping[str, object]) -> list[str]:
    """What a method class lacks of a frozen dataclass with every class variable that ``protocol`` asks for.

    ``namespace`` resolves annotations that are imported for type checking only.
    """
    params = getattr(cls, "__dataclass_params__", None)
    found = [] if params is not None and params.frozen else ["is not a frozen dataclass"]
    if cls.__module__.rpartition(".")[2] != name:
        found.append(f"{name!r} lies in {cls.__module__}, one method is one file of the same name")
    hints = get_type_hints(cls, None, dict(namespace))
    for variable, expected in get_type_hints(protocol).items():
        if get_origin(expected) is not ClassVar:
            continue
        if hints.get(variable) != expected:
            found.append(f"{variable} is not declared as {expected}")
        elif variable not in vars(cls):
            found.append(f"{variable} has no value")
        elif vars(cls)[variable] in ("", ()):
            found.append(f"{variable} is empty")
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    found += [f"{field.name} has no default" for field in fields if _required(field)]
    return found


def unpinned(pyproject: str, constraints: str, group: str) -> list[str]:
    """Dependencies of a group that constraints.txt does not pin to one version, or pins outside what they ask for.

    The group is ``""`` for what the package needs, else an optional one.
    """
    project = tomllib.loads(pyproject)["project"]
    wanted = project["optional-dependencies"][group] if group else project["dependencies"]
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;*]+)\s*(?:#.*)?$", constraints, flags=re.MULTILINE))
    versions = {_normal(name): version for name, version in pins.items()}
    found = []
    for requirement in wanted:
        name, low = re.match(r"([A-Za-z0-9._-]+)[^>]*(?:>=([\d.]+))?", requirement).groups()
        version = versions.get(_normal(name))
        if version is None:
            found.append(f"{name} is not pinned")
        elif low and _numbers(version) < _numbers(low):
            found.append(f"{name} is pinned to {version}, below {low}")
    return found


def loose_torch(constraints: str) -> list[str]:
    """What keeps torch from being one plain release: no line, two lines, a range, or a local build such as ``+cu126``."""
    lines = re.findall(r"^torch(?![A-Za-z0-9._-]).*$", constraints, flags=re.MULTILINE)
    if len(lines) != 1:
        return [f"{len(lines)} lines pin torch"]
    return [] if re.fullmatch(r"torch==\d+\.\d+\.\d+", lines[0]) else [f"{lines[0]!r} is not one plain release"]


def _required(field: dataclasses.Field) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.match(r"[\d.]*\d", version).group().split(".")]
