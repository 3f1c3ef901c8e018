"""Find a circuit, and evaluate it on prompts that it was not picked on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from circuitlab.circuits import Circuit, Cumulative, GreedyEdges, Significant, Threshold, TopEdges, TopK
from circuitlab.circuits.select import needs_pairs_for
from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.html import html_table
from circuitlab.core.nodes import Head, Node
from circuitlab.evaluation import Evaluate
from circuitlab.evaluation.identity import Measured, batch_identity, evaluation_identity
from circuitlab.execute.contract import require_prompts
from circuitlab.execute.routes import universe_of
from circuitlab.methods import MethodLike, get_method
from circuitlab.metrics import get_metric
from circuitlab.store import Cache, Documents
from circuitlab.workflows.backups import BackupFinder
from circuitlab.workflows.prompts import Draws, Prompts, held_out, to_batch_of
from circuitlab.workflows.score import as_cache, edge_method, score, score_edges
from circuitlab.workflows.terminal import CellProgress

if TYPE_CHECKING:
    from circuitlab.metrics import Metric
    from circuitlab.model.protocol import Model
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores

__all__ = [
    "CircuitEvaluation",
    "Rule",
    "evaluate",
    "evaluate_batch",
    "find_backups",
    "find_circuit",
    "require_evaluate",
    "require_heads",
    "strongest_heads",
    "universe_parts",
]

Rule: TypeAlias = TopK | Threshold | Cumulative | Significant | TopEdges | GreedyEdges
"""How a circuit is picked from scores of heads, or of edges."""

_EVALUATIONS, _BACKUPS = Documents("evaluations"), Documents("backups")
_BACKUPS_VERSION = 1
"""Of how backups are searched; a change makes stored searches new."""
_UNIVERSES: dict[str | None, tuple[str, ...] | None] = {None: None, "heads": ("heads",), "heads+mlps": ("heads", "mlps")}


@dataclass(frozen=True, eq=False)
class CircuitEvaluation:
    """What running a circuit alone has shown.

    Parameters
    ----------
    circuit : Circuit
        What was run.
    measures : dict
        `Evaluation.to_dict`, as it is stored (NaN is None): ``faithfulness``, ``completeness``, ``minimality``, ``cpr``, ``cmd``,
        ``curve``, ``random``, ``conventions`` and more. ``conventions["prompts"]`` says which prompts were used.
    cached : bool
        Whether it was found in the cache.
    """

    circuit: Circuit
    measures: dict[str, Any]
    cached: bool = False

    @property
    def faithfulness(self) -> dict[str, float]:
        """Share of the full model's effect that the circuit keeps: ``{"mean", "low", "high"}``; 1 is the full model, 0 the empty one."""
        return dict(self.measures["faithfulness"])

    def to_dict(self) -> dict[str, Any]:
        """The circuit and every measure, in the shape of ``circuitlab circuit --json``."""
        return self.circuit.to_dict() | self.measures | {"cached": self.cached}

    def rows(self) -> list[tuple[str, str]]:
        """Names of the measures and their values as text."""
        found, measures = [("faithfulness", _interval(self.measures["faithfulness"]))], self.measures
        if (whole := measures["completeness"]) is not None:
            found.append(("incompleteness", f"{_interval(whole)}, worst {_number(whole['worst'])} of {whole['n']} subsets"))
        if (least := measures["minimality"]) is not None:
            found.append(("least element's share", f"{least['least']:.3f}"))
        found += [(name.upper(), _interval(measures[name])) for name in ("cpr", "cmd") if measures[name] is not None]
        chance = measures["random"]
        if chance["n"]:
            found.append((f"{chance['n']} random circuits", f"{_interval(chance)}, p = {chance['p']:.3g}"))
        return found

    def _repr_html_(self) -> str:
        conventions = self.measures["conventions"]
        notes = [f"{conventions['universe']} outside the circuit: {conventions['ablated_value']}.", f"{conventions['prompts']}."]
        warning = "" if self.circuit.ready else "The model cannot do the task: shares of its effect mean little."
        title = f"{len(self.circuit)} nodes kept alone, {self.circuit.rule}"
        return html_table(title, ["measure", "value"], self.rows(), notes=notes, warning=warning)

    def __repr__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.rows()]
        return "\n  ".join(
            [f"Evaluation of {len(self.circuit)} nodes, {self.circuit.rule}", *lines, self.measures["conventions"]["prompts"]]
        )


def _interval(value: Mapping[str, Any]) -> str:
    return f"{_number(value['mean'])} [{_number(value['low'])}, {_number(value['high'])}]"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def find_circuit(
    model: Model,
    prompts: Prompts,
    method: MethodLike = "activation_patching",
    *,
    rule: int | Rule = 20,
    n: int = 16,
    variant: str | None = None,
    seed: int = 0,
    metric: str | Metric | None = None,
    store: Cache | str | Path | None = None,
) -> Circuit:
    """Score a task and pick its circuit.

    Parameters
    ----------
    model, prompts, method, n, variant, seed, metric, store
        As in `circuitlab.score`.
    rule : int or Rule
        A number of heads, the strongest by magnitude of the mean score, or a rule such as ``Significant()`` or ``TopEdges(100)``.

    Returns
    -------
    Circuit
        With the runs that it came from. It says whether the model can do the task at all.

    Raises
    ------
    BadParameterError
        If the rule picks edges and the method scores nodes, more heads are asked for than the model has, or the rule tests scores over
        prompt pairs and the method reads weights alone.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")  # a small model whose circuit is known
    >>> cl.find_circuit(planted.model, planted.batch(4), rule=2)
    Circuit of 2 nodes, top 2 attention heads by absolute mean score: a1.h1, a1.h2
    >>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
    >>> cl.find_circuit(model, "ioi", rule=20)  # doctest: +SKIP
    """
    picked: Any = TopK(rule) if isinstance(rule, int) else rule
    if isinstance(picked, TopK) and picked.part == "heads":
        require_heads(model, picked.k)
    if wanted := needs_pairs_for(picked):
        require_prompts(get_method(method), wanted)
    scoring = {"n": n, "variant": variant, "seed": seed, "metric": metric, "store": store}
    if isinstance(picked, TopEdges | GreedyEdges):
        return picked(score_edges(model, prompts, edge_method(method), **scoring))  # type: ignore[arg-type]
    circuit: Circuit = picked(score(model, prompts, get_method(method), **scoring))  # type: ignore[arg-type]
    return circuit


def require_heads(model: Model, k: int) -> None:
    """Raise `BadParameterError` unless the model has ``k`` heads; asked before they are scored."""
    spec = model.spec
    if not 1 <= k <= spec.n_layers * spec.n_heads:
        what = f"A circuit of {k} heads is asked for, and {spec.name} has {spec.n_layers * spec.n_heads}."
        raise BadParameterError(what, "Ask for fewer.")


def universe_parts(universe: str | None) -> tuple[str, ...] | None:
    """Kinds of node that are ablated outside a circuit, from ``"heads"`` or ``"heads+mlps"``; an unknown name raises `UnknownNameError`."""
    if universe not in _UNIVERSES:
        raise UnknownNameError("universe", str(universe), [name for name in _UNIVERSES if name])
    return _UNIVERSES[universe]


def evaluate(
    model: Model,
    circuit: Circuit,
    prompts: Prompts,
    *,
    scores: HeadScores | EdgeScores | None = None,
    settings: Evaluate | None = None,
    n: int = 16,
    metric: str | Metric | None = None,
    store: Cache | str | Path | None = None,
) -> CircuitEvaluation:
    """Run a circuit with everything outside it ablated: how faithful, complete and minimal it is, beside random circuits.

    Parameters
    ----------
    model : Model
        Which the circuit was found in.
    circuit : Circuit
        What is kept.
    prompts : str, Path, Task or ContrastBatch
        Whose pairs it is run on. With ``scores``, the pairs that follow the scored ones, where the task has them; a circuit looks more
        faithful than it is on the pairs that it was picked on. Without, the task's first ``n``.
    scores : HeadScores or EdgeScores, optional
        What the circuit was picked from; gives the curve over sizes, CPR and CMD.
    settings : Evaluate, optional
        Ablation, universe, numbers of random circuits and subsets.
    n : int
        Pairs, where no ``scores`` are given or these come from weights alone; as many as were scored otherwise.
    metric : str or Metric, optional
        That of the scores, or the task's own, otherwise.
    store : Cache, str or Path, optional
        Where to look for the evaluation first and to keep it after.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")  # a small model whose circuit is known
    >>> found = cl.evaluate(planted.model, cl.Circuit(["a1.h1", "a1.h2"]), planted.batch(4))
    >>> round(found.faithfulness["mean"], 2)
    0.97
    >>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
    >>> cl.evaluate(model, cl.find_circuit(model, "ioi"), "ioi")  # doctest: +SKIP
    """
    if scores is None:
        batch = to_batch_of(model, prompts, Draws(n))
        which = f"the first {batch.n_pairs} pairs: numbers are optimistic if the circuit was picked on them"
    else:
        where = scores.provenance
        batch, which = held_out(model, prompts, where.task, n if where.weights_only else None)
        metric = metric or (batch.metric if where.weights_only else where.metric)
    measured = Measured(circuit.within(universe_of(model)), model, batch, get_metric(metric or batch.metric), scores)
    with CellProgress(f"{batch.task.id} x evaluation"):
        return evaluate_batch(measured, which, settings or Evaluate(), as_cache(store))


def evaluate_batch(measured: Measured, which: str, settings: Evaluate, cache: Cache | None) -> CircuitEvaluation:
    """Evaluate a circuit on a batch that is ready, or find its evaluation in the cache; ``which`` says what pairs these are."""

    def measure() -> dict[str, Any]:
        one = measured
        return settings(one.circuit, one.model, one.batch, one.metric, one.scores).to_dict()

    if cache is None:
        measures, cached = measure(), False
    else:
        document, cached = cache.get_or_compute(evaluation_identity(settings, measured), _EVALUATIONS, measure)
        measures = document.result
    return CircuitEvaluation(measured.circuit, measures | {"conventions": measures["conventions"] | {"prompts": which}}, cached)


def require_evaluate(ablation: str, universe: str | None, n_random: int) -> Evaluate:
    """The settings of an evaluation from words; wrong names are found before anything runs.

    Raises
    ------
    UnknownNameError
        If there is no such ablation or universe.
    """
    return replace(Evaluate(ablation=ablation, n_random=n_random), parts=universe_parts(universe))  # type: ignore[arg-type]


def find_backups(model: Model, circuit: Circuit, scores: HeadScores, prompts: Prompts, seeds: int, cache: Cache | None) -> dict[str, Any]:
    """Heads that stand in for the circuit's strongest ones, on pairs that were not scored; `Backups.to_dict` with ``"seeds"``.

    Raises
    ------
    BadParameterError
        If the circuit holds no head.
    """
    where = scores.provenance
    batch, _ = held_out(model, prompts, where.task)
    metric = get_metric(batch.metric if where.weights_only else where.metric)
    finder, heads = BackupFinder(), strongest_heads(scores, circuit, seeds)
    names = [str(head) for head in heads]
    identity = {"version": _BACKUPS_VERSION, "finder": asdict(finder), "seeds": names, **batch_identity(model, batch, metric)}

    def search() -> dict[str, Any]:
        return finder(model, batch, metric, heads).to_dict()

    with CellProgress(f"{batch.task.id} x backups"):
        result = search() if cache is None else cache.get_or_compute(identity, _BACKUPS, search)[0].result
    return result | {"seeds": names}


def strongest_heads(scores: HeadScores, circuit: Circuit, n: int) -> list[Node]:
    """The heads of a circuit with the largest mean scores by magnitude.

    Raises
    ------
    BadParameterError
        If it holds no head.
    """
    ranked = [entry.node for entry in scores.top(scores.universe.n_layers * scores.universe.n_heads, "heads")]
    chosen = [node for node in ranked if isinstance(node, Head) and node in circuit.nodes][:n]
    if not chosen:
        what = "The circuit holds no head that another could back up."
        raise BadParameterError(what, "Do without backups, or ask for more heads or edges.")
    return list(chosen)
