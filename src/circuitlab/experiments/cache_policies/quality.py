"""What answers and text lose under cache policies, for heads that were chosen and for random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.nodes import Head, KVHead
from circuitlab.core.progress import step
from circuitlab.execute.continuations import Begun, Continuation, likelihoods
from circuitlab.experiments.cache_policies.policies import Streaming, of_groups, top_groups
from circuitlab.experiments.cache_policies.tokens import ChosenTokens, Chunks, Heterogeneous, Reading, TokenPolicy, n_heterogeneous
from circuitlab.experiments.controls import random_heads
from circuitlab.experiments.retrieval_heads.needles import answered
from circuitlab.methods.roles.decoded import copied, looked_at

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.methods.roles.needles import NeedleTest
    from circuitlab.model.protocol import Model

__all__ = ["SETS", "choose_groups", "needle_scores", "streamed", "token_policies", "token_quality"]

SETS = ("razor", "retrieval", "gates", "random", "random_gates")
"""What chooses the heads that keep everything; random ones are from the layers of the heads by induction and by gates."""
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
    """Key/value heads that keep everything: by induction and echo, by retrieval, by gates, and at random in the layers of two of them.

    ``scores`` holds ``induction``, ``echo`` and ``retrieval`` for query heads, of which a group has the largest of its heads, and ``gates``
    for groups. Random sets have no group in common with the set that they control.
    """
    spec = context.model.spec
    by = {name: of_groups(values, spec.n_kv_heads) for name, values in scores.items()}
    total, rows = spec.n_layers * spec.n_kv_heads, []
    for share in shares:
        count = max(1, round(share * total))
        razor = top_groups([(by["induction"], count), (by["echo"], max(1, round(_ECHO * total)))])
        sets = {"razor": [razor], **{name: [top_groups([(by[name], len(razor))])] for name in ("retrieval", "gates")}}
        for name, chosen in (("random", razor), ("random_gates", sets["gates"][0])):
            as_heads = [Head(group.layer, group.head) for group in chosen]
            drawn = random_heads(as_heads, (spec.n_layers, spec.n_kv_heads), n_random, context.rng(name, len(chosen)))
            sets[name] = [[KVHead(head.layer, head.head) for head in heads] for heads in drawn]
        rows.append({"share": share, **{name: [list(map(str, groups)) for groups in of_name] for name, of_name in sets.items()}})
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
        for name in ("none", *SETS)
        for number, full in enumerate(one.get(name, []))
        for compensate in (True, False)
    ]
    begun = Begun.of(context.model, rows) if answering else None
    whole, policies = likelihoods(context.model, rows) if begun is None else begun.likelihoods(context.model), []
    for done, (share, name, number, full, compensate) in enumerate(cases):
        policy = Streaming(tuple(group for group in groups if str(group) not in set(full)), *keep, compensate)
        edited = policy.applied(context.model, answering=answering)
        values = likelihoods(edited, rows) if begun is None else begun.likelihoods(edited)
        about = {"share": share, "set": name, "number": number, "compensate": compensate, "kept": policy.kept(length, len(groups))}
        policies.append({**about, "logprob": values.logprob.round(5).tolist(), "top": values.top.round(5).tolist()})
        step(done + 1, len(cases))
    return {"full": {"logprob": whole.logprob.round(5).tolist(), "top": whole.top.round(5).tolist()}, "policies": policies}


def token_policies(
    context: ExperimentContext, semantic: Sequence[Sequence[float]], budgets: Sequence[float], n_random: int, sizes: tuple[int, int, int]
) -> list[tuple[str, float, TokenPolicy]]:
    """Policies by token at every budget, each with its controls: name, share of the cache, policy.

    Of `ChosenTokens`, four semantic heads of every layer choose, or random heads of the layer, which may be the same ones where there are
    few. `Heterogeneous` is left out where a layer has a single key/value head, and at budgets that its full heads, sinks and last tokens
    exceed. ``sizes``: sinks, tokens of a chunk, and tokens of the shortest prompt.
    """
    values, rng, spec, rows = np.array(semantic), context.rng("choosing heads"), context.model.spec, list[tuple[str, float, TokenPolicy]]()
    count, (sinks, chunk, length) = min(4, values.shape[1] - 1), sizes
    best = tuple(tuple(sorted(np.argsort(-row, kind="stable")[:count].tolist())) for row in values)
    draws = [tuple(tuple(sorted(rng.choice(len(row), count, replace=False).tolist())) for row in values) for _ in range(n_random)]
    most = max(n_heterogeneous(layer, spec) + (spec.n_kv_heads > 3) for layer in range(spec.n_layers))  # noqa: PLR2004 - and the nearest
    for share in budgets:
        rows += [("chosen", share, ChosenTokens(best, share)), *(("chosen_random", share, ChosenTokens(drawn, share)) for drawn in draws)]
        rows += [("chunks", share, Chunks(share, chunk))]
        rows += [("chunks_random", share, Chunks(share, chunk, drawn)) for drawn in range(n_random)]
        own = (share * spec.n_kv_heads - most) / max(1, spec.n_kv_heads - most) * length
        if spec.n_kv_heads == 1 or own < sinks + Heterogeneous(share).recent + 1:
            continue
        rows += [(f"far_{rest}", share, Heterogeneous(share, rest, sinks=sinks)) for rest in ("tokens", "mean", "none")]
        rows += [("far_random", share, Heterogeneous(share, drawn=drawn, sinks=sinks)) for drawn in range(n_random)]
    return rows


def token_quality(model: Model, said: Sequence[Continuation], policies: Sequence[tuple[str, float, TokenPolicy]]) -> list[dict[str, Any]]:
    """Log-probability of every answer, share of its tokens that come first, and share of the cache that is kept, by policy."""
    begun, values = Begun.of(model, said), np.zeros((3, len(policies), len(said)))
    for number, one in enumerate(said):
        reading, row = Reading.of(model, one), begun.row(number)
        for i, (_, _, policy) in enumerate(policies):
            measured = row.likelihoods(model.edited(policy.edit(reading)))
            values[:, i, number] = measured.logprob[0], measured.top[0], policy.kept(reading)
            step(number * len(policies) + i + 1, len(said) * len(policies))
    return [
        {
            "set": name,
            "share": share,
            "kept": round(float(kept.mean()), 5),
            "logprob": logs.round(5).tolist(),
            "top": tops.round(5).tolist(),
        }
        for (name, share, _), logs, tops, kept in zip(policies, *values, strict=True)
    ]
