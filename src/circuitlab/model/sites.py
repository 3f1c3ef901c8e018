"""The sites of a model that can be read and edited, and edits of one run.

Importing this module does not import torch; tensors appear in annotations only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["Edit", "EditSet", "Site"]


class Site(enum.Enum):
    """A value inside every layer that can be read and edited. Shapes are per row and layer.

    RESID_PRE, RESID_MID, RESID_POST
        (pos, d_model). The residual stream, not normalised: entering the layer, between attention and MLP, leaving the layer.
        RESID_MID does not exist in parallel blocks (GPT-NeoX).
    ATTN_OUT, MLP_OUT
        (pos, d_model). What attention or the MLP adds to the residual stream: after the output projection, its bias, and the
        post-norm of models that have one (Gemma 2 and 3).
    Z
        (pos, head, d_head). Each query head's attention-weighted sum of values, before the output projection.
    Q
        (pos, head, d_head). Queries as projected: before any q-norm and before rotation.
    K, V
        (pos, kv_head, d_head). Keys (before any k-norm and rotation) and values, one per shared key/value head.
    PATTERN
        (head, query_pos, key_pos). Attention weights after the softmax.
    """

    RESID_PRE = "resid_pre"
    RESID_MID = "resid_mid"
    RESID_POST = "resid_post"
    ATTN_OUT = "attn_out"
    MLP_OUT = "mlp_out"
    Z = "z"
    Q = "q"
    K = "k"
    V = "v"
    PATTERN = "pattern"

    @property
    def per_head(self) -> bool:
        """Whether the site has a head axis."""
        return self in {Site.Z, Site.Q, Site.K, Site.V, Site.PATTERN}


@dataclass(frozen=True, eq=False)
class Edit:
    """Replace the value at one site of one layer during a run.

    Parameters
    ----------
    site : Site
        The value that is replaced.
    layer : int
        Its layer, from 0.
    value : Tensor
        The new value: (row, pos, ...) for all positions, or (row, ...) if ``positions`` is given; without the head axis if
        ``head`` is given.
    head : int, optional
        Edit only this head (key/value head at K and V).
    positions : Tensor of int, shape (row,), optional
        Edit only this position of each row.
    rows : slice, optional
        Edit only these rows of the batch; all rows by default. It lets one forward pass make many edits.
    """

    site: Site
    layer: int
    value: Float[Tensor, ...]
    head: int | None = None
    positions: Int[Tensor, " row"] | None = None
    rows: slice | None = None


@dataclass(frozen=True, eq=False)
class EditSet:
    """A set of edits made together in one run.

    Parameters
    ----------
    edits : tuple of Edit
        Edits with one value per prompt, and without ``rows``.
    start : int
        First position at which an edited value differs from the unedited run in any prompt; nothing before it is recomputed. 0 is always
        correct.
    """

    edits: tuple[Edit, ...]
    start: int = 0

    @property
    def layer(self) -> int:
        """The first layer that is edited."""
        return min(edit.layer for edit in self.edits)
