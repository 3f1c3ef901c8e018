"""What text loses when each token keeps a few heads of every layer, and which heads it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.circuits.chance import p_value
from circuitlab.core.progress import step
from circuitlab.execute.on_text import text_values
from circuitlab.execute.text_loss import next_token_losses
from circuitlab.model.interventions import KeepHeads
from circuitlab.model.sites import Site
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.protocol import Model

__all__ = ["budget_losses", "kept_of", "load_difference", "loads", "mean_lengths"]

Rows = Sequence[tuple[int, ...]]

_SHUFFLES = 2000


def kept_of(share: float, n_heads: int) -> int:
    """Heads of a layer that a share stands for: the next whole number, one at least.

    Examples
    --------
    >>> kept_of(0.75, 9), kept_of(0.5, 4)
    (7, 2)
    """
    return max(1, int(np.ceil(round(share * n_heads, 9))))


def mean_lengths(model: Model, rows: Rows) -> np.ndarray:
    """Mean norm of what every head adds to the stream, shape (layer, head)."""
    return np.asarray(text_values(model, rows).activation.mean(0))


def budget_losses(context: ExperimentContext, choosing: Rows, measuring: Rows, shares: Sequence[float], n_random: int) -> dict[str, Any]:
    """Rise of the loss of passages, as a share of it, for several budgets and ways to choose heads.

    ``write`` and ``query`` choose for each token by what heads write and by the norms of their queries in a run with all heads; ``fixed``
    keeps the heads that write most on other passages, for every token; ``random`` draws heads for each position and layer anew.

    Returns
    -------
    dict
        ``base``, the loss in nats; ``shares`` and ``kept``; for each way of choosing, ``rises`` by share with intervals over passages;
        ``random_draws``, the mean rise over shares of every random draw; paired differences over passages, mean over shares:
        ``fixed_minus_write``, ``random_minus_write``, ``random_minus_query``; ``write``, ``fixed`` and ``query``, mean rises over shares.
    """
    model, spec = context.model, context.model.spec
    layers, kept = list(range(spec.n_layers)), [kept_of(share, spec.n_heads) for share in shares]
    fixed = torch.from_numpy(mean_lengths(model, choosing)[:, None])
    longest, rng = max(map(len, measuring)), context.rng("random heads")
    drawn = [torch.from_numpy(rng.random((spec.n_layers, longest, spec.n_heads))) for _ in range(n_random)]
    ways: dict[str, list[Any]] = {"write": ["write"], "query": [_query_lengths(model, measuring)], "fixed": [fixed], "random": drawn}
    base, rises, done = _means(model, measuring), {}, 0
    for name, rankings in ways.items():
        each = []
        for ranking in rankings:
            losses = []
            for keep in kept:
                losses.append(_budgeted(model, layers, keep, ranking, measuring))
                done += 1
                step(done, len(kept) * (3 + n_random))
            each.append(losses)
        rises[name] = (np.array(each) - base) / base  # draw, share, passage
    mean = {name: values.mean((0, 1)) for name, values in rises.items()}
    return {
        "base": mean_interval(base).as_dict(),
        "shares": list(shares),
        "kept": kept,
        "heads": spec.n_heads,
        "rises": {name: [mean_interval(values).as_dict() for values in each.mean(0)] for name, each in rises.items()},
        "random_draws": [float(draw.mean()) for draw in rises["random"]],
        "fixed_minus_write": mean_interval(mean["fixed"] - mean["write"]).as_dict(),
        "random_minus_write": mean_interval(mean["random"] - mean["write"]).as_dict(),
        "random_minus_query": mean_interval(mean["random"] - mean["query"]).as_dict(),
        "first_random_minus_write": mean_interval(rises["random"].mean(0)[0] - rises["write"][0, 0]).as_dict(),
        "first_random_minus_query": mean_interval(rises["random"].mean(0)[0] - rises["query"][0, 0]).as_dict(),
        "mean": {name: float(values.mean()) for name, values in mean.items()},
    }


def loads(model: Model, rows: Rows, keep: int) -> np.ndarray:
    """Share of each passage's tokens that keep a head, by what heads write; shape (passage, layer, head)."""
    values = text_values(model, rows)
    rank = np.argsort(np.argsort(-values.activation, axis=-1, kind="stable"), axis=-1)
    return np.stack([(rank[values.passage == i] < keep).mean(0) for i in range(len(rows))])


def load_difference(model: Model, groups: Mapping[str, Rows], keep: int, rng: np.random.Generator) -> dict[str, Any]:
    """How much further apart the loads of passages of different groups are than those of one group, against shuffled groups.

    The distance of two passages is the mean, over all heads, of the absolute difference of their loads.
    """
    labels = np.repeat(np.arange(len(groups)), [len(rows) for rows in groups.values()])
    each = loads(model, [row for rows in groups.values() for row in rows], keep)
    flat = each.reshape(len(each), -1)
    distance = np.abs(flat[:, None] - flat[None]).mean(-1)
    pairs = np.triu_indices(len(labels), 1)

    def apart(label: np.ndarray) -> float:
        other = (label[:, None] != label[None])[pairs]
        return float(distance[pairs][other].mean() - distance[pairs][~other].mean())

    shuffled = np.array([apart(rng.permutation(labels)) for _ in range(_SHUFFLES)])
    observed = apart(labels)
    return {
        "apart": observed,
        "shuffled": float(np.quantile(shuffled, 0.95)),
        "p": float(p_value(observed, shuffled)),
        "sizes": {name: len(rows) for name, rows in groups.items()},
        "maps": {name: np.round(each[labels == i].mean(0), 4).tolist() for i, name in enumerate(groups)},
    }


def _query_lengths(model: Model, rows: Rows) -> list[torch.Tensor]:
    """Norms of all queries of each passage, before any norm of queries and rotation; each (layer, pos, head)."""
    lengths = []
    for row in rows:
        queries = model.capture(torch.tensor([row]), [Site.Q])[Site.Q][0]
        lengths.append(queries.float().norm(dim=-1).cpu())
    return lengths


def _budgeted(model: Model, layers: list[int], keep: int, ranking: Any, rows: Rows) -> np.ndarray:
    """Mean loss of each passage under a budget; a list holds the scores of each passage."""
    if not isinstance(ranking, list):
        return _means(model.edited(KeepHeads(layers, keep, ranking)), rows)
    each = [_means(model.edited(KeepHeads(layers, keep, scores)), [row]) for scores, row in zip(ranking, rows, strict=True)]
    return np.concatenate(each)


def _means(model: Model, rows: Rows) -> np.ndarray:
    """Mean loss of each passage, nats per token."""
    return np.array([float(losses.mean()) for losses in next_token_losses(model, rows)])
