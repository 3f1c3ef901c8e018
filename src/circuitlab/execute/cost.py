"""Estimate the cost of a run before it starts, in forward passes, from the method's own formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["RunSize", "forward_passes", "size_of"]

_UNSAID = 4.0
"""Forward passes per pair of a method without a formula."""


@dataclass(frozen=True)
class RunSize:
    """The size of a run. By default the shapes are those of a model of 135 million parameters, for when no model is loaded.

    Parameters
    ----------
    pairs : int
        Number of pairs.
    length : float
        Tokens in a prompt.
    changed : float
        Share of a prompt from the first token at which clean and corrupt differ, in (0, 1]. Most methods skip what comes before.
    n_layers, n_heads, n_kv_heads, d_model : int
        Shapes of the model.
    """

    pairs: int
    length: float = 20.0
    changed: float = 0.5
    n_layers: int = 30
    n_heads: int = 9
    n_kv_heads: int = 3
    d_model: int = 576

    def nodes(self, parts: tuple[str, ...], site: str = "z") -> int:
        """Number of nodes in some parts: all heads (key/value heads for sites k and v), one per layer of other parts, one embedding."""
        heads = self.n_kv_heads if site in {"k", "v"} else self.n_heads
        per_layer = {"heads": heads, "kv_heads": self.n_kv_heads}
        return sum(1 if part == "embed" else self.n_layers * per_layer.get(part, 1) for part in parts)

    def places(self, positions: tuple[str, ...]) -> float:
        """Number of positions at which each node is scored."""
        return self.changed * self.length if positions == ("each",) else float(len(positions))

    def traced(self, forward: float, backward: float) -> float:
        """Cost of passes of all pairs from the first difference on, where a backward pass counts twice; the prefix is run once."""
        return self.pairs * (1 - self.changed + self.changed * (forward + 2 * backward))

    def rerun(self, runs: float) -> float:
        """Cost of ``runs`` edited runs of every pair, each from its own layer and the first difference on, and of two unedited runs."""
        return self.pairs * (2 + runs * self.changed / 2)


def size_of(model: Model, batch: ContrastBatch) -> RunSize:
    """The size of a run on a batch, from which methods estimate their cost."""
    spec, length = model.spec, float((batch.end + 1).double().mean())
    changed = float(((batch.end + 1 - batch.first_difference()).clamp(min=1) / (batch.end + 1)).double().mean())
    return RunSize(batch.n_pairs, length, changed, spec.n_layers, spec.n_heads, spec.n_kv_heads, spec.d_model)


def forward_passes(method: Any, size: RunSize) -> float:
    """Estimated number of forward passes of a run: the method's own ``passes``, or four per pair if it has none."""
    passes = getattr(method, "passes", None)
    return _UNSAID * size.pairs if passes is None else float(passes(size))
