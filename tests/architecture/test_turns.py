"""What `make test` leaves out: cases, never a whole test; and every family still stands in a test against the model itself."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.turns import ALWAYS, COLLECTED, LONG, function_of, kept, longest_first

from circuitlab.testing.families import ALL_FAMILIES
from circuitlab.testing.tiny import FAMILIES

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "tests" / "parity"


class Case:
    """What the rules ask of a collected case."""

    def __init__(self, name: str, marks: dict, **params: object) -> None:
        self.originalname = name
        self.nodeid = f"tests/made_up.py::{name}[{'-'.join(map(str, params.values()))}]"
        self.marks, self.callspec = marks, SimpleNamespace(params=params)

    def get_closest_marker(self, name: str):
        return getattr(pytest.mark, name)(*self.marks[name][0], **self.marks[name][1]).mark if name in self.marks else None


def some(*numbers: int, **each: int) -> dict:
    return {"some": (numbers, each)}


def families_of(cases) -> list[str]:
    return [case.callspec.params["family"] for case in cases]


@pytest.fixture(scope="module")
def collected(request) -> tuple[list, list]:
    """Every case and those that run by default: of this session, or, where it lacks some of tests/parity, of that folder."""
    every, few = request.config.stash[COLLECTED]
    if set(PARITY.glob("test_*.py")) <= {item.path for item in every}:
        return every, few
    kept_by: list[pytest.Config] = []

    class Keep:
        def pytest_collection_finish(self, session) -> None:
            kept_by.append(session.config)

    assert pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", str(PARITY)], [Keep()]) == 0
    return kept_by[0].stash[COLLECTED]


def test_the_same_tests_run_by_default_as_with_every(collected) -> None:
    every, few = collected
    assert 0.3 * len(every) < len(few) < len(every)
    assert {function_of(item) for item in few} == {function_of(item) for item in every}


def test_every_family_is_held_against_the_model_itself_by_default(collected) -> None:
    parity = [item for item in collected[1] if item.path.parent == PARITY and hasattr(item, "callspec")]
    values = {value for item in parity for value in item.callspec.params.values() if isinstance(value, str)}
    assert set(ALL_FAMILIES) - values == set()


def test_what_runs_on_many_families_runs_on_several_by_default(collected) -> None:
    families: dict[str, tuple[set, set]] = defaultdict(lambda: (set(), set()))
    for place, items in enumerate(collected):
        for item in items:
            params = item.callspec.params.values() if hasattr(item, "callspec") else ()
            families[function_of(item)][place].update(value for value in params if isinstance(value, str) and value in ALL_FAMILIES)
    many = {name: few for name, (every, few) in families.items() if len(every) >= len(FAMILIES)}
    assert len(many) > 20
    assert {name: few for name, few in many.items() if len(few) < 3} == {}


def test_laws_run_on_three_families_and_on_one_of_the_others_by_turns() -> None:
    turns = set()
    for name in (f"test_{number}" for number in range(20)):
        cases = [Case(name, {"laws": ((), {})}, family=family, way=way) for family in (*FAMILIES, "llama_dynamic") for way in "ab"]
        for way in "ab":
            few = families_of(case for case in kept(cases) if case.callspec.params["way"] == way)
            (other,) = [family for family in few if family not in ALWAYS]
            turns.add(other)
        assert set(ALWAYS) < set(families_of(kept(cases)))
    assert turns == set(FAMILIES) - set(ALWAYS)


def test_turns_reach_every_family_in_as_many_tests() -> None:
    marks = {"by_turns": ((5,), {})}
    runs = [families_of(kept([Case(f"test_{number}", marks, family=family) for family in ALL_FAMILIES])) for number in range(60)]
    assert all(set(ALWAYS) <= set(families) and len(families) < len(ALL_FAMILIES) / 4 for families in runs)
    assert set().union(*runs) == set(ALL_FAMILIES)


def test_some_cases_give_every_value_its_number() -> None:
    cases = [Case("test", some(site=3, family=1), site=site, family=family) for site in "zqkv" for family in FAMILIES]
    few = kept(cases)
    assert {site: sum(case.callspec.params["site"] == site for case in few) for site in "zqkv"} == dict.fromkeys("zqkv", 3)
    assert set(families_of(few)) == set(FAMILIES)
    assert len(kept([Case("test", some(2), family=family) for family in FAMILIES])) == 2


def test_cases_without_a_mark_stay_and_slow_ends_do_not() -> None:
    cases = [Case("test", {"every": ((), {})}, n=9), Case("test", {}, n=1), Case("test_other", {}, n=9)]
    assert kept(cases) == cases[1:]


def test_a_test_of_which_nothing_would_run_is_an_error() -> None:
    with pytest.raises(pytest.UsageError, match="::test runs without --every"):
        kept([Case("test", {"every": ((), {})}, n=n) for n in range(3)])


def test_long_files_come_first_and_exist() -> None:
    assert [name for name in LONG if not (ROOT / name).exists()] == []
    items = [SimpleNamespace(nodeid=f"{name}::test") for name in ("tests/a.py", LONG[1], "tests/b.py", LONG[0])]
    assert [item.nodeid for item in longest_first(items)] == [f"{name}::test" for name in (LONG[0], LONG[1], "tests/a.py", "tests/b.py")]
