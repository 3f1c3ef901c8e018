"""One number per key/value head, from roles of query heads: what a cache keeps is shared by a group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.scores.role_table import RoleTable

__all__ = ["kv_values", "require_share"]


def kv_values(table: RoleTable, roles: Sequence[str] | str) -> np.ndarray:
    """The largest value of any of some roles in each group of query heads, shape (layer, kv_head).

    Raises
    ------
    UnknownNameError
        If a role was not measured.
    BadParameterError
        If no role is named.
    """
    names = [roles] if isinstance(roles, str) else list(roles)
    if not names:
        raise BadParameterError("No role was named.", "Name one, such as 'induction'.")
    return np.asarray(np.max([_of_role(table, name) for name in names], axis=0))


def require_share(name: str, value: float) -> None:
    """Raise `BadParameterError` unless a value is in (0, 1]."""
    if not 0 < value <= 1:
        raise BadParameterError(f"{name}={value} is no share of heads.", "Use a number above 0 and at most 1.")


def _of_role(table: RoleTable, role: str) -> np.ndarray:
    if role not in table.scores:
        raise UnknownNameError("measured role", role, table.scores)
    scores, spec = table.scores[role], table.model
    return scores.value if scores.per == "kv_head" else scores.value.reshape(spec.n_layers, spec.n_kv_heads, -1).max(axis=-1)
