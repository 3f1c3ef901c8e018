"""HeadVis' data tree, from a model's attention on natural text, with roles and causal scores as columns of its scatter plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.nodes import Head, KVHead
from circuitlab.core.progress import step
from circuitlab.execute.needs import require
from circuitlab.execute.text_rows import TextRowsLike, text_rows
from circuitlab.exports.headvis_tree import HeadVisHead, HeadVisSequence, HeadVisTree, require_own_folder, write_tree
from circuitlab.exports.side_by_side import columns_of_heads
from circuitlab.methods.roles.contract import running
from circuitlab.model.sites import Site
from circuitlab.model.token_text import texts_of

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.scores.role_table import RoleTable

__all__ = ["write_headvis"]

_INTERVALS, _PER_ROW, _LEAST, _TOP_TOKENS, _BINS = 10, 8, 0.005, 50, 20
"""Deciles, keys kept per query, attention below which they are not, tokens listed, bins of activations."""
_TOGETHER = 512
"""Tokens in one pass."""
_METRICS = {
    "self_attention_score": "mean attention of tokens to themselves",
    "previous_token_score": "mean attention to the token before",
    "pattern_entropy": "mean entropy of a query's attention, in nats",
    "qk_distance": "mean distance from query to key, weighted by attention",
    "qk_distance_variance": "variance of the same",
    "induction_score": "mean over queries of the attention to tokens that follow an earlier copy of the query's token",
}


class _Asks:
    """What is asked of a model."""

    name: ClassVar[str] = "the HeadVis export"
    needs: ClassVar[tuple[str, ...]] = ()
    sites: ClassVar[tuple[Site, ...]] = (Site.PATTERN,)


def write_headvis(
    model: Model,
    folder: str | Path,
    texts: TextRowsLike = None,
    *,
    roles: RoleTable | None = None,
    scores: Mapping[str, HeadScores] | None = None,
    length: int = 64,
) -> HeadVisTree:
    """Write ``config.json``, ``scatter_data.json`` and ``heads/L{layer}H{head}.json``.

    Parameters
    ----------
    model : Model
        With attention patterns.
    folder : str or Path
        A new or empty folder, or one with a tree of this model, which is replaced file by file. Nothing outside it is written.
    texts : str, Path, iterable of str, Passage or token ids, optional
        As for `circuitlab.head_on_text`; ten passages at least.
    roles : RoleTable, optional
        Every role becomes a metric ``role_<name>``; a head has the value of its key/value head where the role is about those.
    scores : mapping of str to HeadScores, optional
        Causal scores by name: mean effects become metrics ``score_<name>``.
    length : int
        Tokens of each passage that are read.

    Returns
    -------
    HeadVisTree
        What was written, as it is read back.

    Raises
    ------
    ModelError
        If the model has no attention patterns.
    BadParameterError
        If there are fewer than ten passages, or the folder holds something else.
    IncompatibleError
        If roles or scores are of another model.
    StoreError
        If the folder cannot be written.

    Notes
    -----
    The layout is that of the docstrings of ``data_pipeline.py`` of anthropics/headvis (its only version, May 2026), where a metric is any
    number per head; it was checked against those, and not in the front end. As there, the activation of a passage is its largest attention
    weight beside the diagonal and position 0, interval 10 is the highest decile, and attention is kept for at most 8 keys of a query, from
    0.005 on, to 4 decimals. Passages of a decile are taken at even steps instead of at random, three of each. There are no UMAP views, no
    attributions, and no metrics of scores before the softmax. Metrics of attention leave no position out.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> rows = [[3, 1, 5, 2, 4, 0, 1, 5, 2, 4, 0, 3]] * 10
    >>> model = build_planted("induction-gqa").model
    >>> tree = cl.exports.write_headvis(model, "data", rows, roles=cl.roles(model, "induction"))
    >>> max(tree.rows, key=lambda row: row["role_induction"])["head"]
    2
    """
    where = Path(folder)
    extra, about = _extra(model, roles, scores)
    require_own_folder(where, model.spec.name)
    with running(model):
        require(_Asks, model)  # type: ignore[arg-type]
        rows = text_rows(model, texts, length)
        if len(rows) < _INTERVALS:
            raise BadParameterError(f"{len(rows)} passages have no {_INTERVALS} intervals.", "Give more passages.")
        seen = _Seen(rows, (model.spec.n_layers, model.spec.n_heads))
        for number, pattern in _patterns(model, rows, 0):
            seen.add(number, pattern)
        kept = _sequences(model, rows, seen)
    metrics = seen.metrics()
    table: list[dict[str, Any]] = [
        {"layer": layer, "head": head}
        | {name: round(float(values[layer, head]), 6) for name, values in metrics.items()}
        | {name: values.get((layer, head)) for name, values in extra.items()}
        for layer, head in kept
    ]
    config = _config(model, list(kept), _METRICS | about, {"n_sequences": len(rows), "seq_len": length, "dtype": model.spec.dtype})
    return write_tree(where, config, table, ((at, _head(kept[at], seen.activation[:, *at])) for at in kept))


def _sequences(model: Model, rows: Sequence[tuple[int, ...]], seen: _Seen) -> dict[tuple[int, int], list[HeadVisSequence]]:
    """The passages that are kept for every head, in a second run of the model."""
    intervals = seen.intervals()
    kept: dict[tuple[int, int], list[HeadVisSequence]] = {(layer, head): [] for layer, head in np.ndindex(seen.shape)}
    for number, pattern in _patterns(model, rows, 1):
        words = list(texts_of(model.tokenizer, rows[number]))
        for at, sequences in kept.items():
            if interval := int(intervals[number, *at]):
                sequences.append(_sequence(number, interval, words, pattern[at], float(seen.activation[number, *at])))
    return kept


def _extra(
    model: Model, roles: RoleTable | None, scores: Mapping[str, HeadScores] | None
) -> tuple[dict[str, dict[tuple[int, int], float]], dict[str, str]]:
    """Columns of roles and scores by metric, each by layer and head; and what they are."""
    if roles is None and not scores:
        return {}, {}
    spec, columns = columns_of_heads(roles, scores)
    if spec.identity() != model.spec.identity():
        raise IncompatibleError(f"Roles or scores are of {spec.name}, and not of {model.spec.name} as it is.", "Give those of this model.")
    found: dict[str, dict[tuple[int, int], float]] = {}
    about: dict[str, str] = {}
    group = spec.n_heads // spec.n_kv_heads
    for column, by_node in columns.items():
        kind, name, part = column.split(".", 1)[0], column.split(".", 1)[1].rpartition(".")[0], column.rpartition(".")[2]
        if part not in {"value", "mean"}:
            continue
        values: dict[tuple[int, int], float] = {}
        for node, value in by_node.items():
            if isinstance(node, Head):
                values[node.layer, node.head] = float(value)  # type: ignore[arg-type]
            elif isinstance(node, KVHead):
                values |= {(node.layer, node.head * group + i): float(value) for i in range(group)}  # type: ignore[arg-type]
        found[f"{kind}_{name}"] = values
        source: Any = roles.scores[name].provenance if kind == "role" and roles is not None else (scores or {})[name].provenance
        about[f"{kind}_{name}"] = f"{source.estimand} ({source.units}), by circuitlab"
    return found, about


def _patterns(model: Model, rows: Sequence[tuple[int, ...]], which: int) -> Iterator[tuple[int, np.ndarray]]:
    """Number and pattern (layer, head, query, key) of every passage; ``which`` of two times."""
    from circuitlab.execute.on_text import grouped_by_length  # noqa: PLC0415 - torch

    done = which * len(rows)
    for numbers, tokens in grouped_by_length(rows, _TOGETHER):
        pattern = model.capture(tokens, [Site.PATTERN])[Site.PATTERN].double().cpu().numpy()
        yield from zip(numbers, pattern, strict=True)
        done += len(numbers)
        step(done, 2 * len(rows))


@dataclass(eq=False)
class _Seen:
    """All passages, for metrics and intervals."""

    rows: Sequence[tuple[int, ...]]
    shape: tuple[int, int]
    activation: np.ndarray = field(init=False)
    _sums: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.activation = np.zeros((len(self.rows), *self.shape))

    def add(self, number: int, pattern: np.ndarray) -> None:
        """Take in a passage."""
        tokens = np.array(self.rows[number])
        place = np.arange(len(tokens))
        distance = (place[:, None] - place).astype(float)
        beside = pattern[..., 1:, 1:] * (distance[1:, 1:] > 0)
        self.activation[number] = beside.max(axis=(-1, -2))
        after_copy = np.zeros_like(distance)
        after_copy[:, 1:] = (tokens[:, None] == tokens[None, :-1]) & (distance[:, :-1] > 0)
        logs = np.log(pattern, out=np.zeros_like(pattern), where=pattern > 0)
        for name, values in {
            "self": np.trace(pattern, axis1=-2, axis2=-1),
            "previous": np.trace(pattern, offset=-1, axis1=-2, axis2=-1),
            "entropy": -(pattern * logs).sum((-1, -2)),
            "mass": pattern.sum((-1, -2)),
            "distance": (pattern * distance).sum((-1, -2)),
            "square": (pattern * distance**2).sum((-1, -2)),
            "induction": (pattern * after_copy).sum((-1, -2)),
            "queries": np.full(self.shape, float(len(tokens))),
        }.items():
            self._sums[name] = self._sums.get(name, 0.0) + values

    def metrics(self) -> dict[str, np.ndarray]:
        """Each (layer, head), by the names of ``_METRICS``."""
        sums = self._sums
        distance = sums["distance"] / sums["mass"]
        values = (
            sums["self"] / sums["queries"],
            sums["previous"] / (sums["queries"] - len(self.rows)),
            sums["entropy"] / sums["queries"],
            distance,
            sums["square"] / sums["mass"] - distance**2,
            sums["induction"] / sums["queries"],
        )
        return dict(zip(_METRICS, values, strict=True))

    def intervals(self) -> np.ndarray:
        """The decile of passages that are kept for a head, 0 for others, (passage, layer, head)."""
        found = np.zeros(self.activation.shape, dtype=int)
        for at in np.ndindex(self.shape):
            order = np.argsort(self.activation[(slice(None), *at)], kind="stable")
            for interval, part in enumerate(np.array_split(order, _INTERVALS), start=1):
                found[(part[np.linspace(0, len(part) - 1, 3).round().astype(int)], *at)] = interval
        return found


def _sequence(number: int, interval: int, words: list[str], pattern: np.ndarray, activation: float) -> HeadVisSequence:
    """One passage with its sparse attention, query by query."""
    n = len(words)
    best = np.sort(np.argsort(-pattern, axis=1, kind="stable")[:, :_PER_ROW], axis=1)
    values = np.take_along_axis(pattern, best, axis=1)
    query, which = np.nonzero(values >= _LEAST)
    indices = (query * n + best[query, which]).tolist()
    return HeadVisSequence(number, interval, words, indices, values[query, which].round(4).tolist(), n, round(activation, 4))


def _head(sequences: list[HeadVisSequence], activation: np.ndarray) -> HeadVisHead:
    """A head's file, its sequences from the lowest interval to the highest."""
    ordered = sorted(sequences, key=lambda one: (one.interval, one.max_activation, one.sequence_id))
    longest = max(one.seq_len for one in ordered)
    edges = [0, *(2**power for power in range(longest.bit_length() + 1))]
    distances: list[int] = []
    by_query: dict[str, float] = {}
    by_key: dict[str, float] = {}
    for one in ordered:
        for index, value in zip(one.attention_indices, one.attention_values, strict=True):
            query, key = divmod(index, one.seq_len)
            distances.append(query - key)
            by_query[one.tokens[query]] = by_query.get(one.tokens[query], 0.0) + value
            by_key[one.tokens[key]] = by_key.get(one.tokens[key], 0.0) + value
    counts, bins = np.histogram(activation, bins=_BINS, range=(0.0, 1.0))
    return HeadVisHead(
        sequences=ordered,
        qk_distance_histogram={"bin_edges": edges, "bin_values": np.histogram(distances, bins=edges)[0].tolist()},
        top_query_tokens=_top(by_query),
        top_key_tokens=_top(by_key),
        histogram={"bin_edges": bins.round(4).tolist(), "bin_values": counts.tolist()},
        statistics={"n_samples": len(activation), "mean_max_activation": round(float(activation.mean()), 4)},
    )


def _top(weights: Mapping[str, float]) -> list[dict[str, str | float]]:
    order = sorted(weights.items(), key=lambda one: (-one[1], one[0]))[:_TOP_TOKENS]
    return [{"token": token, "weight": round(weight, 4)} for token, weight in order]


def _config(model: Model, heads: list[tuple[int, int]], metrics: Mapping[str, str], run: Mapping[str, Any]) -> dict[str, Any]:
    spec = model.spec
    return {
        "model_name": spec.name,
        "heads": heads,
        "n_layers": spec.n_layers,
        "n_heads": spec.n_heads,
        "n_intervals": _INTERVALS,
        "metrics": list(metrics),
        "metric_descriptions": dict(metrics),
        "head_data_pattern": "L{layer}H{head}.json",
        "has_umap": False,
        "umap_heads": [],
        "custom_plots": [{"key": "qk_distance_histogram", "label": "Q-K distance"}, {"key": "histogram", "label": "Activations"}],
        "custom_tables": [
            {"key": "top_query_tokens", "label": "Top query tokens"},
            {"key": "top_key_tokens", "label": "Top key tokens"},
        ],
        "statistics_display": {"mean_max_activation": {"label": "Mean max activation", "format": "default"}},
        "pipeline_config": {"made_by": "circuitlab", "model_identity": spec.identity()} | dict(run),
    }
