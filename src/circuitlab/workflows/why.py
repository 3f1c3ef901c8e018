"""Why a head looks where it looks, and what it reads there: attention scores and values split into what wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Edge, Head, KVHead, Port, parse_edge, parse_node
from circuitlab.model.inside import head_in
from circuitlab.model.prompts import read_prompts
from circuitlab.scores.edge_loadings import EdgeLoadings
from circuitlab.scores.query_key_attribution import QueryKeyAttribution
from circuitlab.scores.value_attribution import ValueAttribution

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.execute.spots import PromptRun, Spot
    from circuitlab.model.prompts import PromptLike
    from circuitlab.model.protocol import Model

__all__ = ["edge_loadings", "why_attends", "why_on", "why_reads"]

Along: TypeAlias = "str | int | Sequence[str | int] | np.ndarray | Tensor | None"
"""A token, two tokens (the logit of the first minus that of the second), a direction of the residual stream, or the value itself."""


def why_attends(
    model: Model, head: Head | str, prompts: PromptLike, *, query: int | str = -1, key: int | str, against: int | str | None = None
) -> QueryKeyAttribution | tuple[QueryKeyAttribution, ...]:
    """Split one attention score of a head into (writer at the query) x (writer at the key), exactly.

    Parameters
    ----------
    model : Model
        One that the functional decoder serves.
    head : Head or str
        A query head, ``"a9.h6"``.
    prompts : str, token ids, several of either, or ContrastBatch
        As for `Model.attention`. A batch stands for its clean prompts.
    query, key : int or str
        Positions, negative ones from the end; or marks of a batch (``"END"``).
    against : int, str or None
        Split the score minus that of another key; or, with ``"others"``, minus the mean score of all other keys that the query sees.

    Returns
    -------
    QueryKeyAttribution or tuple of QueryKeyAttribution
        One for a prompt given by itself, a tuple for several.

    Raises
    ------
    ModelError
        If the model cannot be taken apart, or is edited so that its stream is no sum of writes; the message says why.
    BadParameterError
        If there is no such head or position, or the query does not see the key (later, or outside a sliding window).
    AdditivityError
        If the terms do not sum to the score.

    Notes
    -----
    Bilinear with all norms held at this run's scales (Elhage et al. 2021): a term is what the score would lack if two writers were taken
    out of the two positions and the norms kept their scales. It says nothing of what the model would do without them. One forward pass up
    to the head's layer, and one to compare the attention that is explained with the model's own.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("induction-gqa")
    >>> whys = cl.why_attends(planted.model, "a1.h2", planted.batch(2), query="END", key="AFTER", against="others")
    >>> [max(why.loadings("k"), key=why.loadings("k").get) for why in whys]
    ['a0.h1', 'a0.h1']
    """
    from circuitlab.execute.spots import spots_of, taken_apart  # noqa: PLC0415 - torch

    with taken_apart(model):
        node, read = head_in(model.spec, head), read_prompts(prompts, model.tokenizer, model.spec)
        splits = tuple(_attends(model, spot, against) for spot in spots_of(model, node, read, query, key))
    return splits[0] if read.alone else splits


def why_on(model: Model, run: PromptRun, head: Head, key: int, against: int | str | None = None) -> QueryKeyAttribution:
    """`why_attends` of the last position of a prompt that has been run already, for any head in the layers of that run.

    Parameters
    ----------
    model : Model
        The model that was run.
    run : PromptRun
        The prompt.
    head : Head
    key : int
        Position.
    against : int, str or None
        As for `why_attends`; errors are the same.
    """
    from circuitlab.execute.spots import torch_modes  # noqa: PLC0415 - torch

    with torch_modes():
        return _attends(model, run.spot(head, -1, key), against)


def _attends(model: Model, spot: Spot, against: int | str | None) -> QueryKeyAttribution:
    from circuitlab.execute.query_key import split_score  # noqa: PLC0415

    others = spot.others(against)
    split = split_score(spot.up, spot.head.head, spot.query, spot.key, others)
    return QueryKeyAttribution(
        head=spot.head,
        kv_head=_kv_head(model, spot.head),
        tokens=spot.tokens,
        query=spot.query,
        key=spot.key,
        against="others" if against == "others" else others[0] if others else None,
        writers=split.writers,
        matrix=split.matrix.cpu().numpy(),
        score=float(split.score),
        weight=spot.weight,
        softcap=spot.up.block.softcap,
        position=split.position,
        scales=split.scales,
        model=model.spec.name,
    )


def _kv_head(model: Model, head: Head) -> KVHead:
    return KVHead(head.layer, head.head // (model.spec.n_heads // model.spec.n_kv_heads))


def why_reads(
    model: Model, head: Head | str, prompts: PromptLike, *, query: int | str = -1, key: int | str, along: Along = None
) -> ValueAttribution | tuple[ValueAttribution, ...]:
    """Split what a head reads at a key into the writers at that position, exactly.

    Parameters
    ----------
    model, head, prompts, query, key
        As for `why_attends`.
    along : str, int, two of either, ndarray, Tensor, optional
        A token: the value is read along the direction in which this head raises its logit at the query, all norms held at this run's
        scales; with two tokens, the logit of the first minus that of the second. A vector of d_model numbers: along what the head adds to
        the residual stream in this direction. Otherwise along the value itself, so that the shares sum to its length.

    Returns
    -------
    ValueAttribution or tuple of ValueAttribution
        One for a prompt given by itself, a tuple for several.

    Raises
    ------
    ModelError, BadParameterError, AdditivityError
        As for `why_attends`.
    TokenizationError
        If a word is not one token.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("successor-mha")
    >>> read = cl.why_reads(planted.model, "a1.h1", [0, 0, 4, 0, 0, 1], key=2, along=5)
    >>> read.top(1)[0][0], read.direction
    ('m0', "the logit of '5'")
    """
    from circuitlab.execute.spots import spots_of, taken_apart  # noqa: PLC0415 - torch

    with taken_apart(model):
        node, read = head_in(model.spec, head), read_prompts(prompts, model.tokenizer, model.spec)
        reads = tuple(_reads(model, spot, along) for spot in spots_of(model, node, read, query, key))
    return reads[0] if read.alone else reads


def _reads(model: Model, spot: Spot, along: Along) -> ValueAttribution:
    from circuitlab.execute.value_read import split_value  # noqa: PLC0415

    words, direction = _direction(model, spot, along)
    split = split_value(spot.up, spot.head.head, spot.key, direction)
    return ValueAttribution(
        head=spot.head,
        kv_head=_kv_head(model, spot.head),
        tokens=spot.tokens,
        query=spot.query,
        key=spot.key,
        direction=words,
        writers=split.writers,
        shares=split.shares.cpu().numpy(),
        sources=None if split.sources is None else split.sources.cpu().numpy(),
        total=float(split.total),
        weight=spot.weight,
        scales=split.scales,
        model=model.spec.name,
    )


def _direction(model: Model, spot: Spot, along: Any) -> tuple[str, Tensor | None]:
    """In words, and as a direction of the head's values."""
    import torch  # noqa: PLC0415

    from circuitlab.execute.value_read import answer_direction, head_direction  # noqa: PLC0415
    from circuitlab.model.token_text import texts_of, token_id  # noqa: PLC0415

    if along is None:
        return "itself", None
    if hasattr(along, "ndim"):
        vector = torch.as_tensor(along, dtype=torch.float64, device=spot.up.embed.device)
        if vector.shape != spot.up.embed.shape[-1:]:
            what = f"A direction of shape {tuple(vector.shape)} was given; the residual stream has {spot.up.embed.shape[-1]} numbers."
            raise BadParameterError(what, "Give one vector, or a token.")
        return "the direction given", head_direction(spot.up, spot.head.head, spot.query, vector)
    words = [along] if isinstance(along, str | int) else list(along)
    if len(words) not in {1, 2}:
        raise BadParameterError(f"along names {len(words)} tokens.", "Name one token, or two: the answer and its foil.")
    ids = [token_id(model.tokenizer, model.spec, word) for word in words]
    named = " minus ".join(map(repr, texts_of(model.tokenizer, ids)))
    return f"the logit of {named}", answer_direction(model, spot, ids)


def edge_loadings(
    model: Model, edge: Edge | str, prompts: PromptLike, *, query: int | str = -1, key: int | str, against: int | str | None = None
) -> EdgeLoadings:
    """Which writers make a head's score through one of its inputs, or through one edge, over several prompts.

    Parameters
    ----------
    model, prompts, query, key, against
        As for `why_attends`.
    edge : Edge or str
        ``"a9.h6<k>"``: what each writer at the key adds to the score, with whatever stands at the query; ``"a9.h6<q>"``: each writer at
        the query. ``"a4.h2->a9.h6<k>"``: what comes in through this edge, by the writers at the query that it meets.

    Returns
    -------
    EdgeLoadings
        One row per prompt.

    Raises
    ------
    ModelError, BadParameterError, AdditivityError
        As for `why_attends`; also if no query or key of a query head is named.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("induction-mha")
    >>> loadings = cl.edge_loadings(planted.model, "a0.h1->a1.h2<k>", planted.batch(3), query="END", key="AFTER")
    >>> loadings.top(1)[0][0], loadings.values.shape[0]
    ('embed', 3)
    """
    sender, receiver, port = _input(edge)
    splits = why_attends(model, receiver, prompts, query=query, key=key, against=against)
    several = splits if isinstance(splits, tuple) else (splits,)
    rows = [one.loadings(port) if sender is None else one.edge(Edge(sender, receiver, port)) for one in several]
    values = np.array([list(row.values()) for row in rows])
    through = f"{receiver}<{port}>" if sender is None else f"{sender}->{receiver}<{port}>"
    at = f"query {query} to key {key}" + ("" if against is None else f" against {against}")
    return EdgeLoadings(through, several[0].writers, values, np.array([one.score for one in several]), at, model.spec.name)


def _input(edge: Edge | str) -> tuple[Any, Head, Port]:
    """Sender (None for all of them), query head and port."""
    if isinstance(edge, str) and "->" not in edge:
        name, _, port = edge.strip().removesuffix(">").partition("<")
        sender, receiver = None, parse_node(name)
    else:
        whole = parse_edge(edge) if isinstance(edge, str) else edge
        sender, receiver, port = whole.sender, whole.receiver, whole.port or ""
    if not isinstance(receiver, Head) or port not in {"q", "k"}:
        what = f"{edge} is no query or key of a query head."
        raise BadParameterError(what, "Name an input, a9.h6<k> or a9.h6<q>, or an edge to one, a4.h2->a9.h6<k>.")
    return sender, receiver, "q" if port == "q" else "k"
