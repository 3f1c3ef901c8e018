"""Token ids from whatever holds them (lists, tensors, arrays, table columns), and refusals of what cannot be meant, by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from circuitlab.core.errors import BadParameterError

__all__ = ["places", "require_contrast", "require_no_overlap", "require_unpadded", "token_rows", "token_sets"]

Rows = Sequence[Sequence[int]]

_LARGEST = 2**31 - 1  # no vocabulary comes near, and sums of ids still fit into 64 bits
_LEAST_RUN = 3  # two equal tokens begin a prompt by chance now and then


def token_rows(part: str, given: Iterable[object]) -> list[list[int]]:
    """One list of token ids per prompt.

    Parameters
    ----------
    part : str
        What they are, for messages: ``"clean"``.
    given : iterable
        A list, tuple, tensor, array or table column of rows; each row a list, tuple, tensor, array or column of whole numbers.

    Raises
    ------
    BadParameterError
        If a row is text or no sequence, or holds something other than whole numbers from 0 on.
    """
    return [_ids(part, i, _items(f"{part}[{i}]", row)) for i, row in enumerate(_items(part, given))]


def token_sets(part: str, given: Iterable[object]) -> list[list[int]]:
    """One list of different token ids per pair, where a pair may give a single id instead; see `token_rows`."""
    rows = []
    for i, row in enumerate(_items(part, given)):
        alone = _is_scalar(row)
        rows.append(list(dict.fromkeys(_ids(part, i, [_plain(row)] if alone else _items(f"{part}[{i}]", row)))))
    return rows


def places(mark: str, given: Iterable[object]) -> list[int]:
    """The positions of a mark, one whole number for each prompt, or one sequence that holds it.

    Raises
    ------
    BadParameterError
        If something is not a whole number; whether a position lies in its prompt is not looked at.
    """
    found = []
    for row, item in enumerate(_items(f"mark {mark!r}", given)):
        for one in [item] if _is_scalar(item) else _items(f"mark {mark!r}[{row}]", item):
            value = _plain(one)
            if isinstance(value, bool) or not isinstance(value, int):
                what = f"mark {mark!r}, row {row}: {value!r} ({type(value).__name__}) is not a position."
                raise BadParameterError(what, "Give the number of a token in each prompt, counted from 0.")
            found.append(value)
    return found


def require_contrast(clean: Rows, corrupt: Rows) -> None:
    """Raise `BadParameterError` if a clean prompt equals its corrupt one: nothing can be told from such a pair."""
    if same := [i for i, (a, b) in enumerate(zip(clean, corrupt, strict=True)) if a == b]:
        what = f"In {_rows(same)} of {len(clean)} the clean and the corrupt prompt are the same tokens."
        raise BadParameterError(what, "Drop these pairs, or change what the corrupt prompt should lack.")


def require_no_overlap(answers: Rows, others: Rows, name: str) -> None:
    """Raise `BadParameterError` if a pair has one token as an answer and among ``name`` (foils or distractors)."""
    clash = {i: sorted(set(a) & set(b)) for i, (a, b) in enumerate(zip(answers, others, strict=True)) if set(a) & set(b)}
    if clash:
        shown = "; ".join(f"row {i}: {', '.join(map(str, tokens[:5]))}" for i, tokens in list(clash.items())[:5])
        what = f"{len(clash)} of {len(answers)} pairs have the same token among answers and {name} ({shown})."
        raise BadParameterError(what, f"Answers and {name} must be different tokens; drop these pairs or choose other words.")


def require_unpadded(clean: Rows, corrupt: Rows) -> None:
    """Raise `BadParameterError` if the rows have certainly been padded, on the left or on the right.

    Ids alone do not say which of them is padding, so only what has no other reading is refused: all rows have one length, and some begin
    (or end) with runs of one id, of different lengths, that appears nowhere else: runs of at least three, or of two where the id is 0.
    Where the model's tokenizer is known, `circuitlab.model.inside.require_fit` knows better.
    """
    rows = [*clean, *corrupt]
    if len({len(row) for row in rows}) != 1:
        return
    _require_no_runs(rows, "left", "begin")
    _require_no_runs([row[::-1] for row in rows], "right", "end")


def _require_no_runs(rows: Rows, side: str, verb: str) -> None:
    """Refuse rows, clean ones and then corrupt ones, whose beginnings can only be padding."""
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
            fix = "Give each prompt without padding; rows may differ in length. If these are real tokens, make one batch per count of them."
            raise BadParameterError(what, fix)


def _run(row: Sequence[int], token: int) -> int:
    """How many times a row begins with a token."""
    return next((i for i, other in enumerate(row) if other != token), len(row))


def _rows(numbers: Sequence[int]) -> str:
    """``rows 0, 3, ...``, five of them at most."""
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")  # noqa: PLR2004 - as said
    return f"row{'s' if len(numbers) > 1 else ''} {shown}"


def _plain(value: object) -> object:
    """A tensor, array or column as nested lists; a number of one of these as Python's own; everything else as it is."""
    if hasattr(value, "detach"):
        return _plain_tensor(value)
    if hasattr(value, "__array__") and not hasattr(value, "tolist") and not hasattr(value, "columns"):
        return np.asarray(value).tolist()  # what offers itself as an array (xarray)
    plain = getattr(value, "tolist", None)
    return plain() if callable(plain) else value


def _plain_tensor(value: Any) -> object:
    """A tensor as lists; a nested one holds rows of different lengths, a sparse one is filled up."""
    if value.is_meta:
        raise BadParameterError("A tensor on the device 'meta' was given, which has no values.", "Give one that holds token ids.")
    if value.is_nested:
        return [row.tolist() for row in value.detach().unbind()]
    return (value.detach().to_dense() if value.is_sparse else value.detach()).tolist()


def _is_scalar(value: object) -> bool:
    return isinstance(_plain(value), int | float | complex | np.generic)


def _items(where: str, value: object) -> list[object]:
    """The items of a sequence; text, tables and mappings have other items than one would think."""
    plain = _plain(value)
    if isinstance(plain, str | bytes):
        what = f"{where} is text ({plain[:40]!r}), not token ids."
        raise BadParameterError(what, "Encode it with the model's tokenizer first: tokenizer(text)['input_ids'].")
    if isinstance(plain, Mapping) or hasattr(plain, "columns") or not isinstance(plain, Iterable):
        what = f"{where} is of type {type(value).__name__}, not a sequence of token ids."
        raise BadParameterError(what, "Give a list, tuple, tensor, array or one column of a table.")
    return sorted(plain) if isinstance(plain, set | frozenset) else list(plain)


def _ids(part: str, row: int, items: Iterable[object]) -> list[int]:
    found = []
    for item in items:
        value = _plain(item)
        if isinstance(value, str | bytes):
            what = f"{part}, row {row}: {value[:40]!r} is text, not a token id."
            raise BadParameterError(what, "Encode it with the model's tokenizer first: tokenizer(text)['input_ids'].")
        if isinstance(value, bool) or not isinstance(value, int):
            what = f"{part}, row {row}: {value!r} ({type(value).__name__}) is not a token id."
            raise BadParameterError(what, "Token ids are whole numbers (int); answers are one id or one flat list of ids per pair.")
        if not 0 <= value <= _LARGEST:
            what = f"{part}, row {row}: token id {value} lies outside 0 to {_LARGEST}."
            raise BadParameterError(what, "Leave padding such as -1 out; rows and sets of ids may differ in length.")
        found.append(value)
    return found
