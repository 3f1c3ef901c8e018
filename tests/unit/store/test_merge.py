"""Stores of several machines become one: what is there stays, what is damaged is named, and a build then finds every cell."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.core.errors import StoreError
from circuitlab.store import HEAD_SCORES, Cache, Documents, merge_stores
from circuitlab.testing.fakes import fake_scores

NOTES = Documents("notes")


def filled(root, number: float) -> Cache:
    cache = Cache(root)
    scores = fake_scores(np.full((2, 2, 3), number), task=f"task {number}")
    cache.put(scores.provenance.run_id(), HEAD_SCORES, scores)
    cache.put({"about": number}, NOTES, {"value": number})
    return cache


def test_what_is_lacking_is_copied_and_nothing_is_replaced(tmp_path) -> None:
    first, second, target = filled(tmp_path / "a", 1.0), filled(tmp_path / "b", 2.0), filled(tmp_path / "t", 1.0)
    kept = {path: path.read_bytes() for path in target.root.rglob("*.*") if path.is_file()}
    result = merge_stores([first, second], target)
    assert (result.copied, result.present, result.damaged) == (2, 2, [])
    assert {path: path.read_bytes() for path in kept} == kept
    assert target.list() == sorted(first.list() + second.list())
    for run in second.list():
        assert target.read(run).values("heads").tobytes() == second.read(run).values("heads").tobytes()
        assert target.has(run) and (target.root / f"{run}.json").exists()
    assert target.find({"about": 2.0}, NOTES).result == {"value": 2.0}


def test_damaged_files_are_named_and_left(tmp_path) -> None:
    source, target = filled(tmp_path / "a", 1.0), Cache(tmp_path / "t")
    (run,) = source.list()
    source.path(run).write_bytes(source.path(run).read_bytes()[:-20])
    result = merge_stores([source], target)
    assert result.copied == 1 and len(result.damaged) == 1
    assert str(source.path(run)) in result.damaged[0] and source.path(run).exists()
    assert target.list() == []


def test_a_store_is_not_merged_into_itself_and_must_exist(tmp_path) -> None:
    source = filled(tmp_path / "a", 1.0)
    with pytest.raises(StoreError, match="cannot be merged into itself"):
        merge_stores([source], Cache(tmp_path / "b" / ".." / "a"))
    with pytest.raises(StoreError, match="There is no store"):
        merge_stores([Cache(tmp_path / "none")], source)
