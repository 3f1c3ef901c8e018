"""Check that a model can run a batch: ids in its vocabulary, prompts within its context, and no padding among the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, parse_node

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from circuitlab.core.provenance import ModelSpec
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["head_in", "require_fit", "require_inside", "require_no_padding", "require_tokens", "token_grid"]


def head_in(spec: ModelSpec, head: Head | str) -> Head:
    """A query head of a model, by name or as it is.

    Raises
    ------
    BadParameterError
        If it is no head, or the model has no such head.
    """
    node = parse_node(head) if isinstance(head, str) else head
    if not isinstance(node, Head):
        what = f"{node} is not an attention head."
        raise BadParameterError(what, "Name a head, for example a9.h6.")
    if not (node.layer < spec.n_layers and node.head < spec.n_heads):
        what = f"{spec.name} has {spec.n_layers} layers of {spec.n_heads} heads, and no {node}."
        raise BadParameterError(what, "Count layers and heads from 0.")
    return node


def require_fit(model: Model, batch: ContrastBatch) -> None:
    """Raise `BadParameterError` unless a model can run a batch. It costs no forward pass, so call it before other work."""
    require_inside(model.spec, batch)
    if model.tokenizer is not None:
        require_no_padding(model.tokenizer, batch)


def require_inside(spec: ModelSpec, batch: ContrastBatch) -> None:
    """Raise unless every token id is in the vocabulary and every prompt fits the context.

    Parameters
    ----------
    spec : ModelSpec
        Its ``d_vocab``, and its ``n_ctx`` if that is known.
    batch : ContrastBatch
        The prompts, answers, foils and distractors.

    Raises
    ------
    BadParameterError
        If not; the message names part, row and value.
    """
    for part in ("clean", "corrupt", "answers", "foils", "distractors"):
        ids = getattr(batch, part)
        outside = (ids >= spec.d_vocab).nonzero().tolist()
        if outside:
            shown = "; ".join(f"row {row}: {int(ids[row, place])}" for row, place in outside[:5])
            what = f"{part} holds {len(outside)} token ids outside the vocabulary of {spec.name}, 0 to {spec.d_vocab - 1} ({shown})."
            raise BadParameterError(what, "Encode the prompts with this model's tokenizer.")
    lengths = (batch.end + 1).tolist()
    if spec.n_ctx is not None and (long := [i for i, n in enumerate(lengths) if n > spec.n_ctx]):
        shown = "; ".join(f"row {i}: {lengths[i]} tokens" for i in long[:5])
        what = f"{len(long)} of {batch.n_pairs} prompts are longer than the context of {spec.name}, {spec.n_ctx} tokens ({shown})."
        raise BadParameterError(what, "Shorten or drop them.")


def require_no_padding(tokenizer: PreTrainedTokenizerBase, batch: ContrastBatch) -> None:
    """Raise if prompts have the tokenizer's padding token at either end, or begin with its BOS twice.

    A padding token that is also the BOS or EOS token (GPT-2) may begin or end a prompt once.

    Raises
    ------
    BadParameterError
        If so; the message names the rows.
    """
    pad, bos, eos = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
    for part in ("clean", "corrupt"):
        rows = [row[: end + 1] for row, end in zip(getattr(batch, part).tolist(), batch.end.tolist(), strict=True)]
        if bos is not None and (with_two_bos := [i for i, row in enumerate(rows) if row[:2] == [bos, bos]]):
            what = f"{part}, rows {with_two_bos[:5]}: the prompt begins with {tokenizer.bos_token!r} (token {bos}) twice."
            raise BadParameterError(what, "The tokenizer adds it already: remove it from the text, and do not pad.")
        if pad is None:
            continue
        most = 1 if pad in (bos, eos) else 0
        for side, step in (("left", 1), ("right", -1)):
            if padded := [i for i, row in enumerate(rows) if len(row) > most and set(row[::step][: most + 1]) == {pad}]:
                what = f"{part}, rows {padded[:5]}: padded on the {side} with {tokenizer.pad_token!r} (token {pad})."
                raise BadParameterError(what, "Give prompts without padding; rows may differ in length.")


def token_grid(tokens: Tensor, at: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Token ids (row, pos), and one position of each row (its last one by default), as 64-bit integers.

    Raises
    ------
    BadParameterError
        If they are not integers, or there is no row or no position.
    """
    import torch  # noqa: PLC0415 - listing methods must not load torch

    ids = _whole("Tokens", tokens)
    if ids.ndim != 2 or not ids.numel():  # noqa: PLR2004 - rows and positions
        what = f"Tokens of shape {tuple(ids.shape)} are not prompts."
        raise BadParameterError(what, "Give (row, pos) token ids with at least one token in each row; for a single prompt, tokens[None].")
    return ids, torch.full((len(ids),), ids.shape[1] - 1) if at is None else _whole("Positions", at)


def _whole(name: str, values: Any) -> Tensor:
    """Integers as a tensor of 64 bits."""
    import torch  # noqa: PLC0415

    fix = "Give a tensor of integers; pad prompts of different lengths on the right."
    try:
        value = torch.as_tensor(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise BadParameterError(f"{name} of type {type(values).__name__} cannot be read: {error}.", fix) from error
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise BadParameterError(f"{name} are {str(value.dtype).removeprefix('torch.')}, not whole numbers.", fix)
    return value.long()


def require_tokens(tokens: Tensor, at: Tensor, spec: ModelSpec) -> None:
    """Raise `BadParameterError` unless tokens are (row, pos), in the vocabulary, within the context, and ``at`` lies inside each row."""
    square = tokens.ndim == 2 and at.shape == tokens.shape[:1]  # noqa: PLR2004 - rows and positions
    if not square or bool(((at < 0) | (at >= tokens.shape[1])).any()):
        what = f"Tokens of shape {tuple(tokens.shape)} cannot be read at positions {at.tolist()[:8]}."
        raise BadParameterError(what, "Give (row, pos) token ids and one position inside each row.")
    if int(tokens.max()) >= spec.d_vocab or int(tokens.min()) < 0:
        what = f"Token ids run from {int(tokens.min())} to {int(tokens.max())}; {spec.name} has {spec.d_vocab} tokens."
        raise BadParameterError(what, "Encode prompts with this model's tokenizer.")
    if spec.n_ctx is not None and tokens.shape[1] > spec.n_ctx:
        what = f"Prompts of {tokens.shape[1]} tokens are longer than the {spec.n_ctx} positions that {spec.name} has."
        raise BadParameterError(what, "Use shorter prompts.")
