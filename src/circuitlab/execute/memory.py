"""Memory: the budget of one pass, what a pair needs at its length, and how many pairs fit together."""

from __future__ import annotations

import contextvars
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.execute.needs import blocks_of

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = [
    "DEFAULT_GIB",
    "Fits",
    "PassSizes",
    "available_bytes",
    "fits_in",
    "gibibytes",
    "memory_budget",
    "most_positions",
    "pass_bytes",
    "resident_bytes",
    "started_fits",
]

DEFAULT_GIB = 4.0
"""Default memory of one pass in addition to the model, in GiB; `memory_budget` or the environment variable override it."""

_VARIABLE = "CIRCUITLAB_MEMORY_GB"
_GIB = 2**30
_budget: contextvars.ContextVar[float | None] = contextvars.ContextVar("memory budget", default=None)
_strict: contextvars.ContextVar[bool] = contextvars.ContextVar("strict memory budget", default=False)

Fits: TypeAlias = Callable[[int, int, int], bool]
"""From a number of pairs, of computed positions and of positions attended to, to whether these pairs fit in one pass."""


@contextmanager
def memory_budget(gib: float, *, strict: bool = False) -> Iterator[None]:
    """Limit the memory of each pass inside the ``with`` block, in GiB in addition to the model; a pass has at least one pair.

    With ``strict``, a single pair that needs more is refused. The limit changes how many pairs share a pass, but not results. Outside of a
    block the environment variable ``CIRCUITLAB_MEMORY_GB`` applies, or else 4 GiB.

    Raises
    ------
    BadParameterError
        If it is not a positive number.
    """
    token, strictness = _budget.set(_positive(gib, "memory_budget")), _strict.set(strict)
    try:
        yield
    finally:
        _budget.reset(token)
        _strict.reset(strictness)


def pass_bytes() -> int:
    """Bytes that one pass may use in addition to the model.

    Raises
    ------
    BadParameterError
        If the environment variable is not a positive number.
    """
    inside = _budget.get()
    return round((_positive(os.environ.get(_VARIABLE, DEFAULT_GIB), _VARIABLE) if inside is None else inside) * _GIB)


def _positive(value: float | str, name: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        what = f"{name}={value!r} is not an amount of memory."
        raise BadParameterError(what, f"Give a positive number of GiB, such as {DEFAULT_GIB:g}.")
    return number


def gibibytes(amount: str | float) -> float:
    """An amount of memory in GiB: a number, or a text such as ``"4GiB"``, ``"500MiB"`` or ``"8GB"``.

    Raises
    ------
    BadParameterError
        If it is not a positive amount.

    Examples
    --------
    >>> gibibytes("4GiB"), gibibytes("512 MiB"), gibibytes(2)
    (4.0, 0.5, 2.0)
    """
    units = {"": 1.0, "g": 1.0, "gib": 1.0, "m": 2**-10, "mib": 2**-10, "gb": 1e9 / _GIB, "mb": 1e6 / _GIB}
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", str(amount))
    if match is None or match[2].lower() not in units:
        what = f"memory={amount!r} is not an amount of memory."
        raise BadParameterError(what, "Give a number of GiB, or a text such as '4GiB' or '500MiB'.")
    return _positive(match[1], "memory") * units[match[2].lower()]


def resident_bytes() -> int:
    """Bytes of memory that this process holds now; its most so far on systems that do not report it."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # noqa: PLC0415 - not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def most_positions(width: int, itemsize: int) -> int:
    """Positions of edited runs, of vectors of this width, that may be in memory at once: they may take half of a pass."""
    return max(1, pass_bytes() // (2 * width * itemsize))


def available_bytes() -> int | None:
    """Bytes of memory that can be used now without swapping; None on systems that do not report it.

    On Linux this includes memory that caches would free; on other systems it is all physical memory.
    """
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        if "MemAvailable" in lines:
            return int(lines["MemAvailable"].split()[0]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


@dataclass(frozen=True)
class PassSizes:
    """Memory of a model's activations for one prompt, in bytes; ``window`` positions are computed, ``length`` are attended to.

    Parameters
    ----------
    n_layers, n_heads, n_kv_heads, d_model, d_head, d_mlp : int
        Shapes.
    itemsize : int
        Bytes of one number.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    itemsize: int

    @classmethod
    def of(cls, model: Model) -> PassSizes:
        """The sizes of a model that has a functional forward."""
        spec, blocks = model.spec, blocks_of(model)
        itemsize = blocks[0].q.weight.element_size()
        # A mixture of experts has no single width; the activations of its active experts are about those of a dense MLP.
        d_mlp = max(block.down.weight.shape[0] or 4 * spec.d_model for block in blocks)
        return cls(spec.n_layers, spec.n_heads, spec.n_kv_heads, spec.d_model, spec.d_head, d_mlp, itemsize)

    @property
    def heads(self) -> int:
        """Width of all query heads together."""
        return self.n_heads * self.d_head

    @property
    def shared(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.n_kv_heads * self.d_head

    @property
    def senders(self) -> int:
        """Number of nodes that send edges: the embedding, every head and every MLP."""
        return 1 + self.n_layers * (self.n_heads + 1)

    def traced(self, window: int, length: int) -> int:
        """A run whose `Trace` is kept, without a graph: streams, projections and patterns of every layer."""
        layer = window * (6 * self.d_model + 2 * self.heads + 2 * self.shared) + self.n_heads * window * length
        return self.itemsize * self.n_layers * layer

    def graph(self, window: int, length: int) -> int:
        """What an autograd graph keeps in addition to the trace.

        In every layer, norms keep their scaled inputs, attention keeps rotated queries and, for each query head, its keys and values, and
        the MLP keeps its gate, its activation and its values.
        """
        layer = window * (2 * self.d_model + 2 * self.heads + 3 * self.d_mlp) + length * (2 * self.heads + 2 * self.shared)
        return self.itemsize * self.n_layers * layer

    def working(self, window: int, length: int) -> int:
        """What one layer uses temporarily while it is computed: attention scores and the MLP."""
        return self.itemsize * (4 * self.n_heads * window * length + 4 * window * self.d_mlp)

    def gradients(self, fields: Collection[str], window: int, length: int) -> int:
        """Gradients at these values of every layer; ``fields`` are names in `LayerTrace`."""
        widths = {"q": self.heads, "z": self.heads, "k": self.shared, "v": self.shared, "pattern": self.n_heads * length}
        return self.itemsize * self.n_layers * window * sum(widths.get(field, self.d_model) for field in fields)

    def differentiated(self, fields: Collection[str], window: int, length: int) -> int:
        """A run with a graph, one without, and the gradients at some values."""
        runs = 2 * self.traced(window, length) + self.graph(window, length)
        return runs + self.working(window, length) + self.gradients(fields, window, length)

    def edges(self, window: int, length: int, runs: int = 2) -> int:
        """Edge attribution with ``runs`` runs, one of them in a graph.

        It keeps the change of every sender's output, the gradients at every input, and those of one layer carried back to the stream.
        """
        change = self.gradients(("z", "mlp_out"), window, length)
        layer = 3 * (self.n_heads + 2 * self.n_kv_heads + 1) * self.d_model
        products = self.itemsize * window * (self.senders * self.d_model + layer)
        more = (runs - 2) * self.traced(window, length)
        return self.differentiated(("q", "k", "v", "mlp_in"), window, length) + change + products + more

    def source(self, window: int) -> int:
        """One source of a decomposition on one prompt: its streams and its heads before and after a layer.

        Temporary values within a layer are small in comparison, because only a few sources are computed at a time.
        """
        return self.itemsize * window * (4 * self.d_model + 2 * self.heads)

    def started(self, window: int, length: int, sites: int) -> int:
        """Two unedited runs from which edited runs start: streams, keys, values and sites of every layer, and one layer's temporaries."""
        held = length * (self.d_model + 2 * self.shared + 2 * sites * max(self.heads, self.d_model))
        return 2 * (self.itemsize * self.n_layers * held + self.working(window, length))


def fits_in(pair_bytes: Callable[[int, int], int], name: str) -> Fits:
    """A function that decides whether pairs fit in the budget. A single pair always does, if there is enough memory at all.

    Parameters
    ----------
    pair_bytes : callable
        From the number of computed positions and of positions attended to, to the bytes of one pair.
    name : str
        Name of the method, for the error.

    Raises
    ------
    ModelError
        When called for a single pair that needs more than the available memory, or than a strict budget.
    """
    budget, strict = pass_bytes(), _strict.get()

    def fits(pairs: int, window: int, length: int) -> bool:
        needed = pair_bytes(window, length)
        if pairs == 1 and needed > budget and strict:
            what = f"{name} needs about {needed / _GIB:.2f} GiB for one pair of {length} tokens; {budget / _GIB:.2f} GiB are left for it."
            raise ModelError(what, "Allow more memory, use shorter prompts, or prompts that differ later.")
        if pairs == 1 and needed > budget and (available := available_bytes()) is not None and needed > available:
            what = f"{name} needs about {needed / _GIB:.1f} GiB for one pair of {length} tokens; {available / _GIB:.1f} GiB are free."
            raise ModelError(what, "Use shorter prompts, prompts that differ later, or a machine with more memory.")
        return pairs * needed <= budget or pairs == 1

    return fits


def started_fits(model: Model, sites: int, name: str) -> Fits | None:
    """`fits_in` for the unedited runs of a sweep that keep ``sites`` sites; None for a model without a functional forward.

    Such a model runs with hooks, which keep only the requested values.
    """
    try:
        sizes = PassSizes.of(model)
    except ModelError:
        return None
    return fits_in(lambda _window, length: sizes.started(length, length, sites), name)
