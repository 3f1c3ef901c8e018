"""About what a run costs before it starts, in forward passes, as the method itself says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["RunSize", "forward_passes"]

_UNSAID = 4.0
"""Forward passes per pair of a method that does not say."""


@dataclass(frozen=True)
class RunSize:
    """What a run is about to do; shapes are those of a model of 135 million parameters where no model has been loaded.

    Parameters
    ----------
    pairs : int
    length : float
        Tokens of a prompt.
    changed : float
        Share of a prompt from the first token on at which clean and corrupt differ, in (0, 1]. Most methods leave out what comes before.
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
        """How many nodes some parts have: heads (or the key/value heads that hold the site), or one a layer; the embedding is one."""
        heads = self.n_kv_heads if site in {"k", "v"} else self.n_heads
        per_layer = {"heads": heads, "kv_heads": self.n_kv_heads}
        return sum(1 if part == "embed" else self.n_layers * per_layer.get(part, 1) for part in parts)

    def places(self, positions: tuple[str, ...]) -> float:
        """At how many positions each node is scored."""
        return self.changed * self.length if positions == ("each",) else float(len(positions))

    def traced(self, forward: float, backward: float) -> float:
        """Passes of all pairs from the first difference on, of which those backward count twice; what comes before is run once."""
        return self.pairs * (1 - self.changed + self.changed * (forward + 2 * backward))

    def rerun(self, runs: float) -> float:
        """So many runs of every pair, each above its own layer and from the first difference on; and the two unedited ones."""
        return self.pairs * (2 + runs * self.changed / 2)


def forward_passes(method: Any, size: RunSize) -> float:
    """About how many forward passes a run takes: the method's own ``passes``, or four per pair where it has none."""
    said = getattr(method, "passes", None)
    return _UNSAID * size.pairs if said is None else float(said(size))
