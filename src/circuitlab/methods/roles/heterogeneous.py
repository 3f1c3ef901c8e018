"""Heads whose reading of a text lies far from that of the other heads of their layer: Task-KV's heterogeneous heads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.progress import step
from circuitlab.methods.roles.contract import RoleKind, measured, role_provenance
from circuitlab.methods.roles.natural import passages
from circuitlab.methods.roles.patterns import within_rows
from circuitlab.methods.roles.reading import RolePrompts
from circuitlab.model.sites import Site
from circuitlab.scores.role_scores import RoleScores

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["Heterogeneous", "from_centre", "semantic_vectors"]


@dataclass(frozen=True)
class Heterogeneous:
    """Distance of a head's semantic vector from the centre of its layer (Task-KV, He et al. 2025).

    The semantic vector of a head on a text is the mean, over queries, of the values that it reads there. The centre is the mean of these
    vectors over the heads of a layer.

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
    space : {"written", "values"}
        Where distances are taken: in the residual stream, after the head's output matrix (default); or among the values themselves, as in
        the paper, where heads with other value matrices have no coordinates in common.
    seed : int
        Of the orders of the control.

    Notes
    -----
    The value is the Euclidean distance divided by the mean distance of the layer's heads: 1 is an average head. The paper keeps, for each
    layer, the farthest quarter or so of the heads, and the nearest one. The threshold here, 1.5, asks for half as much again as the
    average head; it was fixed before any model was measured. In the control every query reads its keys but the first in random order, all
    heads in the same one, and distances are divided by the same number: what is left there comes from how large a head's values are, not
    from what it looks at. Two heads are equally far from their mean: a model with fewer than three in a layer is refused.

    References
    ----------
    He et al. (2025), Task-KV: Task-aware KV Cache Optimization via Semantic Differentiation of Attention Heads, arXiv:2501.15113.

    Examples
    --------
    >>> from circuitlab.methods.roles.heterogeneous import Heterogeneous
    >>> from circuitlab.testing.tiny import tiny_model
    >>> rows = ((3, 5, 7, 9, 11, 2), (4, 8, 1, 6, 2, 9))
    >>> Heterogeneous(tokens=rows)(tiny_model("llama"))
    RoleScores(heterogeneous, tiny-llama, 2 passages of 6 tokens: 0 of 12 heads earn it)
    """

    name: ClassVar[str] = "heterogeneous"
    estimand: ClassVar[str] = "distance of what a head reads of a text from the mean of its layer's heads, over their mean distance"
    units: ClassVar[str] = "mean distances of the layer"
    threshold: ClassVar[float] = 1.5
    null: ClassVar[str] = "the same values with the keys of each query, but the first, in random order"
    kind: ClassVar[RoleKind] = "behaviour"
    needs: ClassVar[tuple[str, ...]] = ("decoder", "tokenizer")
    sites: ClassVar[tuple[Site, ...]] = (Site.PATTERN, Site.V)
    by_default: ClassVar[bool] = False
    cost: ClassVar[str] = "1 forward pass per passage of 64 tokens"
    cite: ClassVar[tuple[str, ...]] = ("he2025taskkv",)

    texts: tuple[str, ...] = field(default=(), repr=False, metadata={"identity": False})
    tokens: tuple[tuple[int, ...], ...] = field(default=(), repr=False, metadata={"identity": False})
    length: int = 64
    n: int = 64
    space: Literal["written", "values"] = "written"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", (self.texts,) if isinstance(self.texts, str) else tuple(self.texts))
        object.__setattr__(self, "tokens", tuple(map(tuple, self.tokens)))
        lengths = {len(row) for row in self.tokens}
        if self.n < 2 or len(lengths) > 1 or len(self.tokens) == 1 or self.space not in {"written", "values"}:  # noqa: PLR2004
            what = f"n={self.n}, space={self.space!r} and {len(self.tokens)} rows of {sorted(lengths)} tokens cannot be used."
            raise BadParameterError(what, "Use two passages or more, all of one length, and the space 'written' or 'values'.")
        if self.tokens:  # token ids need no tokenizer
            object.__setattr__(self, "needs", ("decoder",))

    def inputs(self, model: Model) -> dict[str, Any]:
        """The token ids that are run."""
        return self._prompts(model).plain()

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head; raises `BadParameterError` where a layer has fewer than three heads."""
        prompts = self._prompts(model)
        if model.spec.n_heads < 3:  # noqa: PLR2004 - two heads are equally far from their mean
            what = f"{model.spec.name} has {model.spec.n_heads} heads in each layer, which are equally far from their mean."
            raise BadParameterError(what, "Measure this role on a model with more heads.")
        both = []
        for number, row in enumerate(prompts.tokens):
            own, shuffled = semantic_vectors(model, row, self.space, np.random.default_rng([self.seed, number]))
            both.append([from_centre(own, own), from_centre(shuffled, own)])
            step(number + 1, len(prompts.tokens))
        values, control = np.moveaxis(np.array(both), 1, 0)
        return RoleScores(values, role_provenance(self, model, prompts.sample, prompts.plain()), control)

    def _prompts(self, model: Model) -> RolePrompts:
        if self.tokens:
            return RolePrompts(np.array(self.tokens), f"passages of {len(self.tokens[0])} tokens")
        chosen = passages(model, self.texts, self.length)
        return RolePrompts(chosen.tokens[: self.n], chosen.sample)


def semantic_vectors(model: Model, row: np.ndarray, space: str, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Semantic vectors of every head on one text, and with the keys of each query in random order, each (layer, head, width)."""
    import torch  # noqa: PLC0415 - listing roles must not load torch

    seen = model.capture(torch.tensor(row[None]), [Site.PATTERN, Site.V])
    pattern, values = (seen[site][0].double().cpu().numpy() for site in (Site.PATTERN, Site.V))
    visible = np.any(pattern > 0, axis=1, keepdims=True)
    shuffled = within_rows(pattern, random.random(pattern.shape[-2:]), visible, gap=0)
    group = model.spec.n_heads // model.spec.n_kv_heads
    own = np.repeat(np.moveaxis(values, 1, 2), group, axis=1)  # layer, head, key, d_head
    read, elsewhere = (np.einsum("lhk,lhkd->lhd", one.mean(-2), own) for one in (pattern, shuffled))
    if space == "values":
        return read, elsewhere
    outputs = np.stack([model.weights.output(layer).double().cpu().numpy() for layer in range(model.spec.n_layers)])
    return tuple(np.einsum("lhd,lhdm->lhm", one, outputs) for one in (read, elsewhere))  # type: ignore[return-value]


def from_centre(vectors: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Distances of heads from the mean of their layer, over the mean of those of ``unit``, (layer, head).

    Examples
    --------
    >>> vectors = np.array([[[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    >>> from_centre(vectors, vectors).round(2).tolist()
    [[1.5, 0.75, 0.75]]
    """
    far, mean = _distances(vectors), _distances(unit).mean(-1, keepdims=True)
    return np.asarray(np.where(mean > 0, far / np.where(mean > 0, mean, 1.0), 1.0))


def _distances(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(vectors - vectors.mean(-2, keepdims=True), axis=-1))
