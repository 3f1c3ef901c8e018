"""Metrics of generated text: whether it equals, or contains, an expected text. One value per text, never a mean.

Texts are compared after Unicode normalisation (NFKC), without white space at both ends, and with every run of white space as one space.
Case is ignored unless ``case`` is true. Punctuation is not ignored.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from circuitlab.core.errors import BadParameterError

__all__ = ["contains", "exact_match"]


def exact_match(texts: Sequence[str], expected: Sequence[str | Sequence[str]], *, case: bool = False) -> list[bool]:
    r"""Whether each text equals its expected text.

    Parameters
    ----------
    texts : sequence of str
        Generated texts, one per prompt.
    expected : sequence of str, or of sequences of str
        One entry per text: the expected text, or several, of which one must match.
    case : bool
        Whether upper and lower case differ.

    Returns
    -------
    list of bool
        One value per text.

    Raises
    ------
    BadParameterError
        If there is not one entry per text, or an entry is empty.

    Examples
    --------
    >>> exact_match([" Mary\n", "John."], ["mary", ["John", "Paul"]])
    [True, False]
    """
    alternatives = _alternatives(texts, expected, case=case)
    return [_plain(text, case=case) in answers for text, answers in zip(texts, alternatives, strict=True)]


def contains(texts: Sequence[str], expected: Sequence[str | Sequence[str]], *, case: bool = False, words: bool = False) -> list[bool]:
    """Whether each text contains its expected text.

    Parameters
    ----------
    texts, expected, case
        As for `exact_match`.
    words : bool
        Whether only whole words match, so that "the" does not contain "he".

    Returns
    -------
    list of bool
        One value per text.

    Raises
    ------
    BadParameterError
        If there is not one entry per text, or an entry is empty.

    Examples
    --------
    >>> contains(["She gave it to Mary.", "them"], ["Mary", "the"], words=True)
    [True, False]
    """
    alternatives = _alternatives(texts, expected, case=case)
    plain = [_plain(text, case=case) for text in texts]
    return [any(_occurs(answer, text, words=words) for answer in answers) for text, answers in zip(plain, alternatives, strict=True)]


def _occurs(answer: str, text: str, *, words: bool) -> bool:
    if not words:
        return answer in text
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text) is not None


def _alternatives(texts: Sequence[str], expected: Sequence[str | Sequence[str]], *, case: bool) -> list[list[str]]:
    """The expected texts of each text, normalised."""
    if isinstance(texts, str) or isinstance(expected, str) or len(texts) != len(expected):
        what = (
            f"{len(expected)} expected answers were given for {len(texts)} texts."
            if not isinstance(texts, str)
            else "'texts' is one text, not a list."
        )
        raise BadParameterError(what, "Give a list of texts, and a list with an answer (or several alternatives) for each.")
    alternatives = [[_plain(text, case=case) for text in ([entry] if isinstance(entry, str) else entry)] for entry in expected]
    if empty := [row for row, answers in enumerate(alternatives) if not answers or not all(answers)]:
        what = f"Entries {empty[:5]} of the expected answers are empty, and every text contains the empty text."
        raise BadParameterError(what, "Give at least one character for each text.")
    return alternatives


def _plain(text: str, *, case: bool) -> str:
    joined = " ".join(unicodedata.normalize("NFKC", text).split())
    return joined if case else joined.casefold()
