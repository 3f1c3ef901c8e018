"""RoleTable: heads by roles, what each head earns, and what could not be asked of this model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.html import html_table
from circuitlab.core.nodes import Head, Node, parse_node
from circuitlab.core.provenance import ModelSpec
from circuitlab.scores.role_scores import RoleScores

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RoleEntry", "RoleTable"]

_SHOWN = 5
"""Heads that a row of a table in a notebook names."""


@dataclass(frozen=True, slots=True)
class RoleEntry:
    """One head in one role.

    Parameters
    ----------
    node : Node
        A query head, or a key/value head.
    role : str
        Which role.
    value, low, high : float
        Mean with its 95 % interval; NaN limits for a role read off the weights alone.
    chance : float
        The 95th percentile of what chance gives.
    p, q : float
        That the value is what chance gives; q is corrected over the heads of the role.
    earned : bool
        Whether the value reaches the role's threshold and q is at most 0.05.
    """

    node: Node
    role: str
    value: float
    low: float
    high: float
    chance: float
    p: float
    q: float
    earned: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data without node and role; what is not known is None."""
        numbers = {name: getattr(self, name) for name in ("value", "low", "high", "chance", "p", "q")}
        return {name: None if np.isnan(number) else number for name, number in numbers.items()} | {"earned": self.earned}


@dataclass(frozen=True, eq=False, repr=False)
class RoleTable:
    """Roles of one model's heads.

    Parameters
    ----------
    model : ModelSpec
        The model.
    scores : mapping of str to RoleScores
        What was measured, by role.
    refused : mapping of str to str
        Roles that this model cannot be asked for, each with the reason.

    Raises
    ------
    BadParameterError
        If scores are of another model, or a role stands in both.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> table = cl.roles(build_planted("induction-mha").model, ["induction", "sink"])
    >>> table
    RoleTable(induction-mha, 1 role, 1 refused: 1 of 8 heads earns a role)
    >>> table.earned_by("a1.h2")
    ['induction']
    """

    model: ModelSpec
    scores: Mapping[str, RoleScores]
    refused: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if both := set(self.scores) & set(self.refused):
            raise BadParameterError(f"{', '.join(sorted(both))} is measured and refused.", "Give each role once.")
        others = [name for name, one in self.scores.items() if one.provenance.model.identity() != self.model.identity()]
        if others:
            raise BadParameterError(
                f"{', '.join(others)} was measured on another model than {self.model.name}.", "Give roles of one model."
            )

    def __repr__(self) -> str:
        total, without = self.model.n_layers * self.model.n_heads, len(self.without_role())
        earns = f"{total - without} of {total} heads {'earns' if total - without == 1 else 'earn'} a role"
        refused = f", {len(self.refused)} refused" if self.refused else ""
        return f"RoleTable({self.model.name}, {len(self.scores)} role{'s' * (len(self.scores) != 1)}{refused}: {earns})"

    def _repr_html_(self) -> str:
        rows = []
        for role in self.scores:
            earners = self.earners(role)
            shown = ", ".join(f"{one.node} {_with_interval(one)}" for one in earners[:_SHOWN])
            rows.append([role, f"{self.scores[role].provenance.threshold:g}", str(len(earners)), shown + ", ..." * (len(earners) > _SHOWN)])
        notes = [f"{name}: {about.estimand}; against {about.null}." for name, about in ((n, s.provenance) for n, s in self.scores.items())]
        notes += [f"{role} was not measured: {reason}" for role, reason in self.refused.items()]
        total = self.model.n_layers * self.model.n_heads
        notes.append(f"{len(self.without_role())} of {total} heads earn none of the {len(self.scores)} roles that were measured.")
        return html_table(f"Roles of the heads of {self.model.name}", ["role", "at least", "heads", "strongest"], rows, notes=notes)

    def entries(self, role: str) -> list[RoleEntry]:
        """Every head in a role, in forward order.

        Raises
        ------
        UnknownNameError
            If the role was not measured.
        """
        if role not in self.scores:
            raise UnknownNameError("measured role", role, self.scores)
        one = self.scores[role]
        interval = one.interval()
        columns = [one.value, interval.low, interval.high, one.chance(), one.p_values(), one.q_values()]
        numbers, earned = np.stack(columns, axis=-1).astype(float), one.earned()
        found = []
        for at in np.ndindex(earned.shape):
            value, low, high, chance, p, q = map(float, numbers[at])
            found.append(RoleEntry(one.node(*at), role, value, low, high, chance, p, q, bool(earned[at])))
        return found

    def earners(self, role: str) -> list[RoleEntry]:
        """The heads that earn a role, largest value first."""
        return sorted((one for one in self.entries(role) if one.earned), key=lambda one: -one.value)

    def earned_by(self, head: Node | str) -> list[str]:
        """Roles that a head earns. Query heads and key/value heads are apart: ``"a9.h6"``, ``"a9.kv2"``.

        Raises
        ------
        UnknownNameError
            If the model has no such head.
        """
        node = parse_node(head) if isinstance(head, str) else head
        if node not in self._nodes():
            raise UnknownNameError("head", str(node), [str(one) for one in self._nodes()])
        return [role for role in self.scores for one in self.entries(role) if one.node == node and one.earned]

    def without_role(self) -> list[Head]:
        """Query heads that earn none of the roles that were measured, in forward order; roles of key/value heads do not count."""
        earned = np.zeros((self.model.n_layers, self.model.n_heads), dtype=bool)
        for one in self.scores.values():
            if one.per == "head":
                earned |= one.earned()
        return [Head(int(layer), int(head)) for layer, head in np.argwhere(~earned)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: ``{"model", "roles": [...], "heads": [{"head", "earned", "roles": {role: {...}}}], "no_role", "refused"}``.

        An entry of a head and role is that of `RoleEntry`; limits are None where there are no samples.
        """
        heads: dict[str, dict[str, Any]] = {str(node): {"head": str(node), "earned": [], "roles": {}} for node in self._nodes()}
        for role in self.scores:
            for one in self.entries(role):
                row = heads[str(one.node)]
                row["roles"][role] = one.to_dict()
                row["earned"] += [role] * one.earned
        return {
            "model": self.model.name,
            "roles": [_about(role, one) for role, one in self.scores.items()],
            "heads": list(heads.values()),
            "no_role": [str(head) for head in self.without_role()],
            "refused": dict(self.refused),
        }

    def to_frame(self) -> pd.DataFrame:
        """Tidy table, one row per head and role: node, layer, head, role, value, low, high, chance, p, q, earned, units, model."""
        import pandas as pd  # noqa: PLC0415 - pandas is slow to import

        rows = []
        for role, scores in self.scores.items():
            for one in self.entries(role):
                where = {"node": str(one.node), "layer": getattr(one.node, "layer", None), "head": getattr(one.node, "head", None)}
                numbers = {name: getattr(one, name) for name in ("value", "low", "high", "chance", "p", "q", "earned")}
                rows.append(where | {"role": role} | numbers | {"units": scores.provenance.units, "model": self.model.name})
        return pd.DataFrame(rows)

    def _nodes(self) -> list[Node]:
        """Query heads, and key/value heads where a role is about them."""
        spec = self.model
        nodes: list[Node] = [Head(layer, head) for layer in range(spec.n_layers) for head in range(spec.n_heads)]
        shared = next((one for one in self.scores.values() if one.per == "kv_head"), None)
        return nodes if shared is None else [*nodes, *(shared.node(*at) for at in np.ndindex(shared.value.shape))]


def _about(role: str, one: RoleScores) -> dict[str, Any]:
    about = one.provenance
    return {
        "name": role,
        "kind": about.kind,
        "estimand": about.estimand,
        "units": about.units,
        "threshold": about.threshold,
        "null": about.null,
        "sample": about.sample,
        "n_samples": one.n_samples,
        "per": one.per,
        "params": about.params,
        "cite": list(about.cite),
        "earned": int(one.earned().sum()),
    }


def _with_interval(one: RoleEntry) -> str:
    return f"{one.value:.2f}" if np.isnan(one.low) else f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
