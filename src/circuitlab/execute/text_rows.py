"""Natural text as rows of token ids: the passages that circuitlab ships, a file, passages, or token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from circuitlab.core.errors import BadParameterError
from circuitlab.model.prompts import read_prompts
from circuitlab.texts import Passage, load_texts, read_texts

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["TextRowsLike", "text_rows"]

TextRowsLike: TypeAlias = "str | Path | Iterable[str | Passage | Sequence[int]] | None"
"""A file of passages, passages, or token ids of passages; None for those that circuitlab ships."""

_SHORTEST = 3
"""Tokens: one that sees another one before it, and the token that follows it."""


def text_rows(model: Model, texts: TextRowsLike, length: int) -> list[tuple[int, ...]]:
    """The first tokens of every passage, as the tokenizer begins a text; passages of fewer than three tokens are left out.

    Parameters
    ----------
    model : Model
    texts : str, Path, iterable of str, Passage or token ids, optional
        A file (see `circuitlab.texts.read_texts`), or passages; those that circuitlab ships otherwise.
    length : int
        Tokens of each at most; fewer where the model has fewer positions.

    Raises
    ------
    BadParameterError
        If the length is too small, the texts cannot be used, or none is long enough.
    TokenizationError
        If text is given to a model without a tokenizer.
    """
    if length < _SHORTEST:
        raise BadParameterError(f"length={length} tokens of a passage show nothing.", "Use 64.")
    given = load_texts() if texts is None else read_texts(texts) if isinstance(texts, str | Path) else tuple(texts)
    plain = [one.text if isinstance(one, Passage) else one for one in given]
    if not plain:
        raise BadParameterError("No text was given.", "Give passages, or leave texts out for those that circuitlab ships.")
    fits = min(length, model.spec.n_ctx or length)
    rows = [ids[:fits] for ids in read_prompts(plain, model.tokenizer, model.spec).ids if len(ids) >= _SHORTEST]  # type: ignore[arg-type]
    if not rows:
        raise BadParameterError(f"None of {len(plain)} texts has {_SHORTEST} tokens.", "Give longer texts.")
    return rows
