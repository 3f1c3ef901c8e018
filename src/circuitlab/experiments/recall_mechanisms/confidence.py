"""The last layers: whether they lower the probability of what the model knows, and whether they write what is frequent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.nodes import Attn, Mlp, Node, parse_node
from circuitlab.core.progress import step
from circuitlab.execute.direct_logits import share_logits
from circuitlab.execute.on_text import grouped_by_length
from circuitlab.execute.text_loss import next_token_losses
from circuitlab.experiments.recall_mechanisms.facts import Facts
from circuitlab.model.interventions import Scale
from circuitlab.model.sites import Site
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["frequent_writes", "last_layers", "scaled_down", "text_cost"]

_BEFORE = 3
_TOGETHER = 512


def last_layers(n_layers: int) -> tuple[int, ...]:
    """The last layer and up to three layers before it, the last one first."""
    return tuple(range(n_layers - 1, max(-1, n_layers - 2 - _BEFORE), -1))


def scaled_down(model: Model, tuning: Facts, held: Facts, factors: Sequence[float]) -> dict[str, Any]:
    """Change of the log-probability of the true capital if a late layer's attention or MLP is scaled down.

    Parameters
    ----------
    model : Model
    tuning, held : Facts
        Countries on which part and factor are chosen for each layer, and those on which they are measured.
    factors : sequence of float
        Below 1.

    Returns
    -------
    dict
        ``layers``, the last one first, each with ``layer``, ``part``, ``factor`` and ``change`` (nats, over held-out countries);
        ``parts``, the change of every part and factor of the last layer; ``before``, the log-probability without a change.
    """
    base = [_log_probability(model, facts) for facts in (tuning, held)]
    layers, parts = [], []
    for number, layer in enumerate(last_layers(model.spec.n_layers)):
        tried: list[tuple[float, Node, float, dict[str, float]]] = []
        parts_of: tuple[Node, ...] = (Attn(layer), Mlp(layer))
        for part in parts_of:
            for factor in factors:
                edited = model.edited(Scale(part, factor))
                changes = [_log_probability(edited, facts) - whole for facts, whole in zip((tuning, held), base, strict=True)]
                tried.append((float(changes[0].mean()), part, factor, mean_interval(changes[1]).as_dict()))
        _, part, factor, change = max(tried, key=lambda each: each[0])
        layers.append({"layer": layer, "part": str(part), "factor": factor, "change": change})
        if not number:
            parts = [{"part": str(each[1]), "factor": each[2], "change": each[3]} for each in tried]
        step(number + 1, _BEFORE + 1)
    return {"layers": layers, "parts": parts, "before": mean_interval(base[1]).as_dict()}


def _log_probability(model: Model, facts: Facts) -> np.ndarray:
    """Log-probability of the true capital, a mean over each country's prompts."""
    logs = model.logits(facts.tokens[0], facts.end).double().log_softmax(-1).cpu().numpy()
    return facts.by_country(logs[np.arange(len(facts.owner)), facts.words[1].numpy()[facts.owner]])


def text_cost(model: Model, part: str, factor: float, rows: Sequence[Sequence[int]]) -> dict[str, float]:
    """Rise of the next-token loss of natural text, in nats, if the part is scaled; over passages."""
    edited = model.edited(Scale(parse_node(part), factor))
    losses = [np.array([each.mean() for each in next_token_losses(run, rows)]) for run in (edited, model)]
    return mean_interval(losses[0] - losses[1]).as_dict()


def frequent_writes(model: Model, held: Facts, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Correlation, over the vocabulary, of what a late layer writes at the last token with how frequent tokens are.

    How frequent a token is, is the logarithm of the model's mean prediction over all positions of natural text.

    Returns
    -------
    dict
        ``layers``, the last one first: ``layer``, ``correlation`` over countries, and ``difference``, that of the last layer minus this
        one's, paired.
    """
    frequent = _mean_prediction(model, rows).log()
    run = model.capture(held.tokens[0], (Site.ATTN_OUT, Site.MLP_OUT, Site.RESID_POST), at=held.end)
    every = torch.arange(model.spec.d_vocab)
    layers: list[dict[str, Any]] = []
    last = None
    for layer in last_layers(model.spec.n_layers):
        written = (run[Site.ATTN_OUT][:, layer].double() + run[Site.MLP_OUT][:, layer].double())[None]
        logits = share_logits(model, written, run[Site.RESID_POST][:, -1], every)[0].cpu()
        each = held.by_country(torch.corrcoef(torch.cat([frequent[None], logits]))[0, 1:].numpy())
        last = each if last is None else last
        difference = mean_interval(last - each).as_dict()
        layers.append({"layer": layer, "correlation": mean_interval(each).as_dict(), "difference": difference})
    return {"layers": layers}


@torch.no_grad()
def _mean_prediction(model: Model, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The mean of the predicted probabilities over all positions of all rows, shape (token,)."""
    total, count = torch.zeros(model.spec.d_vocab, dtype=torch.float64), 0
    for _, tokens in grouped_by_length([tuple(row) for row in rows], _TOGETHER):
        last = model.capture(tokens, [Site.RESID_POST], layers=[model.spec.n_layers - 1])[Site.RESID_POST][:, 0]
        for resid in last:
            total += model.unembed(resid).double().softmax(-1).sum(0).cpu()
            count += len(resid)
    return total / count
