"""The run store: what is finished is found, what is damaged is moved aside and computed again."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from circuitlab.core.errors import StoreError
from circuitlab.explorer.documents import stored_provenances
from circuitlab.scores.edge_layout import EdgeLayout
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.store import EDGE_SCORES, HEAD_SCORES, Cache, Documents
from circuitlab.store.cache import default_root
from circuitlab.testing.fakes import fake_scores


@pytest.fixture
def scores():
    return fake_scores(np.random.default_rng(1).normal(size=(4, 2, 3)))


@pytest.fixture
def store(tmp_path) -> Cache:
    return Cache(tmp_path / "runs")


def put(store: Cache, scores) -> str:
    """Store scores and give their run id."""
    run_id = scores.provenance.run_id()
    store.put(run_id, HEAD_SCORES, scores)
    return run_id


def test_a_run_is_computed_once(store, scores) -> None:
    run_id, calls = scores.provenance.run_id(), []

    def compute():
        calls.append(1)
        return scores

    first, cached = store.get_or_compute(run_id, HEAD_SCORES, compute)
    again, cached_again = store.get_or_compute(run_id, HEAD_SCORES, compute)
    assert (cached, cached_again, len(calls)) == (False, True, 1)
    np.testing.assert_array_equal(first.values(), again.values())
    assert store.list() == [run_id]
    assert store.path(run_id).with_suffix(".json").read_text().startswith("{")


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "sidecar", "nested", "newer"])
def test_a_damaged_run_is_moved_aside_named_and_computed_again(store, scores, damage) -> None:
    run_id = put(store, scores)
    path = store.path(run_id)
    whole = path.read_bytes()
    if damage == "sidecar":
        path.with_suffix(".json").write_text("{")
    elif damage == "nested":
        path.with_suffix(".json").write_text("[" * 100_000)
        with pytest.warns(UserWarning, match="left out"):
            assert stored_provenances(store) == {}
    elif damage == "newer":
        import h5py

        with h5py.File(path, "r+") as file:
            file.attrs["schema"] = 99
        path.with_suffix(".json").unlink()
    else:
        path.write_bytes({"cut": whole[:500], "flip": whole[:-3] + b"xyz", "text": b"hello"}[damage])
    with pytest.warns(UserWarning, match="moved to .*damaged"):
        back, cached = store.get_or_compute(run_id, HEAD_SCORES, lambda: scores)
    assert not cached
    np.testing.assert_array_equal(back.values(), scores.values())
    assert list((store.root / "damaged").glob("*.nc"))
    assert store.has(run_id)


def test_a_run_without_its_sidecar_is_still_whole(store, scores) -> None:
    run_id = put(store, scores)
    store.path(run_id).with_suffix(".json").unlink()
    _, cached = store.get_or_compute(run_id, HEAD_SCORES, lambda: pytest.fail("computed again"))
    assert cached


def test_a_run_under_another_name_is_refused(store, scores) -> None:
    run_id = put(store, scores)
    store.path(run_id).rename(store.path("abc123"))
    with pytest.raises(StoreError, match=f"holds run {run_id}"):
        store.read("abc123")
    with pytest.raises(StoreError, match="was asked for"):
        store.get_or_compute("def456", HEAD_SCORES, lambda: scores)
    with pytest.raises(StoreError, match="not a run id"):
        store.path("../x")


def test_scores_of_edges_lie_beside_those_of_nodes(store, scores) -> None:
    run_id = put(store, scores)
    spec = scores.provenance.model
    shape = EdgeLayout.of(spec).shape
    n = scores.n_pairs
    arrays = {"edges": np.zeros((n, *shape)), **{name: scores.dataset[name].values for name in ("total", "clean", "corrupt")}}
    edges = EdgeScores.build(arrays, scores.provenance)
    assert not store.has(run_id, EDGE_SCORES)
    _, cached = store.get_or_compute(run_id, EDGE_SCORES, lambda: edges)
    back, again = store.get_or_compute(run_id, EDGE_SCORES, lambda: pytest.fail("computed again"))
    assert (cached, again) == (False, True)
    np.testing.assert_array_equal(back.values(), edges.values())
    assert store.list() == store.list(EDGE_SCORES) == [run_id]
    np.testing.assert_array_equal(store.read(run_id).values(), scores.values())
    store.path(run_id, EDGE_SCORES).write_bytes(b"hello")
    with pytest.warns(UserWarning, match="moved to .*damaged"):
        assert not store.has(run_id, EDGE_SCORES)
    assert store.has(run_id), "the scores of nodes are left alone"


def test_the_root_follows_the_environment(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CIRCUITLAB_STORE", str(tmp_path))
    assert default_root() == Cache().root == tmp_path
    monkeypatch.delenv("CIRCUITLAB_STORE")
    assert default_root().name == "runs"


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_follow_the_umask(store, scores, umask) -> None:
    run_id = put(store, scores)
    store.put({"a": 1}, Documents("evaluations"), {"b": 2})
    store.checkpoint(run_id).save({"rows": np.zeros(2)})
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}


@pytest.fixture
def forbid(monkeypatch):
    """Makes files with some ending unreadable for this process, as another user's are."""

    def start(*endings: str) -> None:
        read = Path.read_bytes

        def refuse(path):
            if path.name.endswith(endings):
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)

    return start


@pytest.mark.parametrize("ending", [".nc", ".json"])
def test_what_this_user_may_not_read_is_not_damaged(store, scores, forbid, ending) -> None:
    run_id = put(store, scores)
    before = sorted(store.root.rglob("*"))
    forbid(ending)
    for act in (store.has, lambda run: store.get_or_compute(run, HEAD_SCORES, lambda: pytest.fail("computed again"))):
        with pytest.raises(StoreError, match=rf"{run_id}\{ending} cannot be read: Permission denied.*owner"):
            act(run_id)
    assert sorted(store.root.rglob("*")) == before


def test_documents_and_partial_rows_that_may_not_be_read_stay(store, forbid) -> None:
    kind, partial = Documents("evaluations"), store.checkpoint("abc")
    store.put({"a": 1}, kind, {"b": 2})
    partial.save({"rows": np.zeros(2)})
    before = sorted(store.root.rglob("*"))
    forbid(".json", ".npz")
    for act in (partial.load, lambda: store.find({"a": 1}, kind), lambda: store.get_or_compute({"a": 1}, kind, dict)):
        with pytest.raises(StoreError, match="cannot be read: Permission denied"):
            act()
    assert sorted(store.root.rglob("*")) == before


def test_rows_of_a_finished_run_that_may_not_be_removed_stay(store, monkeypatch) -> None:
    partial = store.checkpoint("abc")
    partial.save({"rows": np.zeros(2)})

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        partial.clear()
    assert partial.path.is_file()
    partial.clear()
    assert not partial.path.is_file()


def test_a_damaged_run_that_cannot_be_moved_is_named(store, scores) -> None:
    run_id = put(store, scores)
    store.path(run_id).write_bytes(b"hello")
    (store.root / "damaged").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"is damaged .* and cannot be moved"):
        store.has(run_id)


def test_an_unwritable_store_is_found_before_anything_is_computed(tmp_path, scores) -> None:
    (tmp_path / "file").write_text("")
    store = Cache(tmp_path / "file" / "runs")
    with pytest.raises(StoreError, match=r"cannot be written.*Nothing was computed"):
        store.get_or_compute(scores.provenance.run_id(), HEAD_SCORES, lambda: pytest.fail("computed"))
    with pytest.raises(StoreError, match="cannot be written"):
        store.get_or_compute({"a": 1}, Documents("evaluations"), lambda: pytest.fail("computed"))


def test_nothing_stays_beside_the_runs(store, scores) -> None:
    run_id, _ = scores.provenance.run_id(), store.get_or_compute(scores.provenance.run_id(), HEAD_SCORES, lambda: scores)
    assert sorted(path.name for path in store.root.rglob("*") if path.is_file()) == [f"{run_id}.json", f"{run_id}.nc"]


def test_two_that_want_one_result_compute_it_once(tmp_path, scores) -> None:
    run_id, calls = scores.provenance.run_id(), []

    def compute():
        calls.append(1)
        time.sleep(0.2)
        return scores

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: Cache(tmp_path).get_or_compute(run_id, HEAD_SCORES, compute), range(2)))
    assert len(calls) == 1
    assert sorted(cached for _, cached in both) == [False, True]


def test_a_lock_that_is_held_is_told_and_one_that_cannot_be_taken_named(store, monkeypatch) -> None:
    with store.lock("x") as held, store.lock("x", wait=False) as again:
        assert (held, again) == (True, False)

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(StoreError, match=r"x\.lock cannot be taken: Permission denied"), store.lock("x"):
        pass


@pytest.mark.parametrize(("at", "byte"), [(4, 109), (6, 33), (6, 1)], ids=["a later version", "patched", "encrypted"])
def test_rows_in_an_archive_that_claims_to_be_of_another_kind_are_computed_again(store, at, byte) -> None:
    partial = store.checkpoint("abc")
    partial.save({"rows": np.zeros(2)})
    data = bytearray(partial.path.read_bytes())
    central = data.index(b"PK\x01\x02")  # the table of contents repeats the header, two bytes later
    data[at], data[central + at + 2] = byte, byte
    partial.path.write_bytes(data)
    with pytest.warns(UserWarning, match="is damaged"):
        assert partial.load() == {}
