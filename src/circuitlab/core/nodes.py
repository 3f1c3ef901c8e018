"""The node grammar: names for the parts of a decoder that carry a circuit, their edges, and their forward order.

``embed`` (token and position embedding), ``a9.h6`` (query head 6 of layer 9), ``a9.kv2`` (the key/value head that a group
of query heads shares), ``a9`` (a whole attention layer), ``m3`` (an MLP), ``r9.pre`` / ``r9.mid`` / ``r9.post`` (points on
the residual stream) and ``logits``. Edges are typed at a head's input: ``a9.h6->a10.h0<q>``, ``a5.h1->a7.kv0<k>``.
``parse_node(str(x)) == x`` and sorting follows the forward pass. Heads are also read as ``9.6`` and ``L9H6``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from circuitlab.core.errors import BadParameterError

__all__ = [
    "Attn",
    "Edge",
    "Embed",
    "Head",
    "KVHead",
    "Logits",
    "Mlp",
    "Node",
    "Port",
    "Resid",
    "Universe",
    "parse_edge",
    "parse_node",
]

Port: TypeAlias = Literal["q", "k", "v"]
ResidPoint: TypeAlias = Literal["pre", "mid", "post"]

_LARGEST = 100_000
"""Most layers, and heads of a layer; larger ones are damage, and listing their nodes would take all memory."""
_AFTER_ALL_LAYERS = 1 << 30


@functools.total_ordering
class _Ordered:
    """Sorts nodes by when the forward pass computes them."""

    def _key(self) -> tuple[int, int, int]:
        raise NotImplementedError

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, _Ordered):
            return NotImplemented
        return self._key() < other._key()


@dataclass(frozen=True, slots=True)
class Embed(_Ordered):
    """The token embedding (plus the position embedding where the model adds one to the residual stream)."""

    def _key(self) -> tuple[int, int, int]:
        return (-1, 0, 0)

    def __str__(self) -> str:
        return "embed"


@dataclass(frozen=True, slots=True)
class Resid(_Ordered):
    """A point on the residual stream of one layer: before attention, between attention and MLP, or after the MLP."""

    layer: int
    point: ResidPoint

    def _key(self) -> tuple[int, int, int]:
        return (self.layer, {"pre": 0, "mid": 4, "post": 6}[self.point], 0)

    def __str__(self) -> str:
        return f"r{self.layer}.{self.point}"


@dataclass(frozen=True, slots=True)
class KVHead(_Ordered):
    """A key/value head; under grouped-query attention several query heads share one."""

    layer: int
    head: int

    def _key(self) -> tuple[int, int, int]:
        return (self.layer, 1, self.head)

    def __str__(self) -> str:
        return f"a{self.layer}.kv{self.head}"


@dataclass(frozen=True, slots=True)
class Head(_Ordered):
    """A query head with its output projection.

    Examples
    --------
    >>> Head(9, 6) == parse_node("a9.h6"), str(Head(9, 6))
    (True, 'a9.h6')
    """

    layer: int
    head: int

    def _key(self) -> tuple[int, int, int]:
        return (self.layer, 2, self.head)

    def __str__(self) -> str:
        return f"a{self.layer}.h{self.head}"


@dataclass(frozen=True, slots=True)
class Attn(_Ordered):
    """A whole attention layer: what it adds to the residual stream."""

    layer: int

    def _key(self) -> tuple[int, int, int]:
        return (self.layer, 3, 0)

    def __str__(self) -> str:
        return f"a{self.layer}"


@dataclass(frozen=True, slots=True)
class Mlp(_Ordered):
    """A whole MLP: what it adds to the residual stream."""

    layer: int

    def _key(self) -> tuple[int, int, int]:
        return (self.layer, 5, 0)

    def __str__(self) -> str:
        return f"m{self.layer}"


@dataclass(frozen=True, slots=True)
class Logits(_Ordered):
    """The answer-position logits: the receiver at the end of every path."""

    def _key(self) -> tuple[int, int, int]:
        return (_AFTER_ALL_LAYERS, 0, 0)

    def __str__(self) -> str:
        return "logits"


Node: TypeAlias = Embed | Resid | KVHead | Head | Attn | Mlp | Logits

_PATTERNS: dict[re.Pattern[str], Callable[[re.Match[str]], Node]] = {
    re.compile(r"a([0-9]{1,9})\.h([0-9]{1,9})"): lambda m: Head(int(m[1]), int(m[2])),
    re.compile(r"([0-9]{1,9})\.([0-9]{1,9})"): lambda m: Head(int(m[1]), int(m[2])),
    re.compile(r"[lL]([0-9]{1,9})[hH]([0-9]{1,9})"): lambda m: Head(int(m[1]), int(m[2])),
    re.compile(r"a([0-9]{1,9})\.kv([0-9]{1,9})"): lambda m: KVHead(int(m[1]), int(m[2])),
    re.compile(r"a([0-9]{1,9})"): lambda m: Attn(int(m[1])),
    re.compile(r"m([0-9]{1,9})"): lambda m: Mlp(int(m[1])),
    re.compile(r"r([0-9]{1,9})\.(pre|mid|post)"): lambda m: Resid(int(m[1]), cast("ResidPoint", m[2])),
    re.compile(r"embed"): lambda _m: Embed(),
    re.compile(r"logits"): lambda _m: Logits(),
}


def parse_node(text: str) -> Node:
    """Read one node name.

    Parameters
    ----------
    text : str
        A name of the grammar, for example ``"a9.h6"``; ``"9.6"`` and ``"L9H6"`` are read as the same head.

    Returns
    -------
    Node
        The node; ``str`` of it is the canonical name.

    Raises
    ------
    BadParameterError
        If the text is not a node name.

    Examples
    --------
    >>> str(parse_node("L9H6"))
    'a9.h6'
    """
    for pattern, build in _PATTERNS.items():
        if match := pattern.fullmatch(text.strip()):
            return build(match)
    what = f"{text!r} is not a node name."
    fix = "Write a9.h6 (head), a9.kv2 (key/value head), a9 (attention), m3 (MLP), r9.pre (residual), embed or logits."
    raise BadParameterError(what, fix)


@dataclass(frozen=True, slots=True)
class Edge:
    """A connection from a sender's output to a receiver's input.

    Parameters
    ----------
    sender, receiver : Node
        The two ends; the sender comes first in the forward pass.
    port : {"q", "k", "v"}, optional
        Input of the receiver: required if it is a query head (q, k or v) or a key/value head (k or v), None for every other receiver.

    Raises
    ------
    BadParameterError
        If the receiver does not come after the sender in the forward pass, or the port does not fit the receiver.
    """

    sender: Node
    receiver: Node
    port: Port | None = None

    def __post_init__(self) -> None:
        if not self.sender < self.receiver:
            what = f"Edge {self} runs backwards."
            raise BadParameterError(what, "Name the earlier node first: sender->receiver.")
        ports: dict[type, tuple[Port | None, ...]] = {Head: ("q", "k", "v"), KVHead: ("k", "v")}
        allowed = ports.get(type(self.receiver), (None,))
        if self.port not in allowed:
            what = f"Edge {self} enters {self.receiver} through port {self.port!r}."
            raise BadParameterError(what, f"Ports of this receiver: {', '.join(map(str, allowed))}.")

    def __str__(self) -> str:
        return f"{self.sender}->{self.receiver}" + (f"<{self.port}>" if self.port else "")

    def __lt__(self, other: Edge) -> bool:
        mine = (self.receiver._key(), self.port or "", self.sender._key())
        return mine < (other.receiver._key(), other.port or "", other.sender._key())


def parse_edge(text: str) -> Edge:
    """Read one edge name such as ``"a9.h6->a10.h0<q>"``; the inverse of ``str``."""
    match = re.fullmatch(r"(.+?)->([^<]+)(?:<([qkv])>)?", text.strip())
    if match is None:
        what = f"{text!r} is not an edge name."
        raise BadParameterError(what, "Write sender->receiver<port>, for example a9.h6->a10.h0<q>.")
    return Edge(parse_node(match[1]), parse_node(match[2]), match[3])  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Universe:
    """Every node that a circuit of one model can contain; two circuits can be compared only within the same universe.

    Parameters
    ----------
    n_layers, n_heads, n_kv_heads : int
        Layers, query heads per layer and key/value heads per layer.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int

    def __post_init__(self) -> None:
        sizes = (self.n_layers, self.n_heads, self.n_kv_heads)
        if not all(type(size) is int for size in sizes) or max(sizes) > _LARGEST:
            what = f"A universe of {self.n_layers!r} layers, {self.n_heads!r} heads and {self.n_kv_heads!r} key/value heads is impossible."
            raise BadParameterError(what, f"Give whole numbers up to {_LARGEST}.")
        if min(sizes) < 1 or self.n_heads % self.n_kv_heads:
            what = f"A universe of {self.n_layers} layers, {self.n_heads} heads and {self.n_kv_heads} key/value heads is impossible."
            raise BadParameterError(what, "Heads must be a whole multiple of key/value heads, all at least 1.")

    def heads(self) -> Iterator[Head]:
        """Every query head in forward order."""
        return (Head(layer, head) for layer in range(self.n_layers) for head in range(self.n_heads))

    def kv_heads(self) -> Iterator[KVHead]:
        """Every key/value head in forward order."""
        return (KVHead(layer, head) for layer in range(self.n_layers) for head in range(self.n_kv_heads))

    def mlps(self) -> Iterator[Mlp]:
        """Every MLP in forward order."""
        return (Mlp(layer) for layer in range(self.n_layers))

    def kv_head_of(self, head: Head) -> KVHead:
        """The key/value head that a query head reads."""
        return KVHead(head.layer, head.head // (self.n_heads // self.n_kv_heads))

    def __contains__(self, node: Node) -> bool:
        layer = getattr(node, "layer", 0)
        width = {Head: self.n_heads, KVHead: self.n_kv_heads}.get(type(node), 1)
        return 0 <= layer < self.n_layers and 0 <= getattr(node, "head", 0) < width
