"""Exports by name: roles are measured or found in the store, then written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from circuitlab.core.errors import BadParameterError, ModelError, UnknownNameError
from circuitlab.exports import write_csv, write_duo_attention, write_headvis, write_razor_attention
from circuitlab.workflows.roles import built_roles
from circuitlab.workflows.roles import roles as measure

if TYPE_CHECKING:
    from circuitlab.methods.roles import Role
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.scores.role_table import RoleTable
    from circuitlab.store import Cache

__all__ = ["EXPORTS", "Export"]


@dataclass(frozen=True)
class Export:
    """What is to be written; problems that need no model are found when it is made.

    Parameters
    ----------
    form : str
        One of `EXPORTS`.
    out : Path
        File or folder.
    roles : sequence of str, optional
        Which; otherwise those that the format needs.
    texts : Path, optional
        Passages for roles on natural text and for HeadVis.
    full : float
        Share of key/value heads with full attention, for DuoAttention.
    scores : mapping of str to HeadScores
        For CSV and HeadVis.

    Raises
    ------
    UnknownNameError
        If there is no such format or role.
    BadParameterError
        If the format takes no scores, or only certain roles.
    """

    form: str
    out: Path
    roles: Sequence[str] | None = None
    texts: Path | None = None
    full: float = 0.5
    scores: Mapping[str, HeadScores] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.form not in EXPORTS:
            raise UnknownNameError("export", self.form, EXPORTS)
        if self.scores and self.form not in {"csv", "headvis"}:
            raise BadParameterError(f"{self.form} has no place for scores.", "Leave --run out, or write csv or headvis.")
        if self.roles is not None and self.form == "razor-attention" and set(self.roles) != {"echo", "induction"}:
            raise BadParameterError("razor-attention is made from echo and induction.", "Leave --roles out.")
        self._roles()

    def write(self, model: Model, store: Cache) -> None:
        """Measure what is wanted and write it.

        Raises
        ------
        ModelError
            If this model cannot be asked for a role that the format needs.
        """
        EXPORTS[self.form](self, model, self._table(model, store))

    def _roles(self) -> list[Role]:
        wanted = self.roles if self.roles is not None else _ROLES[self.form]
        return [] if wanted == [] else built_roles(wanted, self.texts)

    def _table(self, model: Model, store: Cache) -> RoleTable | None:
        asked = self._roles()
        if not asked:
            return None
        table = measure(model, asked, store=store)
        if table.refused and self.form in {"duo-attention", "razor-attention"}:
            role, reason = next(iter(table.refused.items()))
            raise ModelError(f"{self.form} needs the role {role}, and this model cannot be asked for it: {reason}", "Use another format.")
        return table


def _duo_attention(asked: Export, _model: Model, table: RoleTable | None) -> None:
    if table is None:
        raise BadParameterError("No role was named.", "Name one, such as induction.")
    write_duo_attention(table, asked.out, roles=list(table.scores), full=asked.full)


def _razor_attention(asked: Export, _model: Model, table: RoleTable | None) -> None:
    assert table is not None  # noqa: S101 - it has its roles
    write_razor_attention(table, asked.out)


def _headvis(asked: Export, model: Model, table: RoleTable | None) -> None:
    write_headvis(model, asked.out, asked.texts, roles=table, scores=asked.scores)


def _csv(asked: Export, _model: Model, table: RoleTable | None) -> None:
    write_csv(asked.out, table, asked.scores)


EXPORTS: dict[str, Callable[[Export, Model, RoleTable | None], None]] = {
    "csv": _csv,
    "duo-attention": _duo_attention,
    "headvis": _headvis,
    "razor-attention": _razor_attention,
}
"""The formats."""

_ROLES: dict[str, list[str] | None] = {
    "csv": None,
    "duo-attention": ["induction"],
    "headvis": [],
    "razor-attention": ["echo", "induction"],
}
"""Roles of each where none are named; None for every role."""
