"""Packed arrays and sparse rows give back what was put in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from circuitlab.core.errors import BadParameterError
from circuitlab.explorer.packed import pack, pack_rounded, unpack
from circuitlab.explorer.sparse import KEYS, LEAST, dense_attention, sparse_attention


@pytest.mark.parametrize("kind", ["float32", "int16", "uint16", "uint8"])
def test_numbers_come_back(kind) -> None:
    values = np.array([[0.0, 1.0, 200.0], [3.0, 4.0, 5.0]])
    packed = pack(values, kind)
    assert packed["shape"] == [2, 3] and (unpack(packed) == values).all()


def test_bytes_are_little_endian_in_c_order() -> None:
    assert pack(np.array([[1, 2], [3, 4]]), "uint16")["base64"] == "AQACAAMABAA="


@given(arrays.arrays(np.float64, (3, 4), elements=st.floats(-1e6, 1e6)))
@settings(max_examples=50, deadline=None)
def test_rounded_numbers_are_off_by_half_a_step(values) -> None:
    packed = pack_rounded(values)
    assert (np.abs(unpack(packed) - values) <= packed["scale"] * 0.5 * (1 + 1e-9)).all()
    assert packed["scale"] == (np.abs(values).max() / 32767 if values.any() else 1.0)


def test_what_is_not_known_stays_unknown() -> None:
    values = np.array([np.nan, 1.0, -2.0])
    assert np.isnan(unpack(pack(values))[0]) and np.isnan(unpack(pack_rounded(values))[0])
    assert np.isnan(unpack(pack_rounded(np.full(3, np.nan)))).all()
    with pytest.raises(BadParameterError, match="1 values are not numbers"):
        pack(values, "uint8")


@pytest.mark.parametrize(("kind", "value"), [("uint8", 256), ("uint8", -1), ("uint16", 65536), ("int16", 32768), ("int16", -32768)])
def test_what_does_not_fit_is_refused(kind, value) -> None:
    with pytest.raises(BadParameterError, match="do not fit"):
        pack(np.array([value]), kind)


def _pattern(seed: int, queries: int) -> np.ndarray:
    weights = np.random.default_rng(seed).dirichlet(np.full(queries, 0.3), size=(5, queries)) * np.tri(queries)
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("queries", [1, 7, 30, 300])
def test_sparse_rows_keep_the_strongest_keys_and_say_how_much_that_is(queries) -> None:
    pattern = _pattern(queries, queries)
    rows = sparse_attention(pattern)
    kept = dense_attention(rows, queries)
    rank = (-pattern).argsort(-1, kind="stable").argsort(-1, kind="stable")
    wanted = (rank < KEYS) & (pattern >= LEAST)
    assert (np.abs(kept - pattern * wanted) <= 0.002 + 1e-12).all()
    share = (pattern * wanted).sum((-1, -2)) / pattern.sum((-1, -2))
    assert np.abs(unpack(rows["kept"]) - share).max() <= 0.5e-4 + 1e-12
    assert (unpack(rows["counts"]) == wanted.sum(-1)).all()


def test_the_strongest_key_of_a_row_comes_first() -> None:
    rows = sparse_attention(np.array([[[0.1, 0.6, 0.3]]]))
    assert unpack(rows["keys"]).tolist() == [1, 2, 0]


def test_a_row_without_attention_has_no_keys() -> None:
    rows = sparse_attention(np.zeros((1, 2, 2)))
    assert unpack(rows["counts"]).tolist() == [[0, 0]] and unpack(rows["kept"]).tolist() == [1.0]
