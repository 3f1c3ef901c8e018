"""Find a circuit, and evaluate it on prompts that it was not selected on."""

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
from circuitlab.evaluation.identity import EvaluationInput, batch_identity, evaluation_identity
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
"""A rule that selects a circuit from scores of heads or of edges."""

_EVALUATIONS = Documents("evaluations")
_BACKUPS = Documents("backups", check=lambda document: _require_backups(document.result))
_BACKUPS_VERSION = 1
"""Version of the search for backups; stored searches of another version are not used."""
_UNIVERSES: dict[str | None, tuple[str, ...] | None] = {None: None, "heads": ("heads",), "heads+mlps": ("heads", "mlps")}


@dataclass(frozen=True, eq=False)
class CircuitEvaluation:
    """The evaluation of a circuit that is run with everything outside it ablated.

    Parameters
    ----------
    circuit : Circuit
        The circuit.
    measures : dict
        `Evaluation.to_dict`, as it is stored (NaN is None): ``faithfulness``, ``completeness``, ``minimality``, ``cpr``, ``cmd``,
        ``curve``, ``random``, ``conventions`` and more. ``conventions["prompts"]`` describes the prompts.
    cached : bool
        Whether the evaluation was found in the cache.
    """

    circuit: Circuit
    measures: dict[str, Any]
    cached: bool = False

    @property
    def faithfulness(self) -> dict[str, float]:
        """Share of the full model's effect that the circuit keeps, ``{"mean", "low", "high"}``: 1 is the full model, 0 the empty one."""
        return dict(self.measures["faithfulness"])

    def to_dict(self) -> dict[str, Any]:
        """The circuit and every measure, in the shape of ``circuitlab circuit --json``."""
        return self.circuit.to_dict() | self.measures | {"cached": self.cached}

    def rows(self) -> list[tuple[str, str]]:
        """Names of the measures and their values as text."""
        rows, measures = [("faithfulness", _interval(self.measures["faithfulness"]))], self.measures
        if (completeness := measures["completeness"]) is not None:
            rows.append(
                ("incompleteness", f"{_interval(completeness)}, worst {_number(completeness['worst'])} of {completeness['n']} subsets")
            )
        if (minimality := measures["minimality"]) is not None:
            rows.append(("least element's share", f"{minimality['least']:.3f}"))
        rows += [(name.upper(), _interval(measures[name])) for name in ("cpr", "cmd") if measures[name] is not None]
        chance = measures["random"]
        if chance["n"]:
            rows.append((f"{chance['n']} random circuits", f"{_interval(chance)}, p = {chance['p']:.3g}"))
        return rows

    def require_whole(self) -> None:
        """Read every measure that is shown; one that is missing, or of another type, raises what reading it raises."""
        self.rows()
        for name in ("universe", "ablated_value", "kept"):
            if not isinstance(self.measures["conventions"][name], str):
                raise TypeError(f"the convention {name} is {self.measures['conventions'][name]!r}")

    def _repr_html_(self) -> str:
        conventions = self.measures["conventions"]
        notes = [f"{conventions['universe']} outside the circuit: {conventions['ablated_value']}.", f"{conventions['prompts']}."]
        warning = "" if self.circuit.ready else "It is not shown that the model can do the task: shares of its effect may mean little."
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
    """Score a task and select its circuit.

    Parameters
    ----------
    model, prompts, method, n, variant, seed, metric, store
        As in `circuitlab.score`.
    rule : int or Rule
        A number of heads (those with the largest mean score by magnitude), or a rule such as ``Significant()`` or ``TopEdges(100)``.

    Returns
    -------
    Circuit
        The circuit, with the ids of the runs that it was selected from and whether the model can do the task.

    Raises
    ------
    BadParameterError
        If the rule selects edges and the method scores nodes, the rule asks for more heads than the model has, or the rule tests scores
        over prompt pairs and the method reads weights alone.

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
    picker: Any = TopK(rule) if isinstance(rule, int) else rule
    if isinstance(picker, TopK) and picker.part == "heads":
        require_heads(model, picker.k)
    if lacking := needs_pairs_for(picker):
        require_prompts(get_method(method), lacking)
    scoring = {"n": n, "variant": variant, "seed": seed, "metric": metric, "store": store}
    if isinstance(picker, TopEdges | GreedyEdges):
        return picker(score_edges(model, prompts, edge_method(method), **scoring))  # type: ignore[arg-type]
    circuit: Circuit = picker(score(model, prompts, get_method(method), **scoring))  # type: ignore[arg-type]
    return circuit


def require_heads(model: Model, k: int) -> None:
    """Raise `BadParameterError` unless the model has ``k`` heads; called before they are scored."""
    spec = model.spec
    if not 1 <= k <= spec.n_layers * spec.n_heads:
        what = f"A circuit of {k} heads was requested, but {spec.name} has {spec.n_layers * spec.n_heads}."
        raise BadParameterError(what, "Request fewer.")


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
    """Run a circuit with everything outside it ablated: how faithful, complete and minimal it is, compared with random circuits.

    Parameters
    ----------
    model : Model
        The model in which the circuit was found.
    circuit : Circuit
        The nodes or edges that are kept.
    prompts : str, Path, Task or ContrastBatch
        The prompts to run on. With ``scores``, the pairs that follow the scored ones, if the task has them, because a circuit looks more
        faithful than it is on the pairs that it was selected on. Otherwise the task's first ``n`` pairs.
    scores : HeadScores or EdgeScores, optional
        The scores that the circuit was selected from; they give the curve over sizes, CPR and CMD.
    settings : Evaluate, optional
        Ablation, universe, numbers of random circuits and subsets.
    n : int
        Number of pairs without ``scores``, or with scores from weights alone; otherwise as many as were scored.
    metric : str or Metric, optional
        By default that of the scores, or else the task's.
    store : Cache, str or Path, optional
        Cache in which the evaluation is looked up and stored.

    Returns
    -------
    CircuitEvaluation
        The measures; `CircuitEvaluation.faithfulness` is the share of the full model's effect that the circuit keeps.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")  # a small model whose circuit is known
    >>> evaluation = cl.evaluate(planted.model, cl.Circuit(["a1.h1", "a1.h2"]), planted.batch(4))
    >>> round(evaluation.faithfulness["mean"], 2)
    0.97
    >>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
    >>> cl.evaluate(model, cl.find_circuit(model, "ioi"), "ioi")  # doctest: +SKIP
    """
    if scores is None:
        batch = to_batch_of(model, prompts, Draws(n))
        which = f"the first {batch.n_pairs} pairs: numbers are optimistic if the circuit was picked on them"
    else:
        about = scores.provenance
        batch, which = held_out(model, prompts, about.task, n if about.weights_only else None)
        metric = metric or (batch.metric if about.weights_only else about.metric)
    measured = EvaluationInput(circuit.within(universe_of(model)), model, batch, get_metric(metric or batch.metric), scores)
    with CellProgress(f"{batch.task.id} x evaluation"):
        return evaluate_batch(measured, which, settings or Evaluate(), as_cache(store))


def evaluate_batch(measured: EvaluationInput, which: str, settings: Evaluate, cache: Cache | None) -> CircuitEvaluation:
    """Evaluate a circuit on a prepared batch, or load its evaluation from the cache; ``which`` describes the pairs."""

    def measure() -> dict[str, Any]:
        given = measured
        return settings(given.circuit, given.model, given.batch, given.metric, given.scores).to_dict()

    def read(measures: dict[str, Any], *, cached: bool) -> CircuitEvaluation:
        return CircuitEvaluation(measured.circuit, measures | {"conventions": measures["conventions"] | {"prompts": which}}, cached)

    if cache is None:
        return read(measure(), cached=False)
    codec = _EVALUATIONS.checked(lambda document: read(document.result, cached=True).require_whole())
    document, cached = cache.get_or_compute(evaluation_identity(settings, measured), codec, measure)
    return read(document.result, cached=cached)


def require_evaluate(ablation: str, universe: str | None, n_random: int) -> Evaluate:
    """The settings of an evaluation from names, which are checked before anything runs.

    Raises
    ------
    UnknownNameError
        If there is no such ablation or universe.
    """
    return replace(Evaluate(ablation=ablation, n_random=n_random), parts=universe_parts(universe))  # type: ignore[arg-type]


def find_backups(model: Model, circuit: Circuit, scores: HeadScores, prompts: Prompts, seeds: int, cache: Cache | None) -> dict[str, Any]:
    """Backups of the circuit's strongest heads, on pairs that were not scored; `Backups.to_dict` with ``"seeds"``.

    Raises
    ------
    BadParameterError
        If the circuit has no heads.
    """
    about = scores.provenance
    batch, _ = held_out(model, prompts, about.task)
    metric = get_metric(batch.metric if about.weights_only else about.metric)
    finder, heads = BackupFinder(), strongest_heads(scores, circuit, seeds)
    names = [str(head) for head in heads]
    identity = {"version": _BACKUPS_VERSION, "finder": asdict(finder), "seeds": names, **batch_identity(model, batch, metric)}

    def search() -> dict[str, Any]:
        return finder(model, batch, metric, heads).to_dict()

    with CellProgress(f"{batch.task.id} x backups"):
        result = search() if cache is None else cache.get_or_compute(identity, _BACKUPS, search)[0].result
    return result | {"seeds": names}


def _require_backups(result: Mapping[str, Any]) -> None:
    """Read what is shown of a search; data of another form raise."""
    numbers = [result["tested"], result["runs"]]
    for group in result["groups"]:
        numbers += [group[measure][limit] for measure in ("effect", "excess") for limit in ("mean", "low", "high")]
        if not all(isinstance(head, str) for head in group["heads"]):
            raise TypeError(f"the heads of a group are {group['heads']!r}")
    if odd := [number for number in numbers if number is not None and not isinstance(number, int | float)]:
        raise TypeError(f"{odd[0]!r} is no number")


def strongest_heads(scores: HeadScores, circuit: Circuit, n: int) -> list[Node]:
    """The heads of a circuit with the largest mean scores by magnitude.

    Raises
    ------
    BadParameterError
        If it has no heads.
    """
    ranked = [entry.node for entry in scores.top(scores.universe.n_layers * scores.universe.n_heads, "heads")]
    strongest = [node for node in ranked if isinstance(node, Head) and node in circuit.nodes][:n]
    if not strongest:
        what = "The circuit has no heads, so there is nothing to search backups for."
        raise BadParameterError(what, "Leave out backups, or select more heads or edges.")
    return list(strongest)
