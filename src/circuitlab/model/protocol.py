"""What circuitlab asks of a model: five verbs, the sites they read and edit, and the weights a linear readout needs.

Importing this module does not import torch; tensors appear in annotations only.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from circuitlab.model.decoder import Decoder
    from circuitlab.model.generate import Generation
    from circuitlab.model.interventions import Intervention
    from circuitlab.model.norms import FrozenNorm
    from circuitlab.model.prompts import PromptLike
    from circuitlab.provenance import ModelSpec

__all__ = ["Edit", "EditSet", "Model", "Runner", "Site", "Weights"]


class Site(enum.Enum):
    """A place inside every layer that can be read and edited. Shapes are per row and layer.

    RESID_PRE, RESID_MID, RESID_POST
        (pos, d_model). The residual stream itself, on the un-normed side: entering the layer, between attention and MLP,
        leaving the layer. RESID_MID does not exist in parallel blocks (GPT-NeoX).
    ATTN_OUT, MLP_OUT
        (pos, d_model). What is added to the residual stream: after the output projection, its bias, and the post-norm of
        models that have one (Gemma 2 and 3).
    Z
        (pos, head, d_head). Each query head's attention-weighted value, before the output projection.
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
    site, layer : Site, int
        Where.
    value : Tensor
        The new value: (row, pos, ...) for all positions, or (row, ...) where ``positions`` is given; without the head axis
        where ``head`` is given. Rows are those of ``rows``.
    head : int, optional
        Edit only this head (key/value head at K and V).
    positions : Tensor of int, shape (row,), optional
        Edit one position of each row.
    rows : slice, optional
        Edit only these rows of the batch; all rows by default. Lets one forward pass carry many edits.
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
        With one value per prompt and no ``rows``.
    start : int
        First position at which an edited value differs from the unedited run in any prompt; nothing before it is recomputed. 0 is always
        right.
    """

    edits: tuple[Edit, ...]
    start: int = 0

    @property
    def layer(self) -> int:
        """The first layer it touches."""
        return min(edit.layer for edit in self.edits)


@runtime_checkable
class Runner(Protocol):
    """The running half of a model; an edited model offers just this."""

    def logits(
        self,
        tokens: Int[Tensor, "row pos"],
        at: Int[Tensor, " row"],
        *,
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,
        gradients: bool = False,
    ) -> Float[Tensor, "row vocab"]:
        """Next-token logits at one position of each row (final softcap applied), where its prompt ends.

        Without gradients, unless ``gradients`` is true: then they flow to the values of interventions, never to weights. ``marks`` are the
        named positions of the prompts, for interventions that act at marks.
        """
        ...

    def capture(
        self,
        tokens: Int[Tensor, "row pos"],
        sites: Sequence[Site],
        *,
        layers: Sequence[int] | None = None,
        at: Int[Tensor, " row"] | None = None,
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,
    ) -> dict[Site, Float[Tensor, ...]]:
        """Activations at sites, shape (row, layer, pos, ...), or (row, layer, ...) with ``at``, without gradients.

        PATTERN is (row, layer, head, query_pos, key_pos), or (row, layer, head, key_pos) with ``at``. ``layers`` restricts
        the layer axis (in the order given).
        """
        ...


class Weights(Protocol):
    """The weights that a linear readout of the residual stream needs; all detached, in the model's own basis."""

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

    def unembed(self, ids: Int[Tensor, ...] | slice) -> Float[Tensor, "... d_model"]:
        """Unembedding column of each token id."""
        ...

    def unembed_bias(self, ids: Int[Tensor, ...] | slice) -> Float[Tensor, ...] | None:
        """Unembedding bias of each token id, or None."""
        ...


@runtime_checkable
class Model(Runner, Protocol):
    """A decoder language model as circuitlab uses it. Right-padded rows are exact: a causal model never looks right."""

    @property
    def spec(self) -> ModelSpec:
        """Shapes, family and identity."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer, or None for a model that is only fed token ids."""
        ...

    @property
    def weights(self) -> Weights:
        """Weights of the readout."""
        ...

    @property
    def sites(self) -> frozenset[Site]:
        """The sites this model has."""
        ...

    @property
    def length_dependent(self) -> bool:
        """Whether what it makes of a position depends on how long the prompt is: then prompts of different lengths never share a pass."""
        ...

    @property
    def lacks(self) -> Mapping[Site, str]:
        """Sites that it does not have, each with the reason."""
        ...

    def width(self, site: Site) -> int:
        """Numbers of one vector at a site, of a head where it has heads."""
        ...

    @property
    def decoder(self) -> Decoder:
        """The functional forward; raises `ModelError` where the model cannot be taken apart."""
        ...

    def unembed(self, resid: Float[Tensor, "... d_model"], ids: Int[Tensor, " token"] | None = None) -> Float[Tensor, "... token"]:
        """Logits (final norm and softcap applied) of a residual stream that left the last layer; gradients flow to it."""
        ...

    def sweep(
        self,
        tokens: Int[Tensor, "row pos"],
        at: Int[Tensor, " row"],
        edit_sets: Sequence[EditSet],
        ids: Int[Tensor, " token"] | None = None,
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,
    ) -> Float[Tensor, "edit_set row token"]:
        """Next-token logits of many edited runs of the same prompts, of some tokens only where ``ids`` are given, without gradients."""
        ...

    def with_edits(self, edits: Sequence[Edit]) -> Runner:
        """Runs of this model with values written at some sites. A run in which an edit does not fire raises `EditDidNotFireError`.

        The model itself is never changed, also not when a run fails.
        """
        ...

    def edited(self, *interventions: Intervention) -> Model:
        """The same model with interventions in place: a model of its own, whose edits are part of its identity."""
        ...

    def generate(
        self, prompts: PromptLike, max_new_tokens: int, temperature: float = 0.0, seed: int = 0, stop: str | Sequence[str] | None = None
    ) -> Generation | tuple[Generation, ...]:
        """What the model writes after one prompt, or after each of several.

        Parameters
        ----------
        prompts : str, token ids, several of either, or ContrastBatch
            Lengths may differ; nothing is padded. A batch stands for its clean prompts, with their marks.
        max_new_tokens : int
            At most this many tokens for each prompt; prompt and new tokens together must fit into a table of positions.
        temperature : float
            0 (the default) takes the likeliest token each time; otherwise logits are divided by it and a token is drawn.
        seed : int
            Of sampling. What is drawn for a prompt depends on the seed and the prompt, never on the prompts beside it.
        stop : str or sequence of str, optional
            Stop once the new text holds one of them. EOS tokens always stop.

        Returns
        -------
        Generation or tuple of Generation
            One for a prompt given by itself, a tuple for several.

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
        is that of Hugging Face's ``generate`` without them. Keys and values are cached where a cached run says the same as a run of the
        whole text; other models (recurrent ones, and those whose rotary angles depend on the length) run the whole text for every token,
        as ``generate(use_cache=False)`` does.
        """
        ...

    def refresh(self) -> None:
        """Notice weights that have changed since they were last looked at; the identity and all that is derived from them follow."""
        ...
