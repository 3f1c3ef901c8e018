"""The direction behind the final norm along which a weighted sum of logits is read, at one run's own values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import einsum

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.protocol import Weights

__all__ = ["logit_direction"]


def logit_direction(
    weights: Weights,
    ids: Int[Tensor, "pair k"],
    coefficients: Float[Tensor, "pair k"],
    final: Float[Tensor, "pair d_model"],
) -> tuple[Float[Tensor, "pair d_model"], Float[Tensor, " pair"]]:
    """Direction after the final norm, and the constant part; a softcap enters as its secant slope in this run.

    Parameters
    ----------
    weights : Weights
        Of the readout.
    ids, coefficients : Tensor, shape (pair, k)
        Which logits, and how they are weighted.
    final : Tensor, shape (pair, d_model)
        The residual stream that leaves the last layer.
    """
    ids, coefficients = ids.to(final.device), coefficients.double().to(final.device)
    columns, offset = weights.unembed(ids).double(), weights.unembed_bias(ids)
    constant = coefficients * 0.0 if offset is None else offset.double()
    if (cap := weights.softcap) is not None:
        plain = einsum(weights.final_norm.apply(final), columns, "pair d_model, pair k d_model -> pair k") + constant
        ratio = plain / cap
        slope = (ratio.tanh() / ratio).nan_to_num(nan=1.0)
        coefficients = coefficients * slope
    direction = einsum(columns, coefficients, "pair k d_model, pair k -> pair d_model")
    return direction, einsum(constant, coefficients, "pair k, pair k -> pair")
