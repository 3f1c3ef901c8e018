"""Interventions as strings for the command line: ``a20.h0=0`` scales, ``a23.h3:mean`` knocks out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.model.interventions.knockout import Knockout
from circuitlab.model.interventions.vectors import Scale

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.interventions.base import Intervention
    from circuitlab.model.interventions.spots import Spot
    from circuitlab.model.protocol import Model
    from circuitlab.model.runner import ReadableModel

__all__ = ["EditWords"]

_HOW = ("zero", "mean")


@dataclass(frozen=True)
class EditWords:
    """Nodes to scale and to knock out.

    Parameters
    ----------
    scales : tuple of (str, float)
        Node and factor. A node is a head (its z), or for example ``a9.h6.q``, ``a9.kv2.k``, ``a9.kv2.v``, ``a9``, ``m3``, ``r9.pre``.
    knockouts : tuple of (str, str)
        Node, and ``"zero"`` or ``"mean"``.
    """

    scales: tuple[tuple[str, float], ...] = ()
    knockouts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, scale: Sequence[str], knockout: Sequence[str]) -> EditWords:
        """Read ``NODE=FACTOR`` and ``NODE[:zero|mean]``; each string may hold several, separated by commas.

        Raises
        ------
        BadParameterError, UnknownNameError
            For strings of another form, and nodes that occur twice.
        """
        words = cls(tuple(map(_scaled, _split(scale))), tuple(map(_knocked_out, _split(knockout))))
        spots = [(spot.node, spot.site) for node in words.nodes for spot in _spots(node)]
        if repeated := sorted({str(node) for node, site in spots if spots.count((node, site)) > 1}):
            what = f"{', '.join(repeated)} is edited twice."
            raise BadParameterError(what, "Name each node once; use the Python interface to make several edits of one node in order.")
        return words

    @property
    def nodes(self) -> list[str]:
        """The nodes that are edited."""
        return [node for node, _ in (*self.scales, *self.knockouts)]

    @property
    def with_mean(self) -> list[str]:
        """Nodes that are replaced by a mean."""
        return [node for node, how in self.knockouts if how == "mean"]

    def listed(self) -> list[dict[str, Any]]:
        """The edits, for JSON."""
        scales = [{"kind": "scale", "node": node, "factor": factor} for node, factor in self.scales]
        return scales + [{"kind": "knockout", "node": node, "how": how} for node, how in self.knockouts]

    def applied(self, model: Model, over: ContrastBatch | Sequence[int]) -> Model:
        """The model with these edits.

        Parameters
        ----------
        model : Model
            The model to edit.
        over : ContrastBatch or sequence of int
            What means are taken over: all positions of a batch's corrupt prompts, or of one prompt given as token ids.
        """
        edits: list[Intervention] = [Scale(_named(node), factor, site=_site(node)) for node, factor in self.scales]
        for node, how in self.knockouts:
            if how == "zero":
                edits.append(Knockout(_named(node), "zero", site=_site(node)))
        for site in dict.fromkeys(map(_site, self.with_mean)):
            nodes = [_named(node) for node in self.with_mean if _site(node) == site]
            edits.append(_means(model, nodes, site, over))
        return model.edited(*edits)


def _split(values: Sequence[str]) -> list[str]:
    return [part.strip() for word in values for part in word.split(",") if part.strip()]


def _scaled(word: str) -> tuple[str, float]:
    node, equals, number = word.partition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not equals or not math.isfinite(factor):
        raise BadParameterError(f"{word!r} has no factor.", "Write NODE=FACTOR, for example a20.h0=0.")
    return node.strip(), factor


def _knocked_out(word: str) -> tuple[str, str]:
    node, _, how = word.partition(":")
    if (how or "zero") not in _HOW:
        raise UnknownNameError("knockout", how, _HOW)
    return node.strip(), how or "zero"


def _named(node: str) -> str:
    return re.sub(r"\.[qkv]$", "", node)


def _site(node: str) -> str | None:
    return node[-1] if re.search(r"\.[qkv]$", node) else None


def _spots(node: str) -> tuple[Spot, ...]:
    return Knockout(_named(node), "zero", site=_site(node)).spots


def _means(model: ReadableModel, nodes: list[str], site: str | None, over: ContrastBatch | Sequence[int]) -> Knockout:
    if not isinstance(over, Sequence):
        return Knockout(nodes, "mean_over_positions", over, site=site)
    tokens = torch.tensor([list(over)])
    values: dict[str, Tensor] = {}
    for spot in Knockout(nodes, "zero", site=site).spots:
        spot.check(model)
        value = model.capture(tokens, [spot.site], layers=[spot.layer])[spot.site][0, 0]
        values[str(spot.node)] = (value if spot.head is None else value[:, spot.head]).double().mean(0)
    return Knockout(nodes, "mean_over_positions", values=values, site=site)
