"""The readout of a streamed model: rows of the unembedding are read when they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import torch

from circuitlab.core.errors import StreamedModelError
from circuitlab.model.norms import FrozenNorm

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.streaming.skeleton import Skeleton

__all__ = ["StreamedReadout"]

_KEPT = 4096
"""Rows of the unembedding that are kept once they have been read."""


class StreamedReadout:
    """Implements `circuitlab.model.protocol.Weights` for what a streamed model can give; the weights of layers are refused.

    Parameters
    ----------
    skeleton : Skeleton
        The model.
    final_norm : FrozenNorm
        Norm before the unembedding.
    softcap : float or None
        Softcap of the final logits.
    """

    def __init__(self, skeleton: Skeleton, final_norm: FrozenNorm, softcap: float | None) -> None:
        self._skeleton, self.final_norm, self.softcap = skeleton, final_norm, softcap
        self._rows: dict[int, Tensor] = {}

    def _refuse(self, what: str) -> NoReturn:
        name = type(self._skeleton.root).__name__
        text = f"{what} of a streamed model ({name}) cannot be read: one layer at a time is in memory."
        raise StreamedModelError(text, "Load the model without stream=True.")

    @property
    def embedding(self) -> Float[Tensor, "token width"]:
        """Refused: the whole embedding is not in memory."""
        self._refuse("The whole embedding")

    def output(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Refused: weights of layers are in memory only while work passes them."""
        self._refuse(f"The output projection of layer {layer}")

    def output_bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """Refused, as `output`."""
        self._refuse(f"The output bias of layer {layer}")

    def post_attention_norm(self, layer: int) -> FrozenNorm | None:
        """Refused, as `output`."""
        self._refuse(f"The post-attention norm of layer {layer}")

    def embed(self, ids: Int[Tensor, ...]) -> Float[Tensor, "... d_embed"]:
        """Rows of the embedding of tokens, as its module gives them."""
        skeleton = self._skeleton
        rows: Tensor = skeleton.root.get_input_embeddings()(ids)
        return rows

    def unembed(self, ids: Int[Tensor, ...] | slice) -> Float[Tensor, "... d_model"]:
        """Unembedding column of each token id; a whole vocabulary goes through `StreamedModel.unembed`, some rows at a time."""
        if isinstance(ids, slice):
            self._refuse("The whole unembedding")
        skeleton = self._skeleton
        wanted = [token for token in dict.fromkeys(ids.flatten().tolist()) if token not in self._rows]
        if wanted:
            if len(self._rows) + len(wanted) > _KEPT:
                self._rows.clear()
                wanted = list(dict.fromkeys(ids.flatten().tolist()))
            rows = skeleton.shards.rows(skeleton.unembedding, torch.tensor(wanted), skeleton.dtype)
            self._rows.update(zip(wanted, rows, strict=True))
        return torch.stack([self._rows[token] for token in ids.flatten().tolist()]).unflatten(0, ids.shape)

    def unembed_bias(self, ids: Int[Tensor, ...] | slice) -> Float[Tensor, ...] | None:  # noqa: ARG002 - the signature of the protocol
        """None: no family that can be streamed has one."""
        return None
