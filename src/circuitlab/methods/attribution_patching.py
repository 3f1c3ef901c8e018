"""Attribution patching: activation patching to first order, for all nodes from one backward pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from circuitlab.execute.contract import fields_as_tuples
from circuitlab.execute.first_order import check_direction, first_order, gradient_chunks
from circuitlab.execute.needs import prepared
from circuitlab.execute.nodes_in_trace import NodeSelection

if TYPE_CHECKING:
    from circuitlab.execute.chunks import Chunks
    from circuitlab.execute.cost import RunSize
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["AttributionPatching"]

_PARTS = ("heads", "attns", "mlps", "resid_pre", "resid_mid", "resid_post", "embed")
_SITES = ("z", "q", "k", "v", "pattern")


@dataclass(frozen=True)
class AttributionPatching:
    """First-order estimate of activation patching (Nanda 2023; Kramar et al. 2024).

    The metric of a patched run is expanded around the unpatched run. A node's score is ``(clean - corrupt) . gradient``: the
    difference of its values in the two runs times the gradient of the metric at the node, summed over positions. Positive means
    that the node helps the answer, as in `ActivationPatching`, which this method estimates and whose fields it shares.

    Parameters
    ----------
    direction : {"denoising", "noising"}
        Whether the gradient is taken at the corrupt run (what would restoring the node give?) or at the clean run (what would be lost?).
    parts : tuple of str
        Any of heads, attns, mlps, resid_pre, resid_mid, resid_post, embed.
    site : {"z", "q", "k", "v", "pattern"}
        The value of a head: its output before the output projection (z), its query, key or value as projected, or its attention
        pattern. Keys and values belong to shared key/value heads, so their scores are the part ``kv_heads``; the gradient of a shared
        head includes all of its query heads.
    positions : tuple of str
        ``("all",)`` sums over positions; ``("each",)`` gives one score per position, for prompts of equal length; otherwise there is one
        score for each named mark (for example ``("S2", "END")``). A pattern's position is that of the query.
    pairs_per_pass : int
        Most pairs in one graph. It affects memory and time, not results.

    Notes
    -----
    Cost: 2 forward passes and 1 backward pass per pair, for all nodes and positions together. It is exact if the metric is linear in
    the node between its two values, and in the limit of small differences. Otherwise it fails in known ways: a saturated softmax hides
    queries and keys, and direct and indirect effects can cancel (see ``atp_star``); norms and gates make the effect of large early
    nodes nonlinear (see ``relp``). Scores of single positions sum to the score of all positions; scores of nodes need not sum to
    ``total``, the clean-corrupt gap.

    Raises
    ------
    BadParameterError
        If the metric has no gradient at the run that is differentiated (``kl`` with ``direction="noising"``).
    ModelError
        If the model lacks a part, or has no functional forward.

    References
    ----------
    Nanda (2023), Attribution Patching: Activation Patching At Industrial Scale. Kramar et al. (2024), AtP*: An efficient and scalable
    method for localizing LLM behaviour to components, arXiv:2403.00745.
    """

    name: ClassVar[str] = "attribution_patching"
    estimand: ClassVar[str] = "first-order estimate of the total effect of swapping a node's output between the clean and the corrupt run"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    cost: ClassVar[str] = "2 forward passes and 1 backward pass per pair"
    cite: ClassVar[tuple[str, ...]] = ("nanda2023", "kramar2024")
    streamed_fault: ClassVar[str] = ""

    direction: Literal["denoising", "noising"] = "denoising"
    parts: tuple[str, ...] = ("heads", "mlps")
    site: Literal["z", "q", "k", "v", "pattern"] = "z"
    positions: tuple[str, ...] = ("all",)
    pairs_per_pass: int = field(default=8, metadata={"identity": False})

    def __post_init__(self) -> None:
        fields_as_tuples(self)
        check_direction(self.direction, self.pairs_per_pass)
        self.chosen.check(_PARTS, _SITES)

    @property
    def contrastive(self) -> bool:
        """Always true: equal prompts have no difference."""
        return True

    @property
    def chosen(self) -> NodeSelection:
        """Nodes and positions that are scored."""
        return NodeSelection(self.parts, self.site, self.positions)

    def passes(self, size: RunSize) -> float:
        """Forward passes: two, and one backward."""
        return size.traced(2, 1)

    def chunks(self, model: Model, batch: ContrastBatch) -> Chunks:
        """Pairs that share a pass, and their memory."""
        return gradient_chunks(self, model, batch)

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Score every node; parts have shape (pair[, mark], layer[, head]) in metric units."""
        return first_order(self, model, batch, metric)
