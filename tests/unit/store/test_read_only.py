"""A store and a cache that this user may read and not write: what is there is read, what is not is refused in a sentence, by name."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from circuitlab.core.errors import StoreError, WeightsError
from circuitlab.model.weights.cache import build_entry, locked
from circuitlab.store import HEAD_SCORES, Cache, Documents
from circuitlab.testing.fakes import fake_scores

pytestmark = pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs users and permissions as Linux has them")

KIND, NOBODY = Documents("evaluations"), 65534


@pytest.fixture
def folder():
    """A folder that every user may look into, unlike that of `tmp_path`."""
    path = Path(tempfile.mkdtemp(prefix="circuitlab-"))
    path.chmod(0o755)
    yield path
    for inner in (path, *path.rglob("*")):
        if inner.is_dir():
            inner.chmod(0o755)
    shutil.rmtree(path)


@contextlib.contextmanager
def as_any_user():
    """Root may write everywhere, so that permissions are tried as another user."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def protect(folder: Path, mode: int) -> None:
    for path in (*[path for path in folder.rglob("*") if path.is_dir()], folder):
        path.chmod(mode)


def test_a_read_only_store_is_read_and_refuses_before_work(folder) -> None:
    store, scores = Cache(folder / "runs"), fake_scores(np.ones((3, 2, 4)))
    run_id = scores.provenance.run_id()
    store.put(run_id, HEAD_SCORES, scores)
    store.put({"a": 1}, KIND, {"b": 2})
    store.checkpoint("rows").save({"rows": np.zeros(2)})
    with store.lock("x"):
        pass
    protect(store.root, 0o555)
    with as_any_user():
        assert store.list() == [run_id] and store.read(run_id).n_pairs == 3
        assert store.get_or_compute({"a": 1}, KIND, lambda: pytest.fail("computed"))[0].result == {"b": 2}
        with pytest.raises(StoreError, match=r"cannot be written: Permission denied.*Nothing was computed"):
            store.get_or_compute({"a": 2}, KIND, lambda: pytest.fail("computed"))
        for write in (
            lambda: store.put({"a": 2}, KIND, {"b": 2}),
            lambda: store.put(run_id, HEAD_SCORES, scores),
            lambda: store.checkpoint("rows").save({"rows": np.zeros(2)}),
        ):
            with pytest.raises(StoreError, match=r"Could not write .*Permission denied"):
                write()
        with pytest.raises(StoreError, match="cannot be written: Permission denied"), store.lock("x"):
            pass
        store.checkpoint("rows").clear()
    assert store.checkpoint("rows").path.is_file()


def test_a_damaged_run_of_a_read_only_store_is_named_and_stays(folder) -> None:
    store, scores = Cache(folder / "runs"), fake_scores(np.ones((3, 2, 4)))
    run_id = scores.provenance.run_id()
    store.put(run_id, HEAD_SCORES, scores)
    store.path(run_id).write_bytes(b"hello")
    protect(store.root, 0o555)
    with as_any_user(), pytest.raises(StoreError, match=r"is damaged .*cannot be moved"):
        store.has(run_id)
    assert store.path(run_id).read_bytes() == b"hello"


def test_a_store_that_may_not_be_looked_into_is_not_empty(folder) -> None:
    store = Cache(folder / "runs")
    store.put({"a": 1}, KIND, {"b": 2})
    protect(store.root, 0o000)
    with as_any_user():
        for look in (store.list, lambda: store.list(KIND), lambda: repr(store)):
            with pytest.raises(StoreError, match="cannot be read: Permission denied"):
                look()
        with pytest.raises(StoreError, match="Permission denied"):
            store.get_or_compute({"a": 1}, KIND, lambda: pytest.fail("computed"))


def test_a_read_only_weights_cache_is_named(folder) -> None:
    (folder / "cache").mkdir()
    with locked(folder / "cache" / "entry"):  # so that nothing is imported without permission to
        pass
    (folder / "cache" / ".entry.lock").unlink(missing_ok=True)
    protect(folder / "cache", 0o555)
    with as_any_user():
        with pytest.raises(WeightsError, match="cannot write to the weights cache"):
            build_entry(folder / "cache" / "entry", lambda _temporary: pytest.fail("filled"))
        with pytest.raises(WeightsError, match="cannot write to the weights cache"), locked(folder / "cache" / "entry"):
            pass
    assert list((folder / "cache").iterdir()) == []
