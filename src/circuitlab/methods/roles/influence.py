"""What natural text loses when one head attends evenly: AttentionInfluence, head by head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head
from circuitlab.core.progress import step
from circuitlab.execute.text_loss import next_token_losses
from circuitlab.methods.roles.contract import RoleKind, measured, role_provenance
from circuitlab.methods.roles.natural import passages
from circuitlab.methods.roles.reading import RolePrompts
from circuitlab.model.sites import Site
from circuitlab.scores.role_scores import RoleScores

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["AttentionInfluence"]


@dataclass(frozen=True)
class AttentionInfluence:
    """Rise of the loss on natural text when one head divides its attention evenly (Hua et al. 2025).

    Parameters
    ----------
    texts : tuple of str
        Passages of one's own; the first of those that circuitlab ships otherwise.
    tokens : tuple of tuple of int
        Passages as token ids, all of one length, in place of texts.
    length : int
        Tokens of each passage; shorter ones are left out.
    n : int
        Passages, at most.

    Notes
    -----
    The value is the paper's score of a text, ``(L_ref - L_base) / L_base``, where ``L`` is the mean cross-entropy of its next tokens. The
    paper makes the attention of the best 5 % of retrieval heads even, all at once, to find texts; here it is one head at a time, to find
    heads. Even is over the keys that the head's layer can see, in its window. Any head may lose something by it; the control, the mean
    over the other heads of its layer on the same passage, says what a head of that layer loses whoever it is. In a model with one head a
    layer there is no other, and the role is refused. The threshold, a hundredth of the loss, was fixed before any model was measured.

    References
    ----------
    Hua et al. (2025), AttentionInfluence, arXiv:2505.07293.

    Examples
    --------
    >>> from circuitlab.methods.roles.repeats import repeated_tokens
    >>> from circuitlab.model.toy import build_planted
    >>> model = build_planted("induction-mha").model
    >>> rows = repeated_tokens(model, 8, 2, 6, seed=0).tokens.tolist()
    >>> scores = AttentionInfluence(tokens=tuple(map(tuple, rows)))(model)
    >>> np.argwhere(scores.earned()).tolist()  # the planted heads: even attention breaks either half of induction
    [[0, 1], [1, 2]]
    """

    name: ClassVar[str] = "attention_influence"
    estimand: ClassVar[str] = "rise of the mean next-token loss on natural text when the head attends evenly"
    units: ClassVar[str] = "share of the loss"
    threshold: ClassVar[float] = 0.01
    null: ClassVar[str] = "the same for the other heads of the layer, their mean"
    kind: ClassVar[RoleKind] = "behaviour"
    needs: ClassVar[tuple[str, ...]] = ("gradients", "tokenizer")
    sites: ClassVar[tuple[Site, ...]] = (Site.PATTERN, Site.RESID_POST)
    by_default: ClassVar[bool] = False
    cost: ClassVar[str] = "1 forward pass of 8 passages of 64 tokens per head"
    cite: ClassVar[tuple[str, ...]] = ("hua2025",)

    texts: tuple[str, ...] = field(default=(), repr=False, metadata={"identity": False})
    tokens: tuple[tuple[int, ...], ...] = field(default=(), repr=False, metadata={"identity": False})
    length: int = 64
    n: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", (self.texts,) if isinstance(self.texts, str) else tuple(self.texts))
        object.__setattr__(self, "tokens", tuple(map(tuple, self.tokens)))
        lengths = {len(row) for row in self.tokens}
        if self.n < 2 or len(lengths) > 1 or len(self.tokens) == 1 or (self.tokens and min(lengths) < 2):  # noqa: PLR2004
            what = f"n={self.n}, and {len(self.tokens)} rows of {sorted(lengths)} tokens cannot be compared."
            raise BadParameterError(what, "Use two passages or more, all of one length.")
        if self.tokens:  # token ids need no tokenizer
            object.__setattr__(self, "needs", ("gradients",))

    def inputs(self, model: Model) -> dict[str, Any]:
        """The token ids that are run."""
        return self._prompts(model).plain()

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head; raises `BadParameterError` where a layer has one head only."""
        from circuitlab.model.interventions.pattern import EditPattern  # noqa: PLC0415 - listing roles must not load torch

        spec, prompts = model.spec, self._prompts(model)
        if spec.n_heads == 1:
            what = f"{spec.name} has one head in each layer, and heads are compared with the others of their layer."
            raise BadParameterError(what, "Measure this role on a model with more heads.")
        base = _losses(model, prompts.tokens)
        values = np.zeros((len(base), spec.n_layers, spec.n_heads))
        for layer, head in np.ndindex(spec.n_layers, spec.n_heads):
            even = model.edited(EditPattern(Head(layer, head), "uniform"))
            values[:, layer, head] = (_losses(even, prompts.tokens) - base) / base
            step(layer * spec.n_heads + head + 1, spec.n_layers * spec.n_heads)
        others = (values.sum(-1, keepdims=True) - values) / (spec.n_heads - 1)
        return RoleScores(values, role_provenance(self, model, prompts.sample, prompts.plain()), others)

    def _prompts(self, model: Model) -> RolePrompts:
        if self.tokens:
            return RolePrompts(np.array(self.tokens), f"passages of {len(self.tokens[0])} tokens")
        chosen = passages(model, self.texts, self.length)
        return RolePrompts(chosen.tokens[: self.n], chosen.sample)


def _losses(model: Model, tokens: np.ndarray) -> np.ndarray:
    """Mean cross-entropy of the next tokens of each row."""
    return np.array([float(losses.mean()) for losses in next_token_losses(model, tokens.tolist())])
