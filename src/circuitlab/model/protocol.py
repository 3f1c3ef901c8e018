"""The protocol of a model: what every model must be able to do, and the weights that a linear readout needs.

Importing this module does not import torch; tensors appear in annotations only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from circuitlab.model.runner import ReadableModel, Runner

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from circuitlab.core.nodes import Head
    from circuitlab.model.generate import Generation
    from circuitlab.model.interventions import Intervention
    from circuitlab.model.norms import FrozenNorm
    from circuitlab.model.prompts import PromptLike
    from circuitlab.model.sites import Edit, EditSet
    from circuitlab.scores.attention import AttentionPattern

__all__ = ["Model", "Weights"]


class Weights(Protocol):
    """The weights that a linear readout of the residual stream needs; all detached and not folded."""

    @property
    def embedding(self) -> Float[Tensor, "token width"]:
        """Embedding matrix as it is stored: before a family scales, norms or projects it, and without positions.

        What a token puts into the residual stream is `circuitlab.model.token_vectors`.
        """
        ...

    @property
    def final_norm(self) -> FrozenNorm:
        """Norm before the unembedding."""
        ...

    @property
    def softcap(self) -> float | None:
        """Softcap of the final logits, or None."""
        ...

    def output(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Output projection W_O of each query head."""
        ...

    def output_bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """Output bias b_O of the attention layer, or None."""
        ...

    def post_attention_norm(self, layer: int) -> FrozenNorm | None:
        """The norm between the output projection and the residual stream, or None."""
        ...

    def embed(self, ids: Int[Tensor, ...]) -> Float[Tensor, "... d_embed"]:
        """Rows of the embedding of tokens, as its module gives them: what a family multiplies them with, or adds, comes later."""
        ...

    def unembed(self, ids: Int[Tensor, ...] | slice) -> Float[Tensor, "... d_model"]:
        """Unembedding column of each token id."""
        ...

    def unembed_bias(self, ids: Int[Tensor, ...] | slice) -> Float[Tensor, ...] | None:
        """Unembedding bias of each token id, or None."""
        ...


@runtime_checkable
class Model(ReadableModel, Protocol):
    """A decoder language model as circuitlab uses it. Right-padded rows are exact: a causal model does not read later positions."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer, or None for a model that takes token ids only."""
        ...

    @property
    def weights(self) -> Weights:
        """Weights of the final norm, the unembedding and the output projections."""
        ...

    @property
    def length_dependent(self) -> bool:
        """Whether rotary angles depend on the length of the prompt, so that prompts of different lengths cannot share a pass."""
        ...

    def unembed(self, resid: Float[Tensor, "... d_model"], ids: Int[Tensor, " token"] | None = None) -> Float[Tensor, "... token"]:
        """Logits from the residual stream leaving the last layer, through final norm and softcap; gradients flow to ``resid``."""
        ...

    def sweep(
        self,
        tokens: Int[Tensor, "row pos"],
        at: Int[Tensor, " row"],
        edit_sets: Sequence[EditSet],
        ids: Int[Tensor, " token"] | None = None,
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,
    ) -> Float[Tensor, "edit_set row token"]:
        """Next-token logits of many edited runs of the same prompts, for the tokens ``ids`` only if given; without gradients."""
        ...

    def with_edits(self, edits: Sequence[Edit]) -> Runner:
        """Runs of this model with values written at some sites. A run in which an edit does not fire raises `EditDidNotFireError`.

        The model itself is never changed, even if a run fails.
        """
        ...

    def edited(self, *interventions: Intervention) -> Model:
        """The same model with interventions applied to every run. It is a `Model`, and its edits are part of its identity."""
        ...

    def generate(
        self, prompts: PromptLike, max_new_tokens: int, temperature: float = 0.0, seed: int = 0, stop: str | Sequence[str] | None = None
    ) -> Generation | tuple[Generation, ...]:
        """Generate text after one prompt, or after each of several.

        Parameters
        ----------
        prompts : str, token ids, several of either, or ContrastBatch
            Lengths may differ; nothing is padded. Of a batch, the clean prompts are used, with their marks.
        max_new_tokens : int
            At most this many tokens for each prompt. For models with learned positions, prompt and new tokens must fit into the context.
        temperature : float
            0 (the default) takes the likeliest token each time; otherwise logits are divided by it and a token is sampled.
        seed : int
            Seed of sampling. Samples for a prompt depend on the seed and the prompt, not on the other prompts.
        stop : str or sequence of str, optional
            Stop once the new text contains one of them. EOS tokens always stop.

        Returns
        -------
        Generation or tuple of Generation
            One for a single prompt, a tuple for several.

        Raises
        ------
        BadParameterError
            If a prompt or a setting cannot be used, before anything is run.
        TokenizationError
            If text is given to a model without a tokenizer.
        ModelError
            If logits are not finite.

        Notes
        -----
        Tokens are chosen from the model's own distribution: penalties and filters of a ``generation_config`` are not applied. Greedy text
        equals that of Hugging Face's ``generate`` without them. Keys and values are cached if a cached run gives the same logits as a run
        of the whole text. Other models (recurrent ones, and those whose rotary angles depend on the length) run the whole text for every
        token, as ``generate(use_cache=False)`` does.
        """
        ...

    def attention(self, head: Head | str, prompts: PromptLike) -> AttentionPattern | tuple[AttentionPattern, ...]:
        """Attention pattern of one head.

        Parameters
        ----------
        head : Head or str
            For example ``"a9.h6"``.
        prompts : str, token ids, several of either, or ContrastBatch
            As for `generate`. Of a batch, the clean prompts are used; for the corrupt ones pass
            ``dataclasses.replace(batch, clean=batch.corrupt)``.

        Returns
        -------
        AttentionPattern or tuple of AttentionPattern
            One for a single prompt, a tuple for several; for an edited model, after its edits.

        Raises
        ------
        BadParameterError
            If the model has no such head, or a prompt cannot be used.
        ModelError
            If the model has no attention patterns.
        """
        ...

    def refresh(self) -> None:
        """Check every weight for changes, and recompute the identity and everything derived from weights that have changed."""
        ...
