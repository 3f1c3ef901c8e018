"""Text from outside on its way to a terminal or a spreadsheet, where some characters would act instead of being shown."""

from __future__ import annotations

import unicodedata
from typing import TypeVar

__all__ = ["for_spreadsheet", "for_terminal"]

Value = TypeVar("Value")

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters at the start of a cell from which spreadsheet programs make a formula."""


def for_terminal(text: str) -> str:
    r"""The text with control characters escaped, which a terminal would act on; line ends and tabs stay.

    Examples
    --------
    >>> for_terminal("red: " + chr(27) + "[31m")
    'red: \\x1b[31m'
    """
    return "".join(char if char in "\n\t" or unicodedata.category(char)[0] != "C" else ascii(char)[1:-1] for char in text)


def for_spreadsheet(value: Value) -> Value | str:
    """A cell of a CSV file: text from which a spreadsheet program would make a formula gets an apostrophe in front; numbers stay.

    Examples
    --------
    >>> for_spreadsheet("=1+1"), for_spreadsheet(-1.5)
    ("'=1+1", -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
