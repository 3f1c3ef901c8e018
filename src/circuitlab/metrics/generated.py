"""Metrics of generated text: whether it is, or contains, what was expected. One value per text, never a mean.

Text is compared after Unicode normalisation (NFKC), with white space at both ends removed and every run of white space inside as one space.
Case counts only where ``case`` is true. Punctuation always counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from circuitlab.core.errors import BadParameterError

__all__ = ["contains", "exact_match"]


def exact_match(texts: Sequence[str], expected: Sequence[str | Sequence[str]], *, case: bool = False) -> list[bool]:
    r"""Whether each text is what was expected of it.

    Parameters
    ----------
    texts : sequence of str
        What was generated, one per prompt.
    expected : sequence of str, or of sequences of str
        One entry per text; of several alternatives one must fit.
    case : bool
        Whether upper and lower case differ.

    Raises
    ------
    BadParameterError
        If there is not one entry per text, or one is empty.

    Examples
    --------
    >>> exact_match([" Mary\n", "John."], ["mary", ["John", "Paul"]])
    [True, False]
    """
    pairs = zip(texts, _alternatives(texts, expected, case=case), strict=True)
    return [_plain(text, case=case) in wanted for text, wanted in pairs]


def contains(texts: Sequence[str], expected: Sequence[str | Sequence[str]], *, case: bool = False, words: bool = False) -> list[bool]:
    """Whether each text contains what was expected of it.

    Parameters
    ----------
    texts, expected, case
        As for `exact_match`.
    words : bool
        Whether only whole words count, so that "the" does not contain "he".

    Raises
    ------
    BadParameterError
        If there is not one entry per text, or one is empty.

    Examples
    --------
    >>> contains(["She gave it to Mary.", "them"], ["Mary", "the"], words=True)
    [True, False]
    """
    pairs = zip(texts, _alternatives(texts, expected, case=case), strict=True)
    return [any(_inside(_plain(text, case=case), one, words=words) for one in wanted) for text, wanted in pairs]


def _inside(text: str, wanted: str, *, words: bool) -> bool:
    if not words:
        return wanted in text
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text) is not None


def _alternatives(texts: Sequence[str], expected: Sequence[str | Sequence[str]], *, case: bool) -> list[list[str]]:
    if isinstance(texts, str) or isinstance(expected, str) or len(texts) != len(expected):
        what = (
            f"{len(expected)} expected answers were given for {len(texts)} texts."
            if not isinstance(texts, str)
            else "One text was given bare."
        )
        raise BadParameterError(what, "Give a list of texts, and a list with an answer (or several alternatives) for each.")
    found = [[_plain(one, case=case) for one in ([entry] if isinstance(entry, str) else entry)] for entry in expected]
    if empty := [row for row, wanted in enumerate(found) if not wanted or not all(wanted)]:
        what = f"Entries {empty[:5]} of the expected answers are empty, and every text contains nothing."
        raise BadParameterError(what, "Give at least one character for each text.")
    return found


def _plain(text: str, *, case: bool) -> str:
    joined = " ".join(unicodedata.normalize("NFKC", text).split())
    return joined if case else joined.casefold()
