"""Heads that read and write few directions: the effective rank of their OV and QK matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from circuitlab.methods.roles.contract import RoleKind, measured
from circuitlab.methods.roles.permutation import draws_for, scores_from_weights

if TYPE_CHECKING:
    from circuitlab.execute.singular import Circuit
    from circuitlab.model.protocol import Model
    from circuitlab.scores.role_scores import RoleScores

__all__ = ["LowRankOV", "LowRankQK"]


@dataclass(frozen=True)
class LowRankOV:
    """How few of its dimensions a head's OV matrix uses: 1 minus its effective rank over d_head.

    The effective rank is the exponential of the entropy of the singular values over their sum (Roy and Vetterli 2007): r equal ones and no
    others give r. Norms of the family are folded into the matrix.

    Parameters
    ----------
    seed : int
        Of the random matrices.

    Notes
    -----
    Threshold 0.5: fewer than half of the head's dimensions. No paper gives a number. The null has no gains of norms: a gain that is large
    for few dimensions makes a head narrow, and counts as such.

    Examples
    --------
    >>> LowRankOV().seed
    0
    """

    name: ClassVar[str] = "low_rank_ov"
    estimand: ClassVar[str] = "1 minus the effective rank of the head's OV matrix over d_head"
    units: ClassVar[str] = "share of dimensions"
    threshold: ClassVar[float] = 0.5
    null: ClassVar[str] = "products of Gaussian matrices of the same shapes"
    kind: ClassVar[RoleKind] = "weights"
    needs: ClassVar[tuple[str, ...]] = ("decoder", "unedited")
    cost: ClassVar[str] = "weights alone"
    cite: ClassVar[tuple[str, ...]] = ("elhage2021", "roy2007")
    circuit: ClassVar[Circuit] = "ov"

    seed: int = 0

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head."""
        from circuitlab.execute.singular import head_singular_values, random_singular_values  # noqa: PLC0415 - loads torch

        value = _unused(head_singular_values(model, self.circuit))
        drawn = _unused(random_singular_values(model, draws_for(value.size), self.seed))
        return scores_from_weights(self, model, value, np.broadcast_to(drawn[:, None, None], (len(drawn), *value.shape)))


@dataclass(frozen=True)
class LowRankQK(LowRankOV):
    """How few of its dimensions a head's QK matrix uses: 1 minus its effective rank over d_head.

    As `LowRankOV`, for the matrix by which queries and keys meet at the same position: rotary positions are left out.

    Examples
    --------
    >>> LowRankQK.name
    'low_rank_qk'
    """

    name: ClassVar[str] = "low_rank_qk"
    estimand: ClassVar[str] = "1 minus the effective rank of the head's QK matrix, at the same position, over d_head"
    circuit: ClassVar[Circuit] = "qk"


def _unused(singular: np.ndarray) -> np.ndarray:
    """1 minus the effective rank over the number of singular values, the last axis; 0 for a matrix that is 0."""
    total = singular.sum(-1, keepdims=True)
    share = singular / np.where(total == 0, 1, total)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(-1)
    return np.asarray(np.where(total[..., 0] == 0, 0.0, 1 - np.exp(entropy) / singular.shape[-1]))
