"""Circuits picked from scores and run on fresh prompts with everything else ablated, beside random circuits of the same size."""

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
    """Pick each task's circuit by a rule, and run it alone.

    Parameters
    ----------
    tasks, methods : tuple of str
        Whose scores; all of the study by default.
    rule : str
        ``"top_k"``, ``"threshold"``, ``"cumulative"`` or ``"significant"`` heads, or ``"top_edges"`` or ``"greedy_edges"`` for methods
        that score edges.
    params : dict
        Parameters of the rule, such as ``k = 20``.
    ablation : str
        What everything outside the circuit is given.
    universe : str, optional
        ``"heads"`` keeps MLPs, ``"heads+mlps"`` ablates those outside the circuit; the kinds of node that the circuit holds otherwise.
    n : int, optional
        Fresh pairs; as many as were scored otherwise.
    n_random, n_subsets : int
        Random circuits of the circuit's size, and random subsets for completeness.
    n_band : int
        Random circuits of every other size of the curve, for the band; 0 leaves it out.
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
        """Pick, evaluate, and run random circuits of every size."""
        from circuitlab.metrics import get_metric  # noqa: PLC0415 - torch
        from circuitlab.workflows.prompts import held_out  # noqa: PLC0415

        (run,) = context.runs
        where = run.scores.provenance
        metric = get_metric(where.metric)
        scores = self._edge_scores(context, metric) if self._of_edges else run.scores
        circuit: Circuit = self._rule()(scores)
        batch, prompts = held_out(context.model, where.task.id, where.task, self.n)
        evaluate = self._evaluate()
        found = evaluate(circuit, context.model, batch, metric, scores)
        result = found.to_dict()
        result["conventions"] |= {"prompts": prompts}
        means = _means(scores)
        kept = [str(part) for part in (circuit.nodes if circuit.edges is None else circuit.edges)]
        return result | {
            "circuit": circuit.to_dict(),
            "scores": {name: means[name] for name in sorted(kept) if name in means},
            "band": self._band(found, evaluate, context.model, batch, metric),
        }

    def draw(self, found: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """For each cell the faithfulness curve with its random band, completeness, and the circuit as a diagram."""
        return [drawing for one in found for drawing in _drawings(one)]

    def table(self, found: Sequence[AnalysisResult]) -> Table:
        """One row per circuit."""
        headings = ("Task", "Method", "Circuit", "Faithfulness", "CPR", "CMD", "Incompleteness", "Random circuits", "p")
        return Table(headings, tuple(_row(one) for one in found))

    @property
    def _of_edges(self) -> bool:
        return self.rule.endswith("_edges")

    def _rule(self) -> Any:
        """The selection rule, which refuses values that it cannot use."""
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
        known = {field.name for field in dataclasses.fields(rules[self.rule])}
        for key in self.params:
            if key not in known:
                raise UnknownNameError(f"parameter of rule {self.rule}", key, known)
        try:
            return rules[self.rule](**self.params)
        except TypeError as error:
            what = f"Rule {self.rule} cannot take {self.params}: {error}."
            raise BadParameterError(what, f"Its parameters are {sorted(known)}.") from error

    def _evaluate(self) -> Evaluate:
        from circuitlab.evaluation import Evaluate  # noqa: PLC0415 - torch

        parts = None if self.universe is None else tuple(self.universe.split("+"))
        return Evaluate(ablation=self.ablation, parts=parts, n_random=self.n_random, n_subsets=self.n_subsets)

    def _edge_scores(self, context: AnalysisContext, metric: Metric) -> EdgeScores:
        """Edges on the pairs that were scored, from the cache where it has them."""
        from circuitlab.model.prepare import prepare_batch  # noqa: PLC0415 - torch
        from circuitlab.workflows.score import edges_of_batch  # noqa: PLC0415 - torch

        (run,) = context.runs
        where, method = run.scores.provenance, get_method(run.cell.method.name, run.cell.method.params)
        batch = prepare_batch(context.model, where.task.id, where.task.n_pairs, variant=where.task.variant, seed=where.task.seed)
        return edges_of_batch(context.model, batch, method, metric, where, store=context.store)

    def _band(self, found: Evaluation, evaluate: Evaluate, model: Model, batch: ContrastBatch, metric: Metric) -> list[dict[str, float]]:
        """Mean and range of random circuits at each size of the curve, and at the circuit's own size."""
        import numpy as np  # noqa: PLC0415

        from circuitlab.circuits.chance import random_masks  # noqa: PLC0415
        from circuitlab.evaluation import EdgeCircuitRunner, NodeCircuitRunner  # noqa: PLC0415 - torch

        curve = found.curves.get("absolute")
        if curve is None or not self.n_band:
            return []
        sizes = sorted({size for size in curve.sizes if 0 < size < found.n_elements} - {len(found.elements)})
        if found.circuit.edges is not None:
            runs: Any = EdgeCircuitRunner(model, batch, metric, self.ablation)
        else:
            runs = NodeCircuitRunner(model, batch, metric, _parts(found.circuit, self.universe), self.ablation)
        drawn = [
            random_masks(np.arange(found.n_elements) < size, np.zeros(found.n_elements, dtype=int), self.n_band, seed=evaluate.seed + size)
            for size in sizes
        ]
        shares = found.scale.draws(runs.metric_of(np.concatenate(drawn)))[0].reshape(len(sizes), -1) if sizes else np.empty((0, 1))
        rows = [_spread(size, row) for size, row in zip(sizes, shares, strict=True)]
        own = found.random_faithfulness
        return sorted([*rows, *([_spread(len(found.elements), own)] if own.size else [])], key=lambda row: row["size"])


def _spread(size: int, shares: np.ndarray) -> dict[str, float]:
    import numpy as np  # noqa: PLC0415

    low, high = np.quantile(shares, [0.025, 0.975])
    return {"size": size, "n": len(shares), "mean": float(shares.mean()), "low": float(low), "high": float(high)}


def _parts(circuit: Circuit, universe: str | None) -> tuple[str, ...]:
    """Universe of a circuit of nodes, as `Evaluate` chooses it."""
    from circuitlab.core.nodes import Mlp  # noqa: PLC0415

    if universe is not None:
        return tuple(universe.split("+"))
    kinds = {"mlps" if isinstance(node, Mlp) else "heads" for node in circuit.nodes}
    return tuple(part for part in ("heads", "mlps") if part in kinds) or ("heads",)


def _means(scores: HeadScores | EdgeScores) -> dict[str, float]:
    """Mean score by the name of a node or edge."""
    if isinstance(scores, EdgeScores):
        return {str(one.edge): one.mean for one in scores.edges()}
    return {str(one.node): one.mean for part in scores.parts for one in scores.nodes(part)}


def _drawings(found: AnalysisResult) -> list[StudyFigure]:
    from circuitlab import figures  # noqa: PLC0415 - plotly
    from circuitlab.circuits import Circuit  # noqa: PLC0415
    from circuitlab.core.nodes import parse_edge, parse_node  # noqa: PLC0415
    from circuitlab.figures.frame import method_title  # noqa: PLC0415

    result, (run,) = found.result, found.runs
    said, stem = f"{run.title}: {method_title(run.scores.provenance)}", f"circuits.{found.cell.key}"
    circuit = Circuit.from_dict(result["circuit"])
    unit: Literal["nodes", "edges"] = "nodes" if circuit.edges is None else "edges"
    subtitle = f"{run.scores.provenance.model.name} · {result['conventions']['prompts']} · run {run.run_id}"
    shown: list[tuple[str, Any, str]] = []
    if curves := _curves(result):
        figure = figures.faithfulness_curve(curves, _size_curve(result["band"]), unit=unit, title=f"{said}, kept alone", subtitle=subtitle)
        caption = (
            "How much of the behaviour the strongest heads keep as more of them are kept; the grey band is what as many heads drawn at "
            "random keep (middle 95 %)."
        )
        shown.append(("curve", figure, caption.replace("heads", unit) if unit == "edges" else caption))
    if whole := result["completeness"]:
        removals = _removals(whole)
        units = "share of the full model's effect"
        figure = figures.completeness_scatter(removals, units=units, title=f"{said}, is it complete?")
        caption = "Each dot removes some nodes from the circuit and from the whole model: on the diagonal both respond alike."
        shown.append(("completeness", figure, caption))
    if len(circuit) or circuit.edges:
        parse: Any = parse_node if circuit.edges is None else parse_edge
        means = {parse(name): number_or_nan(value) for name, value in result["scores"].items()}
        figure = figures.circuit_diagram(circuit, means, title=f"{said}, the circuit", subtitle=circuit.rule)
        shown.append(("diagram", figure, "The circuit, layers upward; orange nodes and dotted edges hinder the answer."))
    return [StudyFigure(f"{stem}.{kind}", "circuits", figure, found.runs, caption, (found.record_id,)) for kind, figure, caption in shown]


def _curves(result: Mapping[str, Any]) -> dict[str, SizeCurve]:
    names = {"absolute": "strongest first", "signed": "most helpful first"}
    curves = {names[by]: _size_curve(rows) for by, rows in (result["curve"] or {}).items()}
    return {name: curve for name, curve in curves.items() if curve is not None}


def _size_curve(rows: Sequence[Mapping[str, Any]]) -> SizeCurve | None:
    """A stored curve; the smallest fractions of a small model keep the same number of nodes, which is drawn once."""
    import numpy as np  # noqa: PLC0415

    from circuitlab.figures import SizeCurve  # noqa: PLC0415 - plotly

    once = list({row["size"]: row for row in rows}.values())
    if not once:
        return None
    columns = (np.array([number_or_nan(row[name]) for row in once]) for name in ("mean", "low", "high"))
    return SizeCurve(np.array([row["size"] for row in once]), *columns)


def _removals(whole: Mapping[str, Any]) -> list[Any]:
    from circuitlab.figures import Removal  # noqa: PLC0415 - plotly

    kinds = {"subsets": "random", "classes": "class", "greedy": "greedy"}
    return [Removal(row["name"], kind, row["circuit"], row["model"]) for name, kind in kinds.items() for row in whole.get(name, ())]


def _row(found: AnalysisResult) -> tuple[Any, ...]:
    result, (run,) = found.result, found.runs
    chance, whole = result["random"], result["completeness"]
    areas = [unsure(result[name]) if result[name] else None for name in ("cpr", "cmd")]
    spread = {"mean": chance["mean"], "low": chance["low"], "high": chance["high"]} if chance["n"] else None
    return (
        run.title,
        run.scores.provenance.method.replace("_", " "),
        f"{result['size']['elements']} of {result['size']['universe']}: {result['circuit']['rule']}",
        unsure(result["faithfulness"]),
        *areas,
        unsure(whole) if whole else None,
        spread,
        chance["p"],
    )
