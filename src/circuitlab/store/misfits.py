"""Stored data of another form than their reader's, under a checksum that fits: found by reading them, and said in one line."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from circuitlab.core.errors import CircuitlabError

__all__ = ["MISFITS", "misfit"]

MISFITS = (
    ArithmeticError,
    AttributeError,
    CircuitlabError,
    LookupError,
    msgspec.MsgspecError,
    RecursionError,
    StopIteration,
    TypeError,
    ValueError,
)
"""What reading data of another form raises: a key that is not there, text for a number, a shape that does not fit."""

_LONGEST = 200


def misfit(read: Callable[[], object]) -> str:
    """Why stored data cannot be read; empty if they can.

    A checksum shows that data are what was written, not who wrote it: another program, or a later version, may have.

    Parameters
    ----------
    read : callable
        Reads the data as they are used afterwards.

    Examples
    --------
    >>> misfit(lambda: {}["heads"]), misfit(lambda: {"heads": 1}["heads"])
    ("KeyError: 'heads'", '')
    """
    try:
        read()
    except MISFITS as error:
        return f"{type(error).__name__}: {str(error)[:_LONGEST]}"
    return ""
