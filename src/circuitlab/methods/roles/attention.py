"""What single heads do: attention scores on repeated random tokens, attention between marked places, and copy scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["attention_between", "copy_scores", "repeat_scores"]

_ROWS = 4
_TOP = 5


def repeat_scores(model: Model, *, length: int = 40, rows: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Previous-token, duplicate-token and induction scores of every head, each (layer, head), on ``r r`` for random ``r``.

    Parameters
    ----------
    model : Model
    length : int
        Tokens of ``r``, drawn uniformly from the vocabulary; a beginning-of-text token, where the tokenizer has one, comes first.
    rows : int
        Random sequences.
    seed : int
        Of the tokens.

    Returns
    -------
    dict of str to ndarray
        ``"previous"``: mean attention to the token before; ``"duplicate"``: in the second half, to the same token in the first;
        ``"induction"``: in the second half, to the token after that one. All between 0 and 1; a uniform head scores about 1 / length.

    Raises
    ------
    BadParameterError
        If there is nothing to repeat.

    References
    ----------
    Olsson et al. (2022), In-context Learning and Induction Heads, arXiv:2209.11895. Wang et al. (2022), arXiv:2211.00593.
    """
    import torch  # noqa: PLC0415 - listing roles must not load torch

    if length < 2 or rows < 1:  # noqa: PLR2004 - a pattern to repeat
        what = f"length={length}, rows={rows} leave nothing to repeat."
        raise BadParameterError(what, "Use 40 tokens and 8 rows.")
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(0, model.spec.d_vocab, (rows, length), generator=generator)
    first = getattr(model.tokenizer, "bos_token_id", None)
    start = [] if first is None else [torch.full((rows, 1), first)]
    tokens, before = torch.cat([*start, half, half], dim=1), len(start)
    sums = dict.fromkeys(("previous", "duplicate", "induction"), np.zeros((model.spec.n_layers, model.spec.n_heads)))
    for some in tokens.split(_ROWS):
        pattern = model.capture(some, [Site.PATTERN])[Site.PATTERN].double()
        second = torch.arange(before + length, before + 2 * length)
        every = torch.arange(1, pattern.shape[-1])
        places = {"previous": (every, every - 1), "duplicate": (second, second - length), "induction": (second, second - length + 1)}
        for name, (query, key) in places.items():
            sums[name] = sums[name] + pattern[..., query, key].mean(-1).sum(0).cpu().numpy()
    return {name: total / rows for name, total in sums.items()}


def attention_between(model: Model, batch: ContrastBatch, marks: Sequence[str], query: str = "END") -> dict[str, np.ndarray]:
    """Attention of every head from one marked place to others in the clean prompts, each (pair, layer, head).

    Raises
    ------
    UnknownNameError
        If the task has no such mark.
    """
    places = {mark: batch.mark(mark) for mark in marks}
    attended: dict[str, list[np.ndarray]] = {mark: [] for mark in marks}
    for first in range(0, batch.n_pairs, _ROWS):
        rows = slice(first, first + _ROWS)
        here = {name: positions[rows] for name, positions in batch.marks.items()}
        pattern = model.capture(batch.clean[rows], [Site.PATTERN], at=batch.mark(query)[rows], marks=here)[Site.PATTERN].double()
        for mark, keys in places.items():
            attended[mark].append(_at_keys(pattern, keys[rows]).cpu().numpy())
    return {mark: np.concatenate(parts) for mark, parts in attended.items()}


def _at_keys(pattern: Float[Tensor, "pair layer head key"], keys: Int[Tensor, " pair"]) -> Float[Tensor, "pair layer head"]:
    return pattern[list(range(len(pattern))), :, :, keys]


def copy_scores(model: Model, batch: ContrastBatch, mark: str, tokens: Int[Tensor, " pair"] | None = None) -> Mapping[str, np.ndarray]:
    """How often a head's value and output matrices turn a token into itself: ``"copy"`` and ``"negative"``, each (layer, head).

    The residual stream at the marked token after the first layer is read by the head's norm and values as if fully attended to, written by
    its output projection, and unembedded. ``"copy"`` is the share of pairs in which the token is among the top 5, ``"negative"`` the share
    with the opposite sign.

    Parameters
    ----------
    model : Model
        That can be taken apart.
    batch : ContrastBatch
    mark : str
        Where the token stands in the clean prompts.
    tokens : Tensor of int, shape (pair,), optional
        The token to look for; the marked one otherwise. A task may want another form of the word as its answer.

    References
    ----------
    Wang et al. (2022), arXiv:2211.00593, section 3.1.
    """
    import torch  # noqa: PLC0415

    with torch.no_grad():
        rows, places = torch.arange(batch.n_pairs), batch.mark(mark)
        wanted = (batch.clean[rows, places] if tokens is None else tokens)[:, None]
        stream = model.capture(batch.clean, [Site.RESID_POST], layers=[0], at=places, marks=batch.marks)[Site.RESID_POST][:, 0]
        return _copies(model, stream, wanted)


def _copies(model: Model, stream: Float[Tensor, "pair d_model"], wanted: Int[Tensor, "pair 1"]) -> dict[str, np.ndarray]:
    group = model.spec.n_heads // model.spec.n_kv_heads
    shape = (model.spec.n_layers, model.spec.n_heads)
    shares = {"copy": np.zeros(shape), "negative": np.zeros(shape)}
    for layer, block in enumerate(model.decoder.blocks):
        values = block.split(block.v(block.norm_attn.apply(stream)))
        for head in range(model.spec.n_heads):
            written = values[:, head // group] @ model.weights.output(layer)[head].to(values)
            for name, sign in (("copy", 1), ("negative", -1)):
                top = model.unembed(sign * written).topk(_TOP, dim=-1).indices
                shares[name][layer, head] = float((top == wanted.to(top.device)).any(-1).double().mean())
    return shares
