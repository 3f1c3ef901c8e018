"""Parts of a head's card that are read off the weights or off a table of roles: what it writes for single tokens, and heads like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.nodes import Head
from circuitlab.execute.needs import NEEDS
from circuitlab.scores.head_card import Section, SimilarHead, WrittenToken
from circuitlab.workflows.card_parts import NO_TASK, REFUSALS, Asked

if TYPE_CHECKING:
    from circuitlab.scores.role_table import RoleTable

__all__ = ["nearest_heads", "role_profiles", "similar_heads", "written_tokens"]

_SHOWN, _MOST, _OTHERS, _SAMPLE = 8, 8, 499, 256
"""Tokens raised or lowered that are shown; tokens of a card; tokens of the null; tokens by which heads are compared."""
_SIMILAR, _FEWEST_ROLES = 5, 3


def written_tokens(asked: Asked, tokens: Sequence[str | int]) -> Section[WrittenToken]:
    """What the head raises and lowers for some tokens, and where the token itself stands, against its rank for other tokens."""
    if reason := _no_weights(asked):
        return Section((), {"weights": reason})
    try:
        ids = _chosen(asked, [tokens] if isinstance(tokens, str | int) else tokens)
    except REFUSALS as error:
        return Section((), {"tokens": str(error)})
    if not ids:
        return Section((), dict(asked.absent) or {"tokens": f"{NO_TASK[:-1]}, and no token."})
    from scipy import stats  # noqa: PLC0415 - slow to import

    from circuitlab.execute.token_writes import other_tokens, token_writes  # noqa: PLC0415 - torch
    from circuitlab.model.token_text import texts_of  # noqa: PLC0415

    shown = min(_SHOWN, asked.model.spec.d_vocab // 2)  # no token is among both
    writes = token_writes(asked.model, asked.head, ids, other_tokens(asked.model, ids, _OTHERS), shown)
    nulls = [row[~np.isnan(row)] for row in writes.null]
    known = [row for row in range(len(ids)) if not np.isnan(writes.rank[row]) and nulls[row].size]
    p = [_two_sided(writes.rank[row], nulls[row]) for row in known]
    q: Sequence[float] = stats.false_discovery_control(p, method="bh").tolist() if known else []
    names, tokenizer = texts_of(asked.model.tokenizer, ids), asked.model.tokenizer
    entries = []
    for row, one_p, one_q in zip(known, p, q, strict=True):
        raised, lowered = (texts_of(tokenizer, ranked[row].tolist()) for ranked in (writes.raised, writes.lowered))
        low, median, high = map(float, np.quantile(nulls[row], [0.05, 0.5, 0.95]))
        about = (int(writes.rank[row]), asked.model.spec.d_vocab, low, median, high, nulls[row].size)
        entries.append(WrittenToken(names[row], ids[row], raised, lowered, *about, one_p, float(one_q)))
    nothing = {names[row]: "The head writes nothing when it reads this token." for row in range(len(ids)) if row not in known}
    return Section(tuple(entries), nothing)


def _no_weights(asked: Asked) -> str:
    return next(filter(None, (NEEDS[need](asked.model) for need in ("token_vectors", "unedited"))), "")


def _chosen(asked: Asked, tokens: Sequence[str | int]) -> list[int]:
    """Ids of the tokens given, or those at the marks of each task's first pair, END last."""
    from circuitlab.model.token_text import token_id  # noqa: PLC0415

    if tokens:
        return list(dict.fromkeys(token_id(asked.model.tokenizer, asked.model.spec, one) for one in tokens))
    ids: dict[int, None] = {}
    for batch in asked.batches.values():
        places = sorted(batch.marks.items(), key=lambda mark: (mark[0] == "END", int(mark[1][0])))
        ids |= {int(batch.clean[0, int(at[0])]): None for _, at in places}
    return list(ids)[:_MOST]


def _two_sided(rank: float, null: np.ndarray) -> float:
    """That a token's rank is among those it has when other tokens are read: twice the smaller tail, counting the rank itself."""
    tails = ((null <= rank).sum() + 1, (null >= rank).sum() + 1)
    return float(min(1.0, 2 * min(tails) / (len(null) + 1)))


def similar_heads(asked: Asked, table: RoleTable) -> Section[SimilarHead]:
    """The heads that are most like this one by role profile, and by what they write."""
    entries: list[SimilarHead] = []
    absent: dict[str, str] = {}
    profiles = role_profiles(table)
    if profiles.shape[-1] < _FEWEST_ROLES:
        absent["roles"] = f"{profiles.shape[-1]} roles of query heads differ between heads; a profile needs {_FEWEST_ROLES}."
    else:
        own, sizes = profiles[asked.head.layer, asked.head.head], np.linalg.norm(profiles, axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            entries += nearest_heads(asked.head, "roles", profiles @ own / (sizes * np.linalg.norm(own)))
    if reason := _no_weights(asked):
        absent["ov"] = reason
    else:
        from circuitlab.execute.token_writes import other_tokens, ov_similarity  # noqa: PLC0415 - torch

        written = nearest_heads(asked.head, "ov", ov_similarity(asked.model, asked.head, other_tokens(asked.model, [], _SAMPLE)))
        entries += written
        if not written:
            absent["ov"] = "The head writes the same for every token."
    return Section(tuple(entries), absent)


def role_profiles(table: RoleTable) -> np.ndarray:
    """Values of every role of query heads, standardised over heads, shape (layer, head, role); roles without differences are left out."""
    values = [one.value.astype(float) for one in table.scores.values() if one.per == "head"]
    varying = [value for value in values if value.std() > 0]
    shape = (table.model.n_layers, table.model.n_heads, len(varying))
    return np.stack([(value - value.mean()) / value.std() for value in varying], -1) if varying else np.zeros(shape)


def nearest_heads(head: Head, by: str, similarity: np.ndarray) -> list[SimilarHead]:
    """The heads of the largest similarity, shape (layer, head); none where that of the head with itself is NaN."""
    others = {Head(*map(int, at)): float(similarity[at]) for at in np.ndindex(similarity.shape) if not np.isnan(similarity[at])}
    if others.pop(head, None) is None:
        return []
    order = sorted(others, key=lambda one: -others[one])[:_SIMILAR]
    return [SimilarHead(by, str(one), others[one], rank, len(others)) for rank, one in enumerate(order, start=1)]
