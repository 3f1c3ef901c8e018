"""Shared by all readers of circuit files: errors that name the file, and the check of the model's shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from circuitlab.core.errors import BadParameterError, CircuitlabError, IncompatibleError

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.core.nodes import Universe

__all__ = ["reading", "require_universe"]


@contextmanager
def reading(path: str | Path, kind: str, fix: str) -> Iterator[None]:
    """Turn errors inside the ``with`` block into a `BadParameterError` that names the file.

    Parameters
    ----------
    path : str or Path
        The file that is read.
    kind : str
        What the file should be, for example ``"a circuit graph"``.
    fix : str
        What to do next, for errors that do not say so themselves.

    Raises
    ------
    BadParameterError
        If the file is missing, is not in the format, lacks a part, or names nodes or edges that do not exist.
    """
    try:
        yield
    except CircuitlabError as error:
        what = f"{path} is not {kind}: {error.what}"
        raise BadParameterError(what, error.fix or fix) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SyntaxError, RecursionError) as error:
        what = f"{path} is not {kind} ({type(error).__name__}: {error})."
        raise BadParameterError(what, fix) from error


def require_universe(circuit: Circuit, universe: Universe | None, path: str | Path) -> Circuit:
    """Return the circuit if it belongs to a model of this shape, or if no shape is given.

    Raises
    ------
    IncompatibleError
        If the circuit belongs to a model of another shape.
    """
    if universe is not None and circuit.universe != universe:
        what = f"{path} holds a circuit of {circuit.universe}, and one of {universe} was asked for."
        raise IncompatibleError(what, "Read it with the shape of the model it was found in, or choose another file.")
    return circuit
