"""The error tree: every message says what happened, with which values, where, and what to do next.

>>> import circuitlab as cl
>>> try:
...     cl.load_task("ioo")
... except cl.errors.UnknownNameError as error:
...     isinstance(error, KeyError), error.what
(True, "Unknown task 'ioo'.")
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "AdditivityError",
    "AlignmentError",
    "BadParameterError",
    "CircuitlabError",
    "DownloadError",
    "EditDidNotFireError",
    "EmptyGapError",
    "ForeignFileError",
    "IncompatibleError",
    "ModelError",
    "ScoreFileError",
    "StoreError",
    "StreamedModelError",
    "TaskFileError",
    "TokenizationError",
    "UnknownNameError",
    "WeightsError",
]


_SHOWN = 20  # names listed when one is unknown


class CircuitlabError(Exception):
    """Base of every error circuitlab raises on purpose; the command line prints it in one line and exits with 2.

    Parameters
    ----------
    what : str
        What happened, with the values involved and where.
    fix : str
        What to do next; appended to the message.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        self.what = what
        self.fix = fix
        super().__init__(f"{what} {fix}".strip())

    def __str__(self) -> str:
        return f"{self.what} {self.fix}".strip()  # KeyError would put it in quotes

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from the same arguments, so that a worker process can hand its error to the caller."""
        return type(self), (self.what, self.fix)


class UnknownNameError(CircuitlabError, KeyError):
    """A task, model, method, metric, mark or node that does not exist; the nearest known name is suggested.

    Parameters
    ----------
    kind : str
        The kind of thing that was looked up, for example ``"task"``.
    name : str
        The name that was looked up.
    known : iterable of str
        Every accepted name.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        lowered = {candidate.lower(): candidate for candidate in self.known}
        near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
        fix = f"Did you mean {lowered[near[0]]!r}? " if near else ""
        shown = ", ".join(self.known[:_SHOWN]) + (", ..." if len(self.known) > _SHOWN else "")
        super().__init__(f"Unknown {kind} {name!r}.", f"{fix}Known: {shown or '(none)'}.")

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from the same arguments."""
        return type(self), (self.kind, self.name, self.known)


class BadParameterError(CircuitlabError, ValueError):
    """A parameter value that cannot be used."""


class TaskFileError(CircuitlabError, ValueError):
    """A task file with a wrong field, an empty pool, an impossible ``distinct`` or a broken template."""


class TokenizationError(CircuitlabError, ValueError):
    """An answer or foil that is not one token, or a model that has no tokenizer where one is needed."""


class AlignmentError(CircuitlabError, ValueError):
    """Clean and corrupt prompts that do not line up token by token."""


class AdditivityError(CircuitlabError, ValueError):
    """Shares of an additive method that do not sum to the total: part of this model does not work as the method assumes."""


class ModelError(CircuitlabError):
    """A model that cannot be loaded or lacks a required part."""


class EditDidNotFireError(ModelError):
    """A requested edit that never reached the forward pass, so that it would have been a silent no-op."""


class WeightsError(ModelError):
    """A weights file that is damaged, truncated or not the one that was pinned."""


class StreamedModelError(ModelError):
    """Something that a streamed model, of which one layer is in memory, cannot do."""


class DownloadError(WeightsError):
    """Weights that could not be downloaded."""


class ScoreFileError(CircuitlabError, ValueError):
    """A result file that cannot be read as scores: damaged, cut short, or from a newer schema."""


class ForeignFileError(ScoreFileError):
    """A file that was not written by circuitlab."""


class StoreError(CircuitlabError):
    """A run store that could not be written or read."""


class IncompatibleError(CircuitlabError, ValueError):
    """Two results that cannot be combined: their model shapes, axes or units differ."""


class EmptyGapError(CircuitlabError, ValueError):
    """A clean-corrupt gap that cannot be distinguished from zero, so that a fraction of it has no meaning."""
