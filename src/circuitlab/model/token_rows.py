"""Read token ids from lists, tensors, arrays and table columns, and refuse invalid rows by their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from circuitlab.core.errors import BadParameterError

__all__ = ["places", "require_contrast", "require_no_overlap", "require_unpadded", "token_rows", "token_sets"]

Rows = Sequence[Sequence[int]]

_LARGEST = 2**31 - 1  # far larger than any vocabulary, and sums of ids still fit into 64 bits
_LEAST_RUN = 3  # a prompt may begin with two equal tokens by chance


def token_rows(part: str, rows: Iterable[object]) -> list[list[int]]:
    """One list of token ids per prompt.

    Parameters
    ----------
    part : str
        Their name in messages, for example ``"clean"``.
    rows : iterable
        A list, tuple, tensor, array or table column of rows; each row a list, tuple, tensor, array or column of integers.

    Raises
    ------
    BadParameterError
        If a row is text or not a sequence, or contains something other than non-negative integers.
    """
    return [_ids(part, i, _items(f"{part}[{i}]", row)) for i, row in enumerate(_items(part, rows))]


def token_sets(part: str, rows: Iterable[object]) -> list[list[int]]:
    """One list of distinct token ids per pair; a pair may give a single id instead of a list. See `token_rows`."""
    sets = []
    for i, row in enumerate(_items(part, rows)):
        alone = _is_scalar(row)
        sets.append(list(dict.fromkeys(_ids(part, i, [_plain(row)] if alone else _items(f"{part}[{i}]", row)))))
    return sets


def places(mark: str, values: Iterable[object]) -> list[int]:
    """The positions of a mark: one integer for each prompt, by itself or as a sequence of one.

    Raises
    ------
    BadParameterError
        If something is not an integer; whether a position lies in its prompt is not checked here.
    """
    positions = []
    for row, item in enumerate(_items(f"mark {mark!r}", values)):
        for entry in [item] if _is_scalar(item) else _items(f"mark {mark!r}[{row}]", item):
            value = _plain(entry)
            if isinstance(value, bool) or not isinstance(value, int):
                what = f"mark {mark!r}, row {row}: {value!r} ({type(value).__name__}) is not a position."
                raise BadParameterError(what, "Give the number of a token in each prompt, counted from 0.")
            positions.append(value)
    return positions


def require_contrast(clean: Rows, corrupt: Rows) -> None:
    """Raise `BadParameterError` if a clean prompt equals its corrupt prompt: such a pair has no contrast."""
    if same := [i for i, (a, b) in enumerate(zip(clean, corrupt, strict=True)) if a == b]:
        what = f"In {_rows(same)} of {len(clean)} the clean and the corrupt prompt are the same tokens."
        raise BadParameterError(what, "Drop these pairs, or change their corrupt prompts.")


def require_no_overlap(answers: Rows, others: Rows, name: str) -> None:
    """Raise `BadParameterError` if a token is both an answer and among ``name`` (foils or distractors) of the same pair."""
    clash = {i: sorted(set(a) & set(b)) for i, (a, b) in enumerate(zip(answers, others, strict=True)) if set(a) & set(b)}
    if clash:
        shown = "; ".join(f"row {i}: {', '.join(map(str, tokens[:5]))}" for i, tokens in list(clash.items())[:5])
        what = f"{len(clash)} of {len(answers)} pairs have the same token among answers and {name} ({shown})."
        raise BadParameterError(what, f"Answers and {name} must be different tokens; drop these pairs or choose other words.")


def require_unpadded(clean: Rows, corrupt: Rows) -> None:
    """Raise `BadParameterError` if rows are padded, on the left or on the right.

    Ids alone do not tell which of them is padding, so only unambiguous rows are refused: all rows have the same length, and some begin (or
    end) with runs of an id that occurs nowhere else, with different run lengths, the longest at least three (two if the id is 0). With the
    model's tokenizer, `circuitlab.model.inside.require_fit` checks for its padding token.
    """
    rows = [*clean, *corrupt]
    if len({len(row) for row in rows}) != 1:
        return
    _require_no_runs(rows, "left", "begin")
    _require_no_runs([row[::-1] for row in rows], "right", "end")


def _require_no_runs(rows: Rows, side: str, verb: str) -> None:
    """Refuse rows (all clean ones, then all corrupt ones) whose beginnings can only be padding."""
    for token in sorted({row[0] for row in rows}):
        runs = [_run(row, token) for row in rows]
        longest = max(runs)
        if longest < (_LEAST_RUN if token else _LEAST_RUN - 1) or len(set(runs)) == 1:
            continue
        if longest < len(rows[0]) and all(row.count(token) == run for row, run in zip(rows, runs, strict=True)):
            half = len(rows) // 2
            padded = [i for i in range(half) if runs[i] or runs[i + half]]
            times = f"up to {longest} times token {token}"
            what = f"Prompts look padded on the {side}: {_rows(padded)} {verb} with {times}, found nowhere else."
            fix = "Give prompts without padding; rows may differ in length. If these are real tokens, make one batch for each run length."
            raise BadParameterError(what, fix)


def _run(row: Sequence[int], token: int) -> int:
    """Length of the run of a token at the beginning of a row."""
    return next((i for i, other in enumerate(row) if other != token), len(row))


def _rows(numbers: Sequence[int]) -> str:
    """``rows 0, 3, ...``, at most five of them."""
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")  # noqa: PLR2004 - as the docstring says
    return f"row{'s' if len(numbers) > 1 else ''} {shown}"


def _plain(value: object) -> object:
    """A tensor, array or column as nested lists; a number from one of these as a Python number; everything else unchanged."""
    if hasattr(value, "detach"):
        return _plain_tensor(value)
    if hasattr(value, "__array__") and not hasattr(value, "tolist") and not hasattr(value, "columns"):
        return np.asarray(value).tolist()  # objects that convert to an array (xarray)
    plain = getattr(value, "tolist", None)
    return plain() if callable(plain) else value


def _plain_tensor(value: Any) -> object:
    """A tensor as lists; a nested tensor gives rows of different lengths, a sparse one is made dense."""
    if value.is_meta:
        raise BadParameterError("A tensor on the device 'meta' has no values.", "Give a tensor of token ids.")
    if value.is_nested:
        return [row.tolist() for row in value.detach().unbind()]
    return (value.detach().to_dense() if value.is_sparse else value.detach()).tolist()


def _is_scalar(value: object) -> bool:
    return isinstance(_plain(value), int | float | complex | np.generic)


def _items(where: str, value: object) -> list[object]:
    """The items of a sequence; text, tables and mappings are refused, because iterating over them gives characters or names."""
    plain = _plain(value)
    if isinstance(plain, str | bytes):
        what = f"{where} is text ({plain[:40]!r}), not token ids."
        raise BadParameterError(what, "Encode it with the model's tokenizer first: tokenizer(text)['input_ids'].")
    if isinstance(plain, Mapping) or hasattr(plain, "columns") or not isinstance(plain, Iterable):
        what = f"{where} is of type {type(value).__name__}, not a sequence of token ids."
        raise BadParameterError(what, "Give a list, tuple, tensor, array or one column of a table.")
    return sorted(plain) if isinstance(plain, set | frozenset) else list(plain)


def _ids(part: str, row: int, items: Iterable[object]) -> list[int]:
    ids = []
    for item in items:
        value = _plain(item)
        if isinstance(value, str | bytes):
            what = f"{part}, row {row}: {value[:40]!r} is text, not a token id."
            raise BadParameterError(what, "Encode it with the model's tokenizer first: tokenizer(text)['input_ids'].")
        if isinstance(value, bool) or not isinstance(value, int):
            what = f"{part}, row {row}: {value!r} ({type(value).__name__}) is not a token id."
            raise BadParameterError(what, "Token ids are integers; answers are one id or one flat list of ids per pair.")
        if not 0 <= value <= _LARGEST:
            what = f"{part}, row {row}: token id {value} lies outside 0 to {_LARGEST}."
            raise BadParameterError(what, "Leave out padding such as -1; rows and sets of ids may differ in length.")
        ids.append(value)
    return ids
