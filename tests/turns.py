"""Which cases of a test run without ``--every``: few families always, the others by turns, and never none of a test.

A test that runs on many families, sites or methods is thinned out by a mark. What is left out follows from its name and its parameters
alone, so that it is the same in every process and on every machine, and another part is left out of every other test.
"""

from __future__ import annotations

import zlib
from collections import defaultdict

import pytest

COLLECTED = pytest.StashKey[tuple[list[pytest.Item], list[pytest.Item]]]()
"""Of a session: every case that was collected, and those of them that run without ``--every``."""

LONG = (
    "tests/docs/test_notebooks.py",
    "tests/explorer/test_page_in_browser.py",
    "tests/cli/test_study_analyses.py",
    "tests/unit/model/test_generate.py",
    "tests/cli/test_study_on_ray.py",
    "tests/explorer/test_widget_in_jupyterlab.py",
    "tests/unit/streaming/test_same_numbers.py",
    "tests/unit/methods/test_edge_methods.py",
    "tests/docs/test_pages.py",
    "tests/parity/test_writers_parity.py",
    "tests/cli/test_json.py",
    "tests/unit/workflows/test_planted.py",
    "tests/unit/studies/test_build.py",
    "tests/architecture/test_imports.py",
    "tests/unit/model/interventions/test_laws.py",
    "tests/unit/methods/test_code_overlap.py",
    "tests/unit/workflows/test_roles_everywhere.py",
    "tests/parity/test_released_weights.py",
    "tests/explorer/test_forged.py",
    "tests/cli/test_explore.py",
    "tests/docs/test_examples.py",
    "tests/docs/test_readme.py",
)
"""Files that take longest come first: two processes that share the files are then done at nearly the same time."""

ALWAYS = ("gpt2", "gemma3", "llama_dynamic")
"""Learned positions; norms after parts and of queries, windows; grouped queries, rotary angles that depend on the length."""


def kept(items: list[pytest.Item]) -> list[pytest.Item]:
    """The cases that run without ``--every``, in their order; an error names a test of which none would."""
    functions: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        functions[function_of(item)].append(item)
    chosen = set()
    for name, cases in functions.items():
        stay = cases
        for mark, rule in RULES.items():
            stay = [case for case in stay if not case.get_closest_marker(mark)] + rule(mark, stay)
        if not stay:
            raise pytest.UsageError(f"No case of {name} runs without --every: its marks leave nothing.")
        chosen |= set(map(id, stay))
    return [item for item in items if id(item) in chosen]


def longest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """The cases with those of long files before the others."""
    return sorted(items, key=lambda item: LONG.index(file) if (file := item.nodeid.partition("::")[0]) in LONG else len(LONG))


def function_of(item: pytest.Item) -> str:
    """The test without its parameters."""
    return item.nodeid.partition("[")[0]


def family_of(item: pytest.Item) -> str:
    """The family that a case runs on: the value of the one parameter that names a family."""
    from circuitlab.testing.families import ALL_FAMILIES

    (family,) = [value for value in item.callspec.params.values() if isinstance(value, str) and value in ALL_FAMILIES]
    return family


def _marked(mark: str, cases: list) -> list:
    return [case for case in cases if case.get_closest_marker(mark)]


def _ends(mark: str, _cases: list) -> list:
    """``every``: slow ends of a parametrisation never run."""
    return []


def _laws(mark: str, cases: list) -> list:
    """``laws``: three families always, and one of the others by turns: another one for every test and every other parameter."""
    cases = _marked(mark, cases)
    others = sorted({family_of(case) for case in cases} - set(ALWAYS))

    def has_its_turn(case) -> bool:
        family = family_of(case)
        return family in ALWAYS or others[_number(case.nodeid.replace(family, "")) % len(others)] == family

    return [case for case in cases if has_its_turn(case)]


def _by_turns(mark: str, cases: list) -> list:
    """``by_turns(of)``: three families always, and every ``of``-th of the others: beginning elsewhere in every test."""
    from circuitlab.testing.families import ALL_FAMILIES

    def has_its_turn(case) -> bool:
        (of,), family = case.get_closest_marker(mark).args, family_of(case)
        return family in ALWAYS or (ALL_FAMILIES.index(family) + _number(case.originalname)) % of == 0

    return [case for case in _marked(mark, cases) if has_its_turn(case)]


def _some(mark: str, cases: list) -> list:
    """``some(name=n)``: as few cases as give every value of each named parameter ``n`` cases; ``some(n)``: ``n`` cases.

    Those with values that no chosen case has yet come first, so that few cases stand on many families and settings.
    """
    left, stay = _marked(mark, cases), []
    taken: dict[tuple[str, str], int] = defaultdict(int)  # by parameter and value; every case has the value "" of the parameter ""

    def lacking(case) -> int:
        of = case.get_closest_marker(mark)
        wanted = {(name, str(case.callspec.params[name])): n for name, n in of.kwargs.items()} or {("", ""): of.args[0]}
        return sum(taken[place] < n for place, n in wanted.items())

    def order(case) -> tuple[int, int, int]:
        return -lacking(case), sum(taken[place] for place in _values(case)), _number(case.nodeid)

    while left := [case for case in left if lacking(case)]:
        chosen = min(left, key=order)
        left.remove(chosen)
        stay.append(chosen)
        for place in _values(chosen):
            taken[place] += 1
    return stay


def _values(case) -> list[tuple[str, str]]:
    return [("", ""), *((name, str(value)) for name, value in case.callspec.params.items())]


def _number(text: str) -> int:
    return zlib.crc32(text.encode())


RULES = {"every": _ends, "laws": _laws, "by_turns": _by_turns, "some": _some}
"""By mark: which of the marked cases of one test run."""
