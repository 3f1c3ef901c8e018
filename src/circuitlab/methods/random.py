"""Random scores: the baseline that every method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from circuitlab.core.progress import step
from circuitlab.core.provenance import digest
from circuitlab.execute.contract import provenance_of
from circuitlab.execute.needs import prepared
from circuitlab.execute.reference import answer_logits, with_reference
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    from circuitlab.execute.cost import RunSize
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["RandomScores"]


@dataclass(frozen=True)
class RandomScores:
    """Standard normal scores that know nothing of the model: a null baseline for method comparisons.

    The scores of a pair are drawn from a generator that is seeded by the hash of the weights, the pair's own tokens and ``seed``. They are
    the same on every machine, whatever the order and the size of the batch, as with any other method; but they do not vanish for dead
    heads, do not follow a head that is relabelled, and do not scale with the logits.

    Parameters
    ----------
    seed : int
        Changes every score.

    Notes
    -----
    Two forward passes per pair, for ``total``, the clean-corrupt gap. Scores are without a meaning, and so without a unit.

    References
    ----------
    Mueller et al. (2025), MIB: A Mechanistic Interpretability Benchmark, arXiv:2504.13151, which ranks methods beside random circuits.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> first, again = (cl.score(planted.model, planted.batch(4), RandomScores(seed=1)) for _ in range(2))
    >>> first["a0.h1"] == again["a0.h1"]
    True
    """

    name: ClassVar[str] = "random"
    estimand: ClassVar[str] = "nothing: standard normal numbers, the baseline that a method must beat"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("hooks",)
    cost: ClassVar[str] = "2 forward passes per pair"
    cite: ClassVar[tuple[str, ...]] = ("mueller2025",)

    seed: int = 0

    @property
    def contrastive(self) -> bool:
        """Never: equal prompts get random scores, too."""
        return False

    def passes(self, size: RunSize) -> float:
        """Both runs of every pair."""
        return 2.0 * size.pairs

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Draw a score for every head (pair, layer, head) and every MLP (pair, layer)."""
        held = with_reference(model, metric, batch)
        clean, corrupt = (metric(answer_logits(model, held, tokens).double(), held).cpu().numpy() for tokens in (held.clean, held.corrupt))
        layers, heads = model.spec.n_layers, model.spec.n_heads
        drawn = np.stack([self._draw(model.spec.weights, batch, pair, layers * (heads + 1)) for pair in range(batch.n_pairs)])
        drawn = drawn.reshape(batch.n_pairs, layers, heads + 1)
        arrays = {"heads": drawn[..., :-1], "mlps": drawn[..., -1], "clean": clean, "corrupt": corrupt, "total": clean - corrupt}
        step(batch.n_pairs, batch.n_pairs)
        return HeadScores.build(arrays, provenance_of(self, model, batch, metric))

    def _draw(self, weights: str, batch: ContrastBatch, pair: int, count: int) -> np.ndarray:
        """Numbers of one pair, seeded by the model and by its tokens without padding."""
        stop = int(batch.end[pair]) + 1
        content = [self.seed, weights, batch.clean[pair, :stop].tolist(), batch.corrupt[pair, :stop].tolist()]
        return np.random.default_rng(int(digest(content)[:16], 16)).standard_normal(count)
