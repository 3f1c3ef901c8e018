"""The layout of a circuit diagram: layers upward, few crossings, and lines that go around nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.nodes import Attn, Edge, Embed, Head, KVHead, Logits, Mlp, Node, Resid

__all__ = ["Placement", "curve_of", "place_circuit"]

_STEP_INSIDE, _STEP_LAYER = 0.85, 1.25
"""Distance between rows of one layer, and between rows of different layers."""

_SWEEPS = 8
_STEPS = 8
"""Number of points of a line between two rows."""

_CLEARANCE, _LANES = 0.36, 0.3
"""Distance in columns between a node's centre and a line that passes it, and range over which lines along one path are spread."""

_PORT_SHIFT = {"q": -0.2, "k": 0.0, "v": 0.2}


@dataclass(frozen=True)
class Placement:
    """The layout of a circuit, in columns and rows.

    Parameters
    ----------
    at : mapping of Node to (float, float)
        Column and height of every drawn node; nodes of one row are at least one column apart.
    layers : mapping of int to float
        Height of each layer that has nodes: the middle of its rows.
    edges : tuple of (Edge, Node, Node)
        The circuit's edges, each with the nodes that are drawn for its sender and its receiver.
    readers : tuple of (KVHead, Head)
        The key/value head that each drawn query head reads, if query heads share key/value heads.
    counted : frozenset of Node
        Drawn nodes that are nodes of the circuit; all others are only ends of edges.
    """

    at: Mapping[Node, tuple[float, float]]
    layers: Mapping[int, float]
    edges: tuple[tuple[Edge, Node, Node], ...]
    readers: tuple[tuple[KVHead, Head], ...]
    counted: frozenset[Node]


def place_circuit(circuit: Circuit) -> Placement:
    """Lay out a circuit; equal circuits have equal layouts.

    Every kind of node of a layer has a row: from below, residual stream, key/value heads, query heads, MLP. If every query head has its own
    key/value head, both are drawn as one node. In alternating sweeps upward and downward, the nodes of each row are ordered by the mean
    column of their neighbours, and moved as close to it as the other nodes of the row allow.
    """
    shared = circuit.shape.n_kv_heads < circuit.shape.n_heads
    edges = tuple((edge, _drawn(edge.sender, shared=shared), _drawn(edge.receiver, shared=shared)) for edge in sorted(circuit.edges or ()))
    counted = frozenset(_drawn(node, shared=shared) for node in circuit.nodes)
    nodes = counted | {end for edge in edges for end in edge[1:]}
    read = [(circuit.shape.kv_head_of(node), node) for node in nodes if isinstance(node, Head)]
    readers = tuple(sorted(pair for pair in read if pair[0] in nodes)) if shared else ()
    links: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node, other in (*(edge[1:] for edge in edges), *readers):
        links[node].append(other)
        links[other].append(node)
    rows: dict[tuple[int, int], list[Node]] = {}
    for node in sorted(nodes):
        rows.setdefault(_row(node), []).append(node)
    columns = _columns([rows[key] for key in sorted(rows)], links)
    heights = _heights(sorted(rows))
    at = {node: (columns[node], heights[key]) for key, row in rows.items() for node in row}
    layers = {
        layer: float(np.mean([heights[key] for key in rows if key[0] == layer]))
        for layer in sorted({key[0] for key in rows})
        if 0 <= layer < _LAST
    }
    return Placement(at, layers, edges, readers, counted)


def curve_of(edge: tuple[Node, Node, str | None], placement: Placement, lane: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The line of an edge from sender to receiver (and port), as columns and heights of its points.

    It arrives at the left of the receiver for queries, in the middle for keys and at the right for values. In every row in between it goes
    through a gap between nodes; of all paths through the gaps it takes the one nearest to a straight line (smallest squared slope). Where
    it goes around a node, ``lane`` (0 to 1) sets its distance, so that lines with different lanes do not coincide.
    """
    from scipy.interpolate import PchipInterpolator  # noqa: PLC0415 - scipy.interpolate is slow to import

    sender, receiver, port = edge
    (x0, y0), (x1, y1) = placement.at[sender], placement.at[receiver]
    x1 += _PORT_SHIFT.get(port or "", 0.0)
    between: dict[float, list[float]] = {}
    for column, height in placement.at.values():
        if y0 < height < y1:
            between.setdefault(height, []).append(column)
    heights = sorted(between)
    rows = np.array([y0, *heights, y1])
    columns = _path([between[height] for height in heights], rows, (x0, x1), lane)
    y = np.interp(np.arange(_STEPS * (len(rows) - 1) + 1) / _STEPS, np.arange(len(rows)), rows)
    return np.asarray(PchipInterpolator(rows, columns)(y)), y


def _path(rows: list[list[float]], heights: np.ndarray, ends: tuple[float, float], lane: float) -> list[float]:
    """The columns at which a line crosses each row, ends included: the shortest path with one candidate in every gap of a row."""
    straight = np.interp(heights, heights[[0, -1]], ends)
    candidates, predecessors = [np.array([ends[0]])], []
    cost = np.zeros(1)
    for i, row in enumerate([*rows, None], start=1):
        columns = np.array([ends[1]])
        if row is not None:
            nodes = np.sort(row)
            low, high = np.array([-np.inf, *(nodes + _CLEARANCE)]), np.array([*(nodes - _CLEARANCE), np.inf])
            shift = lane * np.minimum(high - low, _LANES)
            columns = np.where(straight[i] < low, low + shift, np.where(straight[i] > high, high - shift, straight[i]))
        costs = cost[:, None] + (columns - candidates[-1][:, None]) ** 2 / (heights[i] - heights[i - 1])
        predecessors.append(costs.argmin(axis=0))
        cost = costs.min(axis=0)
        candidates.append(columns)
    path, at = [ends[1]], 0
    for columns, predecessor in zip(candidates[-2::-1], predecessors[::-1], strict=True):
        at = int(predecessor[at])
        path.append(float(columns[at]))
    return path[::-1]


_LAST = 1 << 30


def _drawn(node: Node, *, shared: bool) -> Node:
    """The node that is drawn for this one."""
    return node if shared or not isinstance(node, KVHead) else Head(node.layer, node.head)


def _row(node: Node) -> tuple[int, int]:
    """The layer, and the row within the layer, counted from below."""
    if isinstance(node, Embed):
        return (-1, 0)
    if isinstance(node, Logits):
        return (_LAST, 0)
    if isinstance(node, Resid):
        return (node.layer, {"pre": 0, "mid": 4, "post": 6}[node.point])
    return (node.layer, {KVHead: 1, Head: 2, Attn: 3, Mlp: 5}[type(node)])


def _heights(rows: Iterable[tuple[int, int]]) -> dict[tuple[int, int], float]:
    heights: dict[tuple[int, int], float] = {}
    height, before = 0.0, None
    for key in rows:
        if before is not None:
            height += _STEP_INSIDE if key[0] == before[0] else _STEP_LAYER
        heights[key], before = height, key
    return heights


def _columns(rows: list[list[Node]], links: Mapping[Node, list[Node]]) -> dict[Node, float]:
    """Column of every node: sweeps up and down, in which each row is moved towards its neighbours' current columns."""
    columns = {node: i - (len(row) - 1) / 2 for row in rows for i, node in enumerate(row)}
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 else rows[::-1]:
            wanted = {node: np.mean([columns[other] for other in links[node]]) if links[node] else columns[node] for node in row}
            # Rounded, so that ties keep the forward order whatever the last digits are.
            order = sorted(sorted(row), key=lambda node: round(float(wanted[node]), 6))
            columns |= dict(zip(order, _spread([float(wanted[node]) for node in order]), strict=True))
    middle = (max(columns.values()) + min(columns.values())) / 2
    return {node: column - middle for node, column in columns.items()}


def _spread(wanted: list[float]) -> list[float]:
    """The columns nearest to the wanted ones (increasing) that are at least one column apart."""
    from scipy.optimize import isotonic_regression  # noqa: PLC0415 - scipy.optimize is slow to import

    steps = np.arange(len(wanted))
    return list((np.asarray(isotonic_regression(np.asarray(wanted) - steps).x) + steps).tolist())
