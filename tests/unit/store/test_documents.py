"""Results as JSON files: made once, checked before they are believed, moved aside when damaged."""

from __future__ import annotations

import json

import pytest

from circuitlab.core.errors import StoreError
from circuitlab.store import Cache, Documents

KIND = Documents("evaluations")
ABOUT = {"circuit": ["a0.h1"], "ablation": "resample", "n": 3}


@pytest.fixture
def store(tmp_path) -> Cache:
    return Cache(tmp_path / "runs")


def test_a_result_is_made_once_and_read_as_it_was_given(store) -> None:
    calls = []

    def compute():
        calls.append(1)
        return {"value": 0.1 + 0.2, "low": float("nan"), "rows": [{"name": "x"}]}

    first = store.get_or_compute(ABOUT, KIND, compute)
    again = store.get_or_compute(dict(reversed(ABOUT.items())), KIND, compute)
    assert (first[0].result, first[1]) == ({"value": 0.1 + 0.2, "low": None, "rows": [{"name": "x"}]}, False)
    assert again == (first[0], True)
    assert len(calls) == 1
    assert store.path(ABOUT, KIND).parent.name == "evaluations"
    assert json.loads(store.path(ABOUT, KIND).read_text())["about"] == ABOUT


def test_results_of_other_things_lie_elsewhere(store) -> None:
    store.put(ABOUT, KIND, {"value": 1})
    assert store.find(ABOUT | {"n": 4}, KIND) is None


@pytest.mark.parametrize("damage", ["cut", "value", "newer", "renamed"])
def test_a_damaged_file_is_moved_aside_named_and_made_again(store, damage) -> None:
    store.put(ABOUT, KIND, {"value": 1})
    path = store.path(ABOUT, KIND)
    text = path.read_text()
    if damage == "renamed":
        store.put({"n": 9}, KIND, {"value": 2})
        store.path({"n": 9}, KIND).replace(path)
    else:
        damaged = {"cut": text[:90], "value": text.replace('"value": 1', '"value": 7'), "newer": text.replace('"schema": 1', '"schema": 9')}
        path.write_text(damaged[damage])
    with pytest.warns(UserWarning, match="moved to .*damaged"):
        found, cached = store.get_or_compute(ABOUT, KIND, lambda: {"value": 1})
    assert (found.result, cached) == ({"value": 1}, False)
    assert len(list((store.root / "evaluations" / "damaged").iterdir())) == 1
    assert store.get_or_compute(ABOUT, KIND, lambda: pytest.fail("made again"))[1]


def test_what_is_no_plain_data_is_refused(store) -> None:
    with pytest.raises(StoreError, match="not plain data"):
        store.put(ABOUT, KIND, {"value": object()})
    assert store.find(ABOUT, KIND) is None
