"""The logit lens as one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.model.prompts import read_prompts
from circuitlab.scores.logit_lens import SITES, LensSite, LogitLens

if TYPE_CHECKING:
    from circuitlab.execute.lens import LensRun
    from circuitlab.model.places import Places
    from circuitlab.model.prompts import PromptLike
    from circuitlab.model.protocol import Model

__all__ = ["logit_lens"]


def logit_lens(
    model: Model,
    prompts: PromptLike,
    at: LensSite = "stream",
    *,
    tokens: str | int | Sequence[str | int] = (),
    positions: int | str | Sequence[int | str] | None = None,
    k: int = 5,
) -> LogitLens | tuple[LogitLens, ...]:
    """Read intermediate values as tokens, with the model's own final norm, unembedding and softcap.

    Parameters
    ----------
    model : Model
        Any whose logits can be read off the stream that leaves its last layer.
    prompts : str, token ids, several of either, or ContrastBatch
        As for `Model.attention`. A batch stands for its clean prompts.
    at : {"stream", "heads", "mlps"}
        The residual stream entering layer 0 and leaving every layer, or what every head or every MLP adds to it.
    tokens : str, int, or sequence of either
        Tokens whose values and ranks are wanted besides the top ones.
    positions : int, str or sequence of either, optional
        Which positions, negative ones from the end; or marks of a batch. All by default.
    k : int
        How many top tokens.

    Returns
    -------
    LogitLens or tuple of LogitLens
        One for a prompt given by itself, a tuple for several. The last row of the stream is the model's own answer, which is checked.

    Raises
    ------
    ModelError
        If the logits cannot be read off the last stream, or what heads or MLPs add is not known; the message says why.
    TokenizationError
        If a word is not one token.
    BadParameterError
        If a position does not exist.

    Notes
    -----
    nostalgebraist (2020), interpreting GPT: the logit lens. Values of heads and MLPs are shares of the final logits (Elhage et al. 2021).
    One forward pass for each prompt (of the stream two), and one unembedding for each row and position.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("successor-gqa")
    >>> heads = cl.logit_lens(planted.model, [0, 0, 4, 0, 0, 1], "heads", tokens=5, positions=-1)
    >>> heads.rows[int(heads.values[:, 0, 0].argmax())], heads.top("a1.h1")[0][0]
    ('a1.h1', '5')
    """
    import torch  # noqa: PLC0415 - listing commands must not load torch

    from circuitlab.execute.lens import LensRun  # noqa: PLC0415
    from circuitlab.model.hooks import full_precision  # noqa: PLC0415
    from circuitlab.model.places import Places  # noqa: PLC0415
    from circuitlab.model.token_text import token_id  # noqa: PLC0415

    if at not in SITES:
        raise UnknownNameError("place to read", at, SITES)
    if k < 1:
        raise BadParameterError(f"k={k} shows no token.", "Use at least 1.")
    lenses = []
    with torch.inference_mode(mode=False), torch.no_grad(), full_precision():
        model.refresh()
        read = read_prompts(prompts, model.tokenizer, model.spec)
        asked = [token_id(model.tokenizer, model.spec, one) for one in ([tokens] if isinstance(tokens, str | int) else tokens)]
        for number, ids in enumerate(read.ids):
            marks = {name: torch.tensor([place[number]]) for name, place in read.marks.items()}
            places = Places(torch.tensor([ids]), torch.tensor([len(ids) - 1]), marks)
            run = LensRun(model, places, torch.tensor(_positions(places, positions)))
            lenses.append(_lens(run, at, asked, k))
    return lenses[0] if read.alone else tuple(lenses)


def _lens(run: LensRun, at: LensSite, asked: list[int], k: int) -> LogitLens:
    from circuitlab.execute.lens import read_rows  # noqa: PLC0415
    from circuitlab.model.token_text import texts_of  # noqa: PLC0415

    tokenizer, read = run.model.tokenizer, read_rows(run, at, asked, k)
    top = [texts_of(tokenizer, ids) for ids in read.top_ids.flatten(0, 1).tolist()]
    return LogitLens(
        site=at,
        tokens=texts_of(tokenizer, run.places.tokens[0].tolist()),
        positions=tuple(run.at.tolist()),
        rows=tuple(read.rows),
        top_tokens=np.array(top, dtype=object).reshape(read.top_ids.shape),
        top_ids=read.top_ids.numpy(),
        top_values=read.top_values.numpy(),
        asked=texts_of(tokenizer, asked),
        asked_ids=tuple(asked),
        values=read.values.numpy(),
        ranks=read.ranks.numpy(),
        model=run.model.spec.name,
    )


def _positions(places: Places, given: int | str | Sequence[int | str] | None) -> list[int]:
    if given is None:
        return list(range(places.tokens.shape[1]))
    wanted = [given] if isinstance(given, str | int) else list(given)
    if not wanted:
        raise BadParameterError("No position was named.", "Leave positions out for all of them.")
    return sorted({places.position(one) for one in wanted})
