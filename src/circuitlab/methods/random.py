"""Random scores: the baseline that every method must exceed."""

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
    """Standard normal scores that do not depend on what the model computes: a null baseline for method comparisons.

    The scores of a pair come from a generator that is seeded by the hash of the weights, the pair's tokens and ``seed``. They are the same
    on every machine and for every order and size of the batch, as with any other method. But they do not vanish for dead heads, do not
    follow a head that is relabelled, and do not scale with the logits.

    Parameters
    ----------
    seed : int
        Seed of the scores.

    Notes
    -----
    Two forward passes per pair, for ``total``, the clean-corrupt gap. Scores have no meaning and no unit.

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
        """Always false: equal prompts get random scores, too."""
        return False

    def passes(self, size: RunSize) -> float:
        """Forward passes: both runs of every pair."""
        return 2.0 * size.pairs

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Draw a score for every head (pair, layer, head) and every MLP (pair, layer)."""
        reference_batch = with_reference(model, metric, batch)
        clean, corrupt = (
            metric(answer_logits(model, reference_batch, tokens).double(), reference_batch).cpu().numpy()
            for tokens in (reference_batch.clean, reference_batch.corrupt)
        )
        layers, heads = model.spec.n_layers, model.spec.n_heads
        drawn = np.stack([self._draw(model.spec.weights, batch, pair, layers * (heads + 1)) for pair in range(batch.n_pairs)])
        drawn = drawn.reshape(batch.n_pairs, layers, heads + 1)
        arrays = {"heads": drawn[..., :-1], "mlps": drawn[..., -1], "clean": clean, "corrupt": corrupt, "total": clean - corrupt}
        step(batch.n_pairs, batch.n_pairs)
        return HeadScores.build(arrays, provenance_of(self, model, batch, metric))

    def _draw(self, weights: str, batch: ContrastBatch, pair: int, count: int) -> np.ndarray:
        """Scores of one pair, seeded by the model and by the pair's tokens without padding."""
        stop = int(batch.end[pair]) + 1
        content = [self.seed, weights, batch.clean[pair, :stop].tolist(), batch.corrupt[pair, :stop].tolist()]
        return np.random.default_rng(int(digest(content)[:16], 16)).standard_normal(count)
