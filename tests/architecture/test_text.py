"""Docstrings, annotations, ``__all__`` and exceptions are as the house wants them."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
from source_tree import made_up, module_names, package_sources
from text_rules import bad_exports, broken_exports, missing_annotations, missing_docstrings, swallowed_exceptions

MODULES = module_names()


@pytest.mark.parametrize("rule", [missing_docstrings, missing_annotations, bad_exports, swallowed_exceptions])
def test_the_package_keeps_the_rule(rule) -> None:
    assert rule(package_sources()) == []


@pytest.mark.parametrize("name", MODULES)
def test_every_exported_name_exists_and_says_what_it_is(name: str) -> None:
    assert broken_exports(importlib.import_module(name)) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("x = 1", "the module"),
        ('"""M."""\ndef f(): ...', "f"),
        ('"""M."""\nasync def f(): ...', "f"),
        ('"""M."""\nclass A:\n    x = 1', "A"),
        ('"""M."""\nclass A:\n    """A."""\n    def f(self): ...', "A.f"),
        ('"""M."""\nif True:\n    def f(): ...', "f"),
    ],
)
def test_missing_docstrings_are_found(text: str, named: str) -> None:
    (found,) = missing_docstrings(made_up(text))
    assert f" {named} has no docstring" in found


def test_private_names_need_no_docstring() -> None:
    text = '"""M."""\ndef _f(): ...\nclass _A:\n    def f(self): ...\nclass A:\n    """A."""\n    def _f(self): ...\n'
    assert missing_docstrings(made_up(text)) == []
    assert missing_docstrings(made_up("", "_private.py")) == []
    assert missing_docstrings(made_up('def f():\n    def g(): ...\n    "no docstring"', "_private/__init__.py")) == []
    assert len(missing_docstrings(made_up("", "public/__init__.py"))) == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("def f(a) -> None: ...", "a"),
        ("def f(a: int): ...", "its result"),
        ("def _f(*a, b: int) -> None: ...", "a"),
        ("def f(*, b) -> None: ...", "b"),
        ("class A:\n    def f(self, a) -> None: ...", "a"),
        ("class A:\n    @staticmethod\n    def f(a) -> None: ...", "a"),
        ("def f() -> None:\n    def g(a) -> None: ...", "a"),
    ],
)
def test_missing_annotations_are_found(text: str, named: str) -> None:
    (found,) = missing_annotations(made_up(text))
    assert found.endswith(f"does not annotate {named}")


def test_full_annotations_pass() -> None:
    text = "def f(a: int, *b: int, c: int = 1) -> int: ...\nclass A:\n    @classmethod\n    def f(cls, a: int) -> int: ...\n"
    assert missing_annotations(made_up(text)) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('__all__ = ["b", "a"]', "not sorted"),
        ('__all__ = ["a", "B"]', "not sorted"),
        ('__all__ = ["a", "a"]', "not sorted"),
        ('__all__ = ["a"]\ndef b(): ...', "b is not in __all__"),
        ('__all__ = ["a"]\nclass B: ...', "B is not in __all__"),
    ],
)
def test_bad_exports_are_found(text: str, what: str) -> None:
    (found,) = bad_exports(made_up(text))
    assert found.endswith(what)


def test_good_exports_pass() -> None:
    text = '__all__ = ["LIMIT", "A", "f"]\nLIMIT = 1\nclass A:\n    def g(self): ...\ndef f():\n    def h(): ...\ndef _g(): ...\n'
    assert bad_exports(made_up(text)) == []
    assert bad_exports(made_up("def f(): ...")) == []
    assert bad_exports(made_up('__all__ = ["app"]\n@app.command("list")\ndef list_all(): ...')) == []


def test_broken_exports_are_found() -> None:
    module = ModuleType("made_up")
    exec('__all__ = ["LIMIT", "f", "gone", "h"]\nLIMIT = 1\ndef f(): "Says."\ndef h(): return 1', module.__dict__)
    assert broken_exports(module) == ["made_up.gone does not exist", "made_up.h has no docstring"]


@pytest.mark.parametrize(
    "handler",
    [
        "except:\n    raise",
        "except OSError:\n    pass",
        "except Exception as error:\n    ...",
        "except OSError:\n    'never mind'",
    ],
)
def test_swallowed_exceptions_are_found(handler: str) -> None:
    assert len(swallowed_exceptions(made_up(f"try:\n    f()\n{handler}"))) == 1


def test_wide_suppression_is_found_and_honest_handlers_pass() -> None:
    assert len(swallowed_exceptions(made_up("with contextlib.suppress(Exception):\n    f()"))) == 1
    assert len(swallowed_exceptions(made_up("with suppress(OSError, BaseException):\n    f()"))) == 1
    honest = "with suppress(FileNotFoundError):\n    f()\ntry:\n    f()\nexcept OSError as error:\n    raise ValueError from error\n"
    assert swallowed_exceptions(made_up(honest)) == []
