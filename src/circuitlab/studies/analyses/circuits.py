"""Circuits selected from scores and run on other prompts with everything else ablated, compared with random circuits of equal size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.methods import get_method
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.studies.analyses.base import number_or_nan, select_cells, unsure
from circuitlab.studies.types import Analysis, AnalysisCell, AnalysisContext, AnalysisResult, StudyFigure, Table

if TYPE_CHECKING:
    import numpy as np

    from circuitlab.circuits import Circuit
    from circuitlab.evaluation import Evaluate, Evaluation
    from circuitlab.figures import SizeCurve
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.studies.types import StudySpec

__all__ = ["Circuits"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Number = Annotated[int, msgspec.Meta(ge=0)]


class Circuits(Analysis, frozen=True, forbid_unknown_fields=True):
    """Select each task's circuit by a rule, and run it with everything else ablated.

    Parameters
    ----------
    tasks, methods : tuple of str
        Tasks and methods whose scores are read; all of the study by default.
    rule : str
        ``"top_k"``, ``"threshold"``, ``"cumulative"`` or ``"significant"`` heads, or ``"top_edges"`` or ``"greedy_edges"`` for methods
        that score edges.
    params : dict
        Parameters of the rule, such as ``k = 20``.
    ablation : str
        The value of everything outside the circuit.
    universe : str, optional
        ``"heads"`` keeps MLPs, ``"heads+mlps"`` ablates those outside the circuit; by default the kinds of node in the circuit.
    n : int, optional
        Number of pairs that were not scored; by default as many as were scored.
    n_random, n_subsets : int
        Number of random circuits of the circuit's size, and of random subsets for completeness.
    n_band : int
        Number of random circuits of every other size of the curve, for the band; 0 leaves it out.
    """

    name: ClassVar[str] = "circuits"
    title: ClassVar[str] = "Do these circuits carry the behaviour?"
    about: ClassVar[str] = (
        "Each circuit is run alone on prompts that it was not picked on, with everything outside it ablated. Faithfulness 1 means that it "
        "does what the whole model does, 0 that it does no more than a model without it."
    )
    place: ClassVar[int] = 30
    cite: ClassVar[tuple[str, ...]] = ("wang2022",)

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    rule: str = "top_k"
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    ablation: Literal["resample", "zero", "mean", "mean_by_mark", "mean_by_template"] = "resample"
    universe: Literal["heads", "heads+mlps"] | None = None
    n: Count | None = None
    n_random: Number = 100
    n_subsets: Number = 10
    n_band: Number = 20

    def cells(self, study: StudySpec) -> list[AnalysisCell]:
        """One cell for each task and method."""
        self._rule()
        cells = select_cells(study, self.tasks, self.methods)
        if self._of_edges:
            from circuitlab.workflows.score import edge_method  # noqa: PLC0415 - torch

            for cell in cells:
                edge_method(get_method(cell.method.name, cell.method.params))
        suffix = "" if self.rule == "top_k" else f".{self.rule}"
        cost = 20 + self.n_random + 2 * self.n_subsets + 8 * self.n_band
        return [AnalysisCell(self, study.slug(cell) + suffix, (cell,), cost * (self.n or cell.n)) for cell in cells]

    def run(self, context: AnalysisContext) -> dict[str, Any]:
        """Select a circuit, evaluate it, and run random circuits of every size."""
        from circuitlab.metrics import get_metric  # noqa: PLC0415 - torch
        from circuitlab.workflows.prompts import held_out  # noqa: PLC0415

        (run,) = context.runs
        provenance = run.scores.provenance
        metric = get_metric(provenance.metric)
        scores = self._edge_scores(context, metric) if self._of_edges else run.scores
        circuit: Circuit = self._rule()(scores)
        batch, prompts = held_out(context.model, provenance.task.id, provenance.task, self.n)
        evaluate = self._evaluate()
        evaluation = evaluate(circuit, context.model, batch, metric, scores)
        result = evaluation.to_dict()
        result["conventions"] |= {"prompts": prompts}
        means = _means(scores)
        kept = [str(part) for part in (circuit.nodes if circuit.edges is None else circuit.edges)]
        return result | {
            "circuit": circuit.to_dict(),
            "scores": {name: means[name] for name in sorted(kept) if name in means},
            "band": self._band(evaluation, evaluate, context.model, batch, metric),
        }

    def draw(self, results: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """For each cell the faithfulness curve with the band of random circuits, completeness, and the circuit as a diagram."""
        return [drawing for result in results for drawing in _drawings(result)]

    def table(self, results: Sequence[AnalysisResult]) -> Table:
        """One row per circuit."""
        headings = ("Task", "Method", "Circuit", "Faithfulness", "CPR", "CMD", "Incompleteness", "Random circuits", "p")
        return Table(headings, tuple(_row(result) for result in results))

    @property
    def _of_edges(self) -> bool:
        return self.rule.endswith("_edges")

    def _rule(self) -> Any:
        """The selection rule; raises for invalid parameters."""
        from circuitlab import circuits  # noqa: PLC0415

        rules = {
            "top_k": circuits.TopK,
            "threshold": circuits.Threshold,
            "cumulative": circuits.Cumulative,
            "significant": circuits.Significant,
            "top_edges": circuits.TopEdges,
            "greedy_edges": circuits.GreedyEdges,
        }
        if self.rule not in rules:
            raise UnknownNameError("rule of circuits", self.rule, rules)
        parameters = {field.name for field in dataclasses.fields(rules[self.rule])}
        for key in self.params:
            if key not in parameters:
                raise UnknownNameError(f"parameter of rule {self.rule}", key, parameters)
        try:
            return rules[self.rule](**self.params)
        except TypeError as error:
            what = f"Rule {self.rule} cannot take {self.params}: {error}."
            raise BadParameterError(what, f"Its parameters are {sorted(parameters)}.") from error

    def _evaluate(self) -> Evaluate:
        from circuitlab.evaluation import Evaluate  # noqa: PLC0415 - torch

        parts = None if self.universe is None else tuple(self.universe.split("+"))
        return Evaluate(ablation=self.ablation, parts=parts, n_random=self.n_random, n_subsets=self.n_subsets)

    def _edge_scores(self, context: AnalysisContext, metric: Metric) -> EdgeScores:
        """Scores of edges on the pairs whose nodes were scored; loaded from the cache if stored."""
        from circuitlab.model.prepare import prepare_batch  # noqa: PLC0415 - torch
        from circuitlab.workflows.score import edges_of_batch  # noqa: PLC0415 - torch

        (run,) = context.runs
        provenance, method = run.scores.provenance, get_method(run.cell.method.name, run.cell.method.params)
        batch = prepare_batch(
            context.model, provenance.task.id, provenance.task.n_pairs, variant=provenance.task.variant, seed=provenance.task.seed
        )
        return edges_of_batch(context.model, batch, method, metric, provenance, store=context.store)

    def _band(
        self, evaluation: Evaluation, evaluate: Evaluate, model: Model, batch: ContrastBatch, metric: Metric
    ) -> list[dict[str, float]]:
        """Mean and middle 95 % of random circuits at each size of the curve, and at the circuit's size."""
        import numpy as np  # noqa: PLC0415

        from circuitlab.circuits.chance import random_masks  # noqa: PLC0415
        from circuitlab.evaluation import EdgeCircuitRunner, NodeCircuitRunner  # noqa: PLC0415 - torch

        curve = evaluation.curves.get("absolute")
        if curve is None or not self.n_band:
            return []
        sizes = sorted({size for size in curve.sizes if 0 < size < evaluation.n_elements} - {len(evaluation.elements)})
        if evaluation.circuit.edges is not None:
            runs: Any = EdgeCircuitRunner(model, batch, metric, self.ablation)
        else:
            runs = NodeCircuitRunner(model, batch, metric, _parts(evaluation.circuit, self.universe), self.ablation)
        drawn = [
            random_masks(
                np.arange(evaluation.n_elements) < size, np.zeros(evaluation.n_elements, dtype=int), self.n_band, seed=evaluate.seed + size
            )
            for size in sizes
        ]
        shares = evaluation.scale.draws(runs.metric_of(np.concatenate(drawn)))[0].reshape(len(sizes), -1) if sizes else np.empty((0, 1))
        rows = [_spread(size, row) for size, row in zip(sizes, shares, strict=True)]
        of_same_size = evaluation.random_faithfulness
        return sorted(
            [*rows, *([_spread(len(evaluation.elements), of_same_size)] if of_same_size.size else [])], key=lambda row: row["size"]
        )


def _spread(size: int, shares: np.ndarray) -> dict[str, float]:
    import numpy as np  # noqa: PLC0415

    low, high = np.quantile(shares, [0.025, 0.975])
    return {"size": size, "n": len(shares), "mean": float(shares.mean()), "low": float(low), "high": float(high)}


def _parts(circuit: Circuit, universe: str | None) -> tuple[str, ...]:
    """The universe of a circuit of nodes, as `Evaluate` chooses it."""
    from circuitlab.core.nodes import Mlp  # noqa: PLC0415

    if universe is not None:
        return tuple(universe.split("+"))
    kinds = {"mlps" if isinstance(node, Mlp) else "heads" for node in circuit.nodes}
    return tuple(part for part in ("heads", "mlps") if part in kinds) or ("heads",)


def _means(scores: HeadScores | EdgeScores) -> dict[str, float]:
    """Mean score by the name of a node or edge."""
    if isinstance(scores, EdgeScores):
        return {str(entry.edge): entry.mean for entry in scores.edges()}
    return {str(entry.node): entry.mean for part in scores.parts for entry in scores.nodes(part)}


def _drawings(analysis_result: AnalysisResult) -> list[StudyFigure]:
    from circuitlab import figures  # noqa: PLC0415 - plotly
    from circuitlab.circuits import Circuit  # noqa: PLC0415
    from circuitlab.core.nodes import parse_edge, parse_node  # noqa: PLC0415
    from circuitlab.figures.frame import method_title  # noqa: PLC0415

    result, (run,) = analysis_result.result, analysis_result.runs
    heading, stem = f"{run.title}: {method_title(run.scores.provenance)}", f"circuits.{analysis_result.cell.key}"
    circuit = Circuit.from_dict(result["circuit"])
    unit: Literal["nodes", "edges"] = "nodes" if circuit.edges is None else "edges"
    subtitle = f"{run.scores.provenance.model.name} · {result['conventions']['prompts']} · run {run.run_id}"
    shown: list[tuple[str, Any, str]] = []
    if curves := _curves(result):
        figure = figures.faithfulness_curve(
            curves, _size_curve(result["band"]), unit=unit, title=f"{heading}, kept alone", subtitle=subtitle
        )
        caption = (
            "How much of the behaviour the strongest heads keep as more of them are kept; the grey band is what as many heads drawn at "
            "random keep (middle 95 %)."
        )
        shown.append(("curve", figure, caption.replace("heads", unit) if unit == "edges" else caption))
    if completeness := result["completeness"]:
        removals = _removals(completeness)
        units = "share of the full model's effect"
        figure = figures.completeness_scatter(removals, units=units, title=f"{heading}, is it complete?")
        caption = "Each dot removes some nodes from the circuit and from the whole model: on the diagonal both respond alike."
        shown.append(("completeness", figure, caption))
    if len(circuit) or circuit.edges:
        parse: Any = parse_node if circuit.edges is None else parse_edge
        means = {parse(name): number_or_nan(value) for name, value in result["scores"].items()}
        figure = figures.circuit_diagram(circuit, means, title=f"{heading}, the circuit", subtitle=circuit.rule)
        shown.append(("diagram", figure, "The circuit, layers upward; orange nodes and dotted edges hinder the answer."))
    return [
        StudyFigure(f"{stem}.{kind}", "circuits", figure, analysis_result.runs, caption, (analysis_result.record_id,))
        for kind, figure, caption in shown
    ]


def _curves(result: Mapping[str, Any]) -> dict[str, SizeCurve]:
    names = {"absolute": "strongest first", "signed": "most helpful first"}
    curves = {names[by]: _size_curve(rows) for by, rows in (result["curve"] or {}).items()}
    return {name: curve for name, curve in curves.items() if curve is not None}


def _size_curve(rows: Sequence[Mapping[str, Any]]) -> SizeCurve | None:
    """A stored curve without repeated sizes: in a small model several small fractions keep the same number of nodes."""
    import numpy as np  # noqa: PLC0415

    from circuitlab.figures import SizeCurve  # noqa: PLC0415 - plotly

    rows_by_size = list({row["size"]: row for row in rows}.values())
    if not rows_by_size:
        return None
    columns = (np.array([number_or_nan(row[name]) for row in rows_by_size]) for name in ("mean", "low", "high"))
    return SizeCurve(np.array([row["size"] for row in rows_by_size]), *columns)


def _removals(completeness: Mapping[str, Any]) -> list[Any]:
    from circuitlab.figures import Removal  # noqa: PLC0415 - plotly

    kinds = {"subsets": "random", "classes": "class", "greedy": "greedy"}
    return [Removal(row["name"], kind, row["circuit"], row["model"]) for name, kind in kinds.items() for row in completeness.get(name, ())]


def _row(analysis_result: AnalysisResult) -> tuple[Any, ...]:
    result, (run,) = analysis_result.result, analysis_result.runs
    chance, completeness = result["random"], result["completeness"]
    areas = [unsure(result[name]) if result[name] else None for name in ("cpr", "cmd")]
    spread = {"mean": chance["mean"], "low": chance["low"], "high": chance["high"]} if chance["n"] else None
    return (
        run.title,
        run.scores.provenance.method.replace("_", " "),
        f"{result['size']['elements']} of {result['size']['universe']}: {result['circuit']['rule']}",
        unsure(result["faithfulness"]),
        *areas,
        unsure(completeness) if completeness else None,
        spread,
        chance["p"],
    )
