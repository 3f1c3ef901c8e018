"""What answers and text lose under cache policies, for heads that were chosen and for random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.nodes import Head, KVHead
from circuitlab.core.progress import step
from circuitlab.execute.continuations import Continuation, likelihoods
from circuitlab.experiments.cache_policies.policies import ChosenTokens, Streaming, of_groups, top_groups
from circuitlab.experiments.controls import random_heads
from circuitlab.experiments.retrieval_heads.needles import answered
from circuitlab.methods.roles.decoded import copied, looked_at
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.methods.roles.needles import NeedleTest
    from circuitlab.model.protocol import Model

__all__ = ["choose_groups", "chosen_tokens", "needle_scores", "streamed", "token_quality"]

_ECHO = 0.01
"""Share of heads that RazorAttention keeps for their echo score, beside those for induction."""


def needle_scores(model: Model, tests: Sequence[NeedleTest]) -> dict[str, Any]:
    """Retrieval and semantic retrieval scores of every head, (layer, head), on the needles that are answered; empty if none is."""
    rows = [
        (copied(decoded, test.evidence, test.evidence), looked_at(decoded, test.evidence, test.evidence))
        for test, decoded in answered(model, tests)
    ]
    means = [np.mean(part, axis=0).round(5).tolist() for part in zip(*rows, strict=True)] or [[], []]
    return {"asked": len(tests), "answered": len(rows), "retrieval": means[0], "semantic": means[1]}


def choose_groups(
    context: ExperimentContext, scores: Mapping[str, Sequence[Sequence[float]]], shares: Sequence[float], n_random: int
) -> list[dict[str, Any]]:
    """Key/value heads that keep everything: by induction and echo, by retrieval, and at random in the layers of the first.

    ``scores`` holds ``induction``, ``echo`` and ``retrieval`` for query heads; a group has the largest of its heads. The random sets have
    no group in common with those by induction and echo.
    """
    spec = context.model.spec
    by = {name: of_groups(values, spec.n_kv_heads) for name, values in scores.items()}
    total, rows = spec.n_layers * spec.n_kv_heads, []
    for share in shares:
        count = max(1, round(share * total))
        razor = top_groups([(by["induction"], count), (by["echo"], max(1, round(_ECHO * total)))])
        retrieval = top_groups([(by["retrieval"], len(razor))])
        as_heads = [Head(group.layer, group.head) for group in razor]
        drawn = random_heads(as_heads, (spec.n_layers, spec.n_kv_heads), n_random, context.rng("random", len(razor)))
        names = {"razor": [razor], "retrieval": [retrieval], "random": [[KVHead(h.layer, h.head) for h in heads] for heads in drawn]}
        rows.append({"share": share, **{name: [list(map(str, groups)) for groups in sets] for name, sets in names.items()}})
    return rows


def streamed(
    context: ExperimentContext, rows: Sequence[Continuation], sets: Sequence[dict[str, Any]], keep: tuple[int, int], *, answering: bool
) -> dict[str, Any]:
    """Quality with the full cache, and with sinks and a window for every group outside each set, with a compensation token and without.

    Parameters
    ----------
    context : ExperimentContext
    rows : sequence of Continuation
        Answers after their prompts, or passages.
    sets : sequence of dict
        From `choose_groups`.
    keep : (int, int)
        First and last keys that are kept.
    answering : bool
        Whether only queries from the prompt's last token on read the compressed cache; all do otherwise.

    Returns
    -------
    dict
        ``full``: log-probability and share of tokens that come first, by row. ``policies``: for every share, set and kind of cache, the
        same and the share of the cache that is kept.
    """
    spec = context.model.spec
    groups = [KVHead(layer, head) for layer in range(spec.n_layers) for head in range(spec.n_kv_heads)]
    length = round(float(np.mean([one.end + 1 for one in rows])))
    empty = {"share": 0.0, "none": [[]]}
    cases = [
        (one["share"], name, number, full, compensate)
        for one in (empty, *sets)
        for name in ("none", "razor", "retrieval", "random")
        for number, full in enumerate(one.get(name, []))
        for compensate in (True, False)
    ]
    whole, policies = likelihoods(context.model, rows), []
    for done, (share, name, number, full, compensate) in enumerate(cases):
        policy = Streaming(tuple(group for group in groups if str(group) not in set(full)), *keep, compensate)
        values = likelihoods(policy.applied(context.model, answering=answering), rows)
        about = {"share": share, "set": name, "number": number, "compensate": compensate, "kept": policy.kept(length, len(groups))}
        policies.append({**about, "logprob": values.logprob.round(5).tolist(), "top": values.top.round(5).tolist()})
        step(done + 1, len(cases))
    return {"full": {"logprob": whole.logprob.round(5).tolist(), "top": whole.top.round(5).tolist()}, "policies": policies}


def chosen_tokens(
    context: ExperimentContext, semantic: Sequence[Sequence[float]], n_heads: int, n_random: int, share: float
) -> list[ChosenTokens]:
    """In every layer the heads that score highest, then random heads of the layer, which may be the same ones where there are few."""
    values, rng = np.array(semantic), context.rng("choosing heads")
    count = min(n_heads, values.shape[1] - 1)
    best = tuple(tuple(sorted(np.argsort(-row, kind="stable")[:count].tolist())) for row in values)
    policies = [ChosenTokens(best, share)]
    for _ in range(n_random):
        drawn = tuple(tuple(sorted(rng.choice(values.shape[1], count, replace=False).tolist())) for _ in values)
        policies.append(ChosenTokens(drawn, share))
    return policies


def token_quality(model: Model, said: Sequence[Continuation], policies: Sequence[ChosenTokens]) -> dict[str, Any]:
    """Log-probability of answers where the first policy's heads choose tokens, where random heads do, and the paired difference."""
    values = []
    for number, policy in enumerate(policies):
        values.append(np.array([likelihoods(policy.applied(model, one), [one]).logprob[0] for one in said]))
        step(number + 1, len(policies))
    control = np.mean(values[1:], axis=0)
    parts = {"semantic": values[0], "random": control, "beyond": values[0] - control}
    return {name: mean_interval(part).as_dict() for name, part in parts.items()}
