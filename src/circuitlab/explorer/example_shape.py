"""What the made-up payload holds: shape of the model, tasks, methods, and its words."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from circuitlab.explorer.sparse import MOST_HEADS

__all__ = ["HOSTILE", "Example"]

HOSTILE = (
    "<script>window.hacked = true</script>",
    '</script><img src=x onerror="window.hacked=true">',
    "<!--",
    "]]>",
    "\u2028'\"`${window.hacked=true}",
    "&lt;b&gt;",
    "javascript:alert(1)",
    "\u202etxet\u202c",
    "{{constructor}}",
    "__proto__",
)
"""Texts that a page which does not escape would run or draw."""
_WORDS = (" When", " Mary", " and", " John", " went", " to", " the", " store", ",", " gave", " a", " drink", "\n", " é", " 東京", " of")


@dataclass(frozen=True)
class Example:
    """What a made-up payload holds.

    Parameters
    ----------
    layers, heads, kv_heads : int
        Shape of the model.
    tasks, methods : tuple of str
        Names.
    pairs : int
        Prompt pairs that are scored.
    shown : int
        Of them, pairs with attention.
    length : int
        Tokens of a prompt.
    hostile : bool
        Whether names and tokens are HTML and script text.
    seed : int
        Of the random numbers; equal examples are equal byte by byte.
    """

    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    tasks: tuple[str, ...] = ("ioi", "successor")
    methods: tuple[str, ...] = ("activation_patching", "logit_attribution")
    pairs: int = 16
    shown: int = 2
    length: int = 14
    hostile: bool = False
    seed: int = 0
    rng: np.random.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rng", np.random.default_rng(self.seed))

    def words(self, n: int) -> list[str]:
        """Token texts."""
        pool = HOSTILE if self.hostile else _WORDS
        return [pool[int(at)] for at in self.rng.integers(0, len(pool), n)]

    def title(self, name: str) -> str:
        """A title; with hostile text, if that is asked for."""
        return f"{name} {HOSTILE[len(name) % 3]}" if self.hostile else name.replace("_", " ")

    @property
    def listed(self) -> list[str]:
        """Heads with attention: all, or every tenth of a large model."""
        names = [f"a{layer}.h{head}" for layer in range(self.layers) for head in range(self.heads)]
        return names if len(names) <= MOST_HEADS else names[::10]

    def top(self, values: np.ndarray, n: int) -> list[str]:
        """Names of the ``n`` heads with the largest magnitude, (layer, head)."""
        order = np.argsort(-np.abs(values), axis=None, kind="stable")[:n]
        return [f"a{at // self.heads}.h{at % self.heads}" for at in map(int, order)]
