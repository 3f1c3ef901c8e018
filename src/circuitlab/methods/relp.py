"""RelP: attribution patching with the coefficients of relevance propagation instead of gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.execute.contract import fields_as_tuples
from circuitlab.execute.first_order import EffectEstimator, check_direction, first_order
from circuitlab.execute.needs import prepared
from circuitlab.execute.nodes_in_trace import NodeSelection

if TYPE_CHECKING:
    from circuitlab.execute.cost import RunSize
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["RelevancePatching"]

_PARTS = ("heads", "attns", "mlps", "resid_pre", "resid_mid", "resid_post", "embed")
_SITES = ("z", "q", "k", "v")


@dataclass(frozen=True)
class RelevancePatching:
    """Relevance patching (Jafari et al. 2025): ``(clean - corrupt) . coefficient`` for every node.

    The coefficient is what layer-wise relevance propagation (LRP) passes back to a node. The forward pass is the model's own. The
    backward pass differs from the gradient where a nonlinear step's gradient describes a large change badly:

    * norms (also post-norms and the final norm) are linear maps with the scale of this run (LN rule);
    * an activation, and the final softcap, multiplies by its output over its input (identity rule);
    * a product of gate and value gives half to each factor (half rule);
    * attention weights keep the gradient of their softmax or, with ``pattern="frozen"``, are constants (AH rule);
    * linear maps and the residual stream are as in the gradient (0 rule).

    Parameters
    ----------
    direction : {"denoising", "noising"}
        Whether coefficients are taken at the corrupt run (denoising) or at the clean run (noising).
    parts : tuple of str
        Any of heads, attns, mlps, resid_pre, resid_mid, resid_post, embed.
    site : {"z", "q", "k", "v"}
        The value of a head; keys and values give the part ``kv_heads``. Queries and keys need ``pattern="gradient"``.
    positions : tuple of str
        ``("all",)``, ``("each",)`` or marks of the task.
    pattern : {"gradient", "frozen"}
        ``"gradient"`` keeps the ordinary gradient of the softmax, as in the rules that the authors' code uses for indirect object
        identification; it agrees better with exact patching there. ``"frozen"`` is the rule for attention in their table of rules: a
        node counts through the values that later heads move, not through where they attend.
    pairs_per_pass : int
        Most pairs in one graph. It affects memory and time, not results.

    Notes
    -----
    Cost: 2 forward passes and 1 backward pass per pair, as for ``attribution_patching``. Scores are exact on a linear model, and not
    additive.

    Raises
    ------
    BadParameterError
        For queries or keys with a frozen pattern, or if the metric has no gradient at the run that is differentiated.
    ModelError
        If the model lacks a part, or has no functional forward.

    References
    ----------
    Jafari et al. (2025), RelP: Faithful and Efficient Circuit Discovery in Language Models via Relevance Patching, arXiv:2508.21258.
    Ali et al. (2022), XAI for Transformers: Better Explanations through Conservative Propagation.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> scores = cl.score(planted.model, planted.batch(4), RelevancePatching())
    >>> [str(entry.node) for entry in scores.top(2)], sorted(map(str, planted.nodes))
    (['a1.h1', 'a1.h2'], ['a1.h1', 'a1.h2'])
    """

    name: ClassVar[str] = "relp"
    estimand: ClassVar[str] = "estimate of the total effect of swapping a node's output, by relevance propagated from the metric"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("gradients", "neurons")
    cost: ClassVar[str] = "2 forward passes and 1 backward pass per pair"
    cite: ClassVar[tuple[str, ...]] = ("jafari2025",)

    direction: Literal["denoising", "noising"] = "denoising"
    parts: tuple[str, ...] = ("heads", "mlps")
    site: Literal["z", "q", "k", "v"] = "z"
    positions: tuple[str, ...] = ("all",)
    pattern: Literal["gradient", "frozen"] = "gradient"
    pairs_per_pass: int = field(default=16, metadata={"identity": False})

    def __post_init__(self) -> None:
        fields_as_tuples(self)
        check_direction(self.direction, self.pairs_per_pass)
        self.chosen.check(_PARTS, _SITES)
        if self.pattern not in {"frozen", "gradient"}:
            raise UnknownNameError("pattern", self.pattern, ["frozen", "gradient"])
        if self.site in {"q", "k"} and self.pattern == "frozen":
            what = f"site={self.site!r} has no relevance if attention weights are constants."
            raise BadParameterError(what, "Use pattern='gradient', or site='z' or 'v'.")

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

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Score every node; parts have shape (pair[, mark], layer[, head]) in metric units."""
        from circuitlab.execute.relevance import relevance_decoder  # noqa: PLC0415 - torch

        decoder = relevance_decoder(model, frozen_pattern=self.pattern == "frozen")
        return first_order(self, model, batch, metric, EffectEstimator(decoder=decoder))
