"""Routes of path patching: names of inputs, and the inputs that a change passes between a sender and the metric."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from circuitlab.core.errors import BadParameterError, ModelError, UnknownNameError
from circuitlab.core.nodes import Head, KVHead, Logits, Mlp, Node, Port, Resid, Universe, parse_node
from circuitlab.execute.needs import decoder_of

if TYPE_CHECKING:
    from circuitlab.model.decoder.paths import Point, Sender
    from circuitlab.model.decoder.receivers import Receiver
    from circuitlab.model.protocol import Model

__all__ = ["Direction", "MlpRule", "Route", "parse_receiver", "universe_of"]

Direction: TypeAlias = Literal["denoising", "noising"]
MlpRule: TypeAlias = Literal["recomputed", "frozen"]

_FIX = "Write a10.h0<q>, a7.kv0<k>, a7.kv0<v>, m5, r9.pre, r9.mid, r9.post or logits."


def parse_receiver(text: str) -> Receiver:
    """Read the name of an input: ``a10.h0<q>``, ``a7.kv0<k>``, ``a7.kv0<v>``, ``m5``, ``r9.pre``, ``r9.mid``, ``r9.post`` or ``logits``.

    Raises
    ------
    BadParameterError
        If the text is not a node name, a head lacks its port, or the node has no such input.
    """
    from circuitlab.model.decoder.receivers import Receiver  # noqa: PLC0415 - torch

    match = re.fullmatch(r"([^<>]+)(?:<(.*)>)?", text.strip())
    if match is None:
        what = f"{text!r} is not the name of a receiver."
        raise BadParameterError(what, _FIX)
    node, port = parse_node(match[1]), match[2]
    allowed: dict[type[Any], tuple[str | None, ...]] = {
        Head: ("q",),
        KVHead: ("k", "v"),
        Mlp: (None,),
        Resid: (None,),
        Logits: (None,),
    }
    ports = allowed.get(type(node), ())
    if port in ports:
        return Receiver(node, cast("Port | None", port))
    if not ports:
        what = f"{node} cannot receive a path."
    elif port is None:
        what = f"Receiver {node} lacks its input: {' or '.join(f'{node}<{name}>' for name in ports)}."
    elif isinstance(node, Head) and port in {"k", "v"}:
        what = f"Receiver {text!r} names a query head, but keys and values belong to key/value heads, such as a{node.layer}.kv0<{port}>."
    else:
        what = f"{node} has no input {port!r}."
    raise BadParameterError(what, _FIX)


@dataclass(frozen=True)
class Route:
    """The inputs that a change passes between a sender and the metric.

    Parameters
    ----------
    receivers : tuple of Receiver
        Inputs at which the path ends; they are set to their new values, and everything downstream is recomputed.
    via : tuple of Receiver
        Inputs that the path passes before, in order. At each, only that input takes its new value, and only the change of that node's
        output continues.
    direction : {"denoising", "noising"}
        Which run is edited.
    mlps : {"recomputed", "frozen"}
        Whether MLPs between the named nodes respond.
    rows_per_block : int
        Rows that an MLP computes at once. It affects cost, not results.
    """

    receivers: tuple[Receiver, ...]
    via: tuple[Receiver, ...] = ()
    direction: Direction = "denoising"
    mlps: MlpRule = "recomputed"
    rows_per_block: int = 1024

    def __post_init__(self) -> None:
        if self.direction not in {"denoising", "noising"}:
            raise UnknownNameError("direction", self.direction, ["denoising", "noising"])
        if self.mlps not in {"recomputed", "frozen"}:
            raise UnknownNameError("rule for MLPs", self.mlps, ["recomputed", "frozen"])
        if not self.receivers:
            raise BadParameterError("A path has no receiver.", "Name at least one, such as logits.")
        if len(self.receivers) > 1 and self.to_logits:
            what = f"Receivers {', '.join(map(str, self.receivers))} cannot be combined: a path to the logits ends there."
            raise BadParameterError(what, "Use logits as the only receiver, or leave it out.")
        if wrong := [str(receiver) for receiver in self.via if isinstance(receiver.node, Resid | Logits)]:
            what = f"A path cannot lead via {', '.join(wrong)}."
            raise BadParameterError(what, "Lead it via inputs of heads and MLPs; everything passes the residual stream.")

    @property
    def to_logits(self) -> bool:
        """Whether a receiver is the logits."""
        return any(isinstance(receiver.node, Logits) for receiver in self.receivers)

    @property
    def first(self) -> tuple[Receiver, ...]:
        """The inputs that a sender's change reaches first: the first intermediate input, or the receivers."""
        return self.via[:1] or self.receivers

    def check(self, model: Model, senders: Sequence[Node]) -> None:
        """Raise if this route is not possible in a model with these senders.

        Raises
        ------
        BadParameterError
            If a node lies outside the model, a receiver comes before an input that should reach it, or every sender comes too late.
        ModelError
            If the model lacks a residual point, or has no functional forward.
        """
        from circuitlab.model.sites import Site  # noqa: PLC0415 - used only here

        named = (*self.via, *self.receivers)
        _require_inside(model, [receiver.node for receiver in named] + list(senders))
        if Site.RESID_MID not in model.sites and (mid := [str(receiver) for receiver in named if str(receiver.node).endswith(".mid")]):
            what = f"{model.spec.name} ({model.spec.family}) has no {mid[0]}: its MLPs read what its attention reads."
            raise ModelError(what, "Use r….pre or r….post.")
        for earlier, later in self._steps():
            if not _joins(earlier.node) <= later.point(decoder_of(model)):
                what = f"The path from {earlier} to {later} runs backwards."
                raise BadParameterError(what, "Name inputs in forward order; heads of one layer do not reach each other.")
        if not any(self.reached_by(model, cast("Sender", sender)) for sender in senders):
            latest = ", ".join(map(str, self.first))
            what = f"The path from {senders[0]} to {latest} runs backwards." if len(senders) == 1 else f"No sender comes before {latest}."
            raise BadParameterError(what, "Name a later receiver or an earlier sender; heads of one layer do not reach each other.")

    def _steps(self) -> Iterator[tuple[Receiver, Receiver]]:
        yield from itertools.pairwise(self.via)
        yield from ((self.via[-1], receiver) for receiver in self.receivers if self.via)

    def reached_by(self, model: Model, sender: Sender) -> bool:
        """Whether a sender comes before at least one of the inputs that it should reach first."""
        from circuitlab.model.decoder.paths import join_point  # noqa: PLC0415 - torch

        return any(join_point(sender) <= receiver.point(decoder_of(model)) for receiver in self.first)


def _joins(node: Node) -> Point:
    from circuitlab.model.decoder.paths import join_point  # noqa: PLC0415 - torch

    return join_point(Head(node.layer, 0) if isinstance(node, KVHead) else cast("Sender", node))


def _require_inside(model: Model, nodes: Sequence[Node]) -> None:
    universe = universe_of(model)
    if outside := [str(node) for node in nodes if node not in universe]:
        spec = model.spec
        shape = f"{spec.n_layers} layers, {spec.n_heads} heads and {spec.n_kv_heads} key/value heads"
        what = f"{', '.join(outside[:5])} lie outside {spec.name}, which has {shape}."
        raise BadParameterError(what, "Count layers and heads from 0.")


def universe_of(model: Model) -> Universe:
    """The nodes that a model has."""
    return Universe(model.spec.n_layers, model.spec.n_heads, model.spec.n_kv_heads)
