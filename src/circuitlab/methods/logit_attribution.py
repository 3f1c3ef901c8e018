"""Logit attribution: what each head, each MLP and the embedding write along the metric's direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from einops import einsum

from circuitlab.core.errors import BadParameterError
from circuitlab.core.progress import step
from circuitlab.execute.contract import provenance_of, require_additive, require_linear
from circuitlab.execute.logit_direction import logit_direction
from circuitlab.execute.needs import prepared
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    from circuitlab.execute.answer_values import AnswerValues
    from circuitlab.metrics import LogitDiff
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["LogitAttribution"]

_RUNS = ("clean", "corrupt", "contrast")


@dataclass(frozen=True)
class LogitAttribution:
    """Direct logit attribution at the answer position (Elhage et al. 2021; Wang et al. 2022).

    The residual stream before the final norm is the sum of what the embedding, every head, every MLP and the attention biases
    write. With the scale of the final norm (and of Gemma's post-norms, and the slope of a final softcap) held at its value in the
    run, the metric is linear in that sum, so that each term has an exact share: for a head,
    ``(z @ W_O) . pull_back(W_U[answers] - W_U[foils])``.

    Parameters
    ----------
    run : {"clean", "corrupt", "contrast"}
        Attribute the metric of the clean run (default), of the corrupt run, or their difference.

    Notes
    -----
    Two forward passes per pair, with the common prefix run once; twice that with hooks, for a model without a functional forward.
    Scores and ``bias`` sum to ``total`` up to rounding of the forward pass (`HeadScores.residual`). A direct share does not include
    effects through later nodes. ``bias`` contains the attention output biases, the final norm's bias and the unembedding bias, which
    belong to no node.

    Raises
    ------
    BadParameterError
        If the metric is not linear in the logits, or ``run`` is unknown.
    AdditivityError
        If shares and bias do not sum to the metric: this model writes something that no known part accounts for.

    References
    ----------
    Elhage et al. (2021), A Mathematical Framework for Transformer Circuits. Wang et al. (2022), arXiv:2211.00593.
    """

    name: ClassVar[str] = "logit_attribution"
    estimand: ClassVar[str] = "direct contribution of a node's output to the metric, norm scales frozen"
    additive: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("hooks", "writes")
    cost: ClassVar[str] = "2 forward passes per pair"
    cite: ClassVar[tuple[str, ...]] = ("elhage2021", "wang2022")

    run: Literal["clean", "corrupt", "contrast"] = "clean"

    def __post_init__(self) -> None:
        if self.run not in _RUNS:
            what = f"run={self.run!r} is not one of {_RUNS}."
            raise BadParameterError(what, "Use 'clean', 'corrupt' or 'contrast'.")

    @property
    def contrastive(self) -> bool:
        """True for the contrast of both runs only, which vanishes if they are the same."""
        return self.run == "contrast"

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: LogitDiff) -> HeadScores:
        """Score heads, MLPs and the embedding; arrays are (pair, layer, head), (pair, layer) and (pair,), in metric units."""
        from circuitlab.execute.answer_values import answer_values  # noqa: PLC0415 - torch

        require_linear(self, metric)
        runs = answer_values(model, metric, batch)
        step(1, 2)
        clean, corrupt = (_attribute(model, batch, metric, values) for values in runs)
        step(2, 2)
        if self.run == "contrast":
            arrays = {name: clean[name] - corrupt[name] for name in clean}
        else:
            arrays = dict(clean if self.run == "clean" else corrupt)
        arrays |= {"clean": clean["total"], "corrupt": corrupt["total"]}
        return require_additive(HeadScores.build(arrays, provenance_of(self, model, batch, metric)))


def _attribute(model: Model, batch: ContrastBatch, metric: LogitDiff, values: AnswerValues) -> dict[str, np.ndarray]:
    """Shares of one run, in float64 from the run's own activations; ``total`` comes from its logits."""
    weights, layers, final = model.weights, range(model.spec.n_layers), values.final
    ids, coefficients = metric.coefficients(batch)
    direction, bias = logit_direction(weights, ids, coefficients, final)
    along = weights.final_norm.pull_back(direction, final)
    bias = bias + weights.final_norm.bias_dot(direction)
    heads = []
    for layer in layers:
        z, w_out, b_out = values.z[:, layer], weights.output(layer).double(), weights.output_bias(layer)
        seen = along
        if (post := weights.post_attention_norm(layer)) is not None:
            raw = einsum(z, w_out, "pair head d_head, head d_head d_model -> pair d_model")
            seen = post.pull_back(along, raw if b_out is None else raw + b_out.double())
            bias = bias + post.bias_dot(along)
        heads.append(einsum(z, w_out, seen, "pair head d_head, head d_head d_model, pair d_model -> pair head"))
        if b_out is not None:
            bias = bias + einsum(seen, b_out.double(), "pair d_model, d_model -> pair")
    mlps = einsum(values.mlp_out, along, "pair layer d_model, pair d_model -> pair layer")
    return {
        "heads": np.stack([share.cpu().numpy() for share in heads], axis=1),
        "mlps": mlps.cpu().numpy(),
        "embed": einsum(values.embed, along, "pair d_model, pair d_model -> pair").cpu().numpy(),
        "bias": bias.cpu().numpy(),
        "total": values.total.cpu().numpy(),
    }
