"""Comparison of every pair of tasks, methods or models: overlap of their circuits and rank agreement, and the same by chance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from circuitlab.circuits.select import TopK
from circuitlab.circuits.select_edges import TopEdges
from circuitlab.comparison.families import prompt_families
from circuitlab.comparison.pairwise import Comparison, Sampling
from circuitlab.comparison.score_map import score_map
from circuitlab.comparison.stability import top_k_stability
from circuitlab.comparison.table import OverlapTable, PairRow
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.provenance import Provenance
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.intervals import NO_INTERVAL, no_interval, no_pairs

__all__ = ["compare_methods", "compare_models", "compare_tasks", "corrected"]

Scores: TypeAlias = HeadScores | EdgeScores
_Same: TypeAlias = dict[str, Callable[[Provenance], object]]

_WEIGHTS: _Same = {"weights": lambda about: about.model.identity()}
_METHOD: _Same = {"methods": lambda about: about.method, "method parameters": lambda about: about.params}
_TASK: _Same = {"tasks": lambda about: (about.task.id, about.task.variant)}
"""What must be equal in the provenance of all scores, by its name in messages."""

_MIXTURES: WeakKeyDictionary[HeadScores, dict[str | None, str]] = WeakKeyDictionary()
"""Warnings by scores, for as long as these are in use, and by mark."""


def compare_tasks(
    scores: Mapping[str, Scores],
    rule: TopK | TopEdges | None = None,
    sampling: Sampling | None = None,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> OverlapTable:
    """Compare the circuits of several tasks on one model.

    Parameters
    ----------
    scores : mapping of str to HeadScores or EdgeScores
        Scores of one method by task name.
    rule : TopK or TopEdges, optional
        How circuits are selected; if not given, the top 20 heads, or the top 100 edges, by magnitude.
    sampling : Sampling, optional
        Numbers of resamples and permutations, their seed, and the null model of the p-values.
    n_boot, seed : int
        Number of resamples for intervals and the seed, if ``sampling`` is not given.

    Returns
    -------
    OverlapTable
        Overlap measures, rank agreement, intervals, null models, p- and q-values for every pair of tasks.

    Raises
    ------
    IncompatibleError
        If the scores come from different weights, methods or method parameters, or rank different elements. Different metrics are allowed,
        because only ranks are compared; they are noted in the table.
    BadParameterError
        If there are fewer than two tasks, a task has fewer than two pairs, or the rule does not fit the scores; or if scores come from
        weights alone, which are the same for every task.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.comparison import Sampling
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.random.default_rng(0).normal(size=(2, 16, 3, 4)) * 0.1  # (task, pair, layer, head)
    >>> effects[:, :, 1, 2] += 3.0  # one head serves both tasks
    >>> scores = {name: fake_scores(one, task=name) for name, one in zip(["a", "b"], effects)}
    >>> compare_tasks(scores, TopK(1), Sampling(n_boot=200, n_null=200)).row("a", "b").shared
    ['a1.h2']
    """
    return _compare(scores, rule, sampling or Sampling(n_boot, seed=seed), "task", _WEIGHTS | _METHOD)


def compare_methods(scores: Mapping[str, Scores], rule: TopK | TopEdges | None = None, sampling: Sampling | None = None) -> OverlapTable:
    """Compare the circuits that several methods select on one task and one model.

    The prompts are the same, so that the methods share their noise and pairs are resampled together. A method that reads weights alone may
    be compared with one that runs prompts: their overlap has its chance level and p-value, but no interval. Parameters, result and errors
    are those of `compare_tasks`, with methods in place of tasks: the weights and the tasks must be equal.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.comparison import Sampling
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.random.default_rng(0).normal(size=(16, 3, 4))
    >>> scores = {"exact": fake_scores(effects), "estimate": fake_scores(effects * 0.9)}
    >>> compare_methods(scores, TopK(4), Sampling(n_boot=200, n_null=200)).row("exact", "estimate").jaccard["mean"]
    1.0
    """
    return _compare(scores, rule, sampling or Sampling(), "method", _WEIGHTS | _TASK)


def compare_models(scores: Mapping[str, Scores], rule: TopK | TopEdges | None = None, sampling: Sampling | None = None) -> OverlapTable:
    """Compare the circuits that one method selects on one task in several models of equal shape, such as checkpoints or fine-tuned copies.

    A head name refers to the same head only in models with a common ancestor; between models that were trained independently, no more than
    the overlap by chance can be expected. Parameters, result and errors are those of `compare_tasks`, with models in place of tasks: the
    method, its parameters, the task and the shape of the models must be equal.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.comparison import Sampling
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.random.default_rng(0).normal(size=(16, 3, 4))
    >>> scores = {"before": fake_scores(effects), "after": fake_scores(-effects)}  # of two checkpoints
    >>> compare_models(scores, TopK(4), Sampling(n_boot=200, n_null=200)).row("before", "after").spearman["mean"]
    1.0
    """
    return _compare(scores, rule, sampling or Sampling(), "model", _METHOD | _TASK)


def corrected(p_values: list[float]) -> list[float]:
    """Benjamini-Hochberg q-values of several p-values."""
    from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

    return [float(q) for q in stats.false_discovery_control(p_values)]


def _compare(scores: Mapping[str, Scores], rule: TopK | TopEdges | None, sampling: Sampling, over: str, same: _Same) -> OverlapTable:
    names = tuple(scores)
    if len(names) <= 1:
        what = f"Comparing needs at least two {over}s; got {list(names)}."
        raise BadParameterError(what, f"Name another {over}.")
    rule = _fitting_rule(scores, rule, over)
    _require_same(scores, same)
    alone = [name for name, run in scores.items() if run.provenance.weights_only]
    if alone and over == "task":
        raise BadParameterError(*no_pairs(scores[alone[0]].provenance.method, "difference between tasks"))
    mark = rule.mark if isinstance(rule, TopK) else None
    maps = {name: score_map(run, mark) for name, run in scores.items()}
    for other in maps.values():
        maps[names[0]].require_same_elements(other)
    circuits = {name: rule(run) for name, run in scores.items()}  # type: ignore[arg-type]
    partial = []
    for a, b in itertools.combinations(names, 2):
        measures = Comparison(maps[a], maps[b], rule.k, rule.by, sampling).as_dict()
        partial.append({"task_a": a, "task_b": b, "ready": circuits[a].ready and circuits[b].ready, **measures})
    rows = (PairRow(**row, q=q) for row, q in zip(partial, corrected([row["p"] for row in partial]), strict=True))
    provenances = [run.provenance for run in scores.values()]
    return OverlapTable(
        tasks=names,
        rows=tuple(rows),
        circuits=circuits,
        stability={name: _stability(run, rule, sampling.seed) for name, run in scores.items()},
        rule=circuits[names[0]].rule,
        method=", ".join(dict.fromkeys(about.method for about in provenances)),
        model=", ".join(dict.fromkeys(about.model.name for about in provenances)),
        notes=_notes(scores, mark),
        over=over,
        level="edges" if isinstance(rule, TopEdges) else "nodes",
    )


def _stability(scores: Scores, rule: TopK | TopEdges, seed: int) -> dict[str, float]:
    """Agreement of two halves of the pairs; NaN for scores from weights alone."""
    if scores.provenance.weights_only:
        return no_interval(np.float64(np.nan)).as_dict()
    return top_k_stability(scores, rule.k, by=rule.by, mark=getattr(rule, "mark", None), seed=seed).as_dict()


def _fitting_rule(scores: Mapping[str, Scores], rule: TopK | TopEdges | None, over: str) -> TopK | TopEdges:
    """The rule, or the default one, after checking that it fits the scores."""
    edges = {isinstance(run, EdgeScores) for run in scores.values()}
    if len(edges) > 1:
        what = f"Some {over}s have scores of edges and some of nodes."
        raise IncompatibleError(what, "Sum edges over their senders (EdgeScores.to_head_scores), or score edges everywhere.")
    rule = rule or (TopEdges() if edges == {True} else TopK())
    if isinstance(rule, TopEdges) is not edges.pop() or getattr(rule, "prune", False):
        what = f"{rule} does not select the elements that these scores rank."
        raise BadParameterError(what, "Use TopK for head scores, and TopEdges without pruning for edge scores.")
    if isinstance(rule, TopK) and rule.part != "heads":
        what = f"{over.capitalize()}s are compared by their heads; the rule selects {rule.part!r}."
        raise BadParameterError(what, "Use TopK(part='heads').")
    return rule


def _notes(scores: Mapping[str, Scores], mark: str | None) -> tuple[str, ...]:
    """One sentence for everything that weakens the comparison."""
    flags = {name: run.provenance.fitness for name, run in scores.items()}
    notes = [f"{name} is not ready: {flag.reason}" for name, flag in flags.items() if flag is not None and not flag.ready]
    metrics = {name: run.provenance.metric for name, run in scores.items() if not run.provenance.weights_only}
    if len(set(metrics.values())) > 1:
        listed = ", ".join(f"{name}: {metric}" for name, metric in metrics.items())
        notes.append(f"Metrics differ ({listed}); ranks are compared.")
    notes += [f"{name}: {NO_INTERVAL}." for name, run in scores.items() if run.provenance.weights_only]
    heads = {name: run for name, run in scores.items() if isinstance(run, HeadScores) and not run.weights_only}
    warnings = {name: _mixture(run, mark) for name, run in heads.items()}
    return (*notes, *(f"{name}: {warning}" for name, warning in warnings.items() if warning))


def _mixture(scores: HeadScores, mark: str | None) -> str:
    """Warning that a task mixes mechanisms. A report compares the same scores several times, and testing them takes 400 clusterings."""
    known = _MIXTURES.setdefault(scores, {})
    if mark not in known:
        known[mark] = prompt_families(scores, mark=mark).warning
    return known[mark]


def _require_same(scores: Mapping[str, Scores], same: _Same) -> None:
    first_name, first = next(((name, run) for name, run in scores.items() if not run.provenance.weights_only), next(iter(scores.items())))
    for name, run in scores.items():
        for label, read in same.items():
            if label == "tasks" and run.provenance.weights_only:
                continue  # no task has a part in them, so they go with any
            expected, actual = read(first.provenance), read(run.provenance)
            if actual != expected:
                what = f"{first_name!r} and {name!r} were scored with different {label}: {expected} and {actual}."
                raise IncompatibleError(what, "Score both the same way.")
