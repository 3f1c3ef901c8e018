"""Contextual decomposition (CD-T): the part of the metric that is due to each head and MLP, with every activation split in two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec
import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Embed, Head, KVHead, Mlp, Node
from circuitlab.execute.contract import fields_as_tuples, provenance_of
from circuitlab.execute.needs import prepared
from circuitlab.execute.nodes_in_trace import NodeSelection
from circuitlab.methods.decomposition import Options, Rule, Source
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    from circuitlab.core.provenance import ModelSpec
    from circuitlab.execute.cost import RunSize
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["ContextualDecomposition"]

_PARTS = ("heads", "kv_heads", "mlps", "embed")


@dataclass(frozen=True)
class ContextualDecomposition:
    """Relevance of each node to the metric (CD-T, Hsu et al. 2024).

    Every activation x of the clean run is split into two parts, x = b + c. At the source, c is a baseline and b is the difference of the
    source's output from it; below the source b = 0. The parts then pass through norms, projections, attention, activations and MLPs by
    fixed rules (`circuitlab.methods.decomposition.Rule`), and the score is the metric of the relevant logits. Each source has its own
    decomposition, and one pass computes many of them. Positive means that the node's output helps the answer.

    Parameters
    ----------
    rule : str
        A name in `circuitlab.methods.decomposition.RULES`, with changes (``"exact, gate=both"``). Under ``"ablation"`` (default) relevant
        is everything that would be missing without the source, with the scales of norms held. ``"exact"`` is the published rule without
        loss: a product or attention weight is relevant only through relevant factors, so that a source which only changes where later
        heads attend scores near zero. ``"published"`` also loses bias where both parts are tiny, and clips parts of opposite sign.
    baseline : {"corrupt", "mean", "zero"}
        The irrelevant part of a node's output: its output on the paired corrupt prompt; its mean over the corrupt prompts of the batch, as
        published (the scores of a pair then depend on the other pairs); or zero.
    parts : tuple of str
        Any of heads, kv_heads (keys and values together), mlps, embed.
    positions : tuple of str
        ``("all",)``, ``("each",)`` or marks of the task, at which a node's output is relevant.
    tokens_together : int
        Positions of all sources in one pass. It affects memory and time, not results.

    Notes
    -----
    Cost: two forward passes per pair, and for each node the part of a pass above its layer and after the first relevant position. Scores
    are not additive: what heads do jointly counts for each of them. The default differs from the paper because the published products
    miss every planted circuit that works through queries or keys, and their circuits on released weights are less faithful.
    ``provenance.measured`` holds the largest deviation of relevant + irrelevant from the activation, measured on a sample of sources with
    both parts carried, and ``bounded_share``: the share of values whose irrelevant part left the range of the activation while the scales
    of norms were held (the first MLP of some models, on some prompts), so that norms had to be bounded (`Rule`).

    Raises
    ------
    UnknownNameError
        If a rule, baseline, part or mark does not exist.
    BadParameterError
        If the positions cannot be scored together.
    ModelError
        If the model has no functional forward, or lacks another of `needs`.

    References
    ----------
    Hsu et al. (2024), Efficient Automated Circuit Discovery in Transformers using Contextual Decomposition, arXiv:2407.00886.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> scores = cl.score(planted.model, planted.batch(4), ContextualDecomposition())
    >>> [str(entry.node) for entry in scores.top(2)], sorted(map(str, planted.nodes))
    (['a1.h1', 'a1.h2'], ['a1.h1', 'a1.h2'])
    """

    name: ClassVar[str] = "contextual_decomposition"
    estimand: ClassVar[str] = "part of the metric that is due to what a node's output has beyond a baseline, by contextual decomposition"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("gradients", "neurons", "heads_apart", "plain_softmax", "unedited")
    cost: ClassVar[str] = "2 forward passes per pair, and per node and pair the part of one above its layer and after the first difference"
    cite: ClassVar[tuple[str, ...]] = ("hsu2024",)

    rule: str = "ablation"
    baseline: Literal["corrupt", "mean", "zero"] = "corrupt"
    parts: tuple[str, ...] = ("heads", "mlps")
    positions: tuple[str, ...] = ("all",)
    tokens_together: int = field(default=6144, metadata={"identity": False})

    def __post_init__(self) -> None:
        fields_as_tuples(self)
        object.__setattr__(self, "rule", str(Rule.parse(self.rule)))
        for part in self.parts:
            if part not in _PARTS:
                raise UnknownNameError("part", part, _PARTS)
        if not self.parts:
            raise BadParameterError("parts=() has nothing to score.", f"Name some of {_PARTS}.")
        NodeSelection(self.parts, "z", self.positions).check(_PARTS, ("z",))
        self.options.rule  # noqa: B018 - checks the baseline

    @property
    def options(self) -> Options:
        """Rule, baseline and sizes."""
        return Options(Rule.parse(self.rule), self.baseline, self.tokens_together)

    @property
    def contrastive(self) -> bool:
        """True with a corrupt baseline: nothing is relevant in equal prompts."""
        return self.baseline == "corrupt"

    @property
    def pooled(self) -> bool:
        """True with the mean as a baseline: the scores of a pair depend on the other pairs."""
        return self.baseline == "mean"

    def passes(self, size: RunSize) -> float:
        """Forward passes: one run for every node and position, from its layer on; over whole prompts unless the baseline is corrupt."""
        sources = size.nodes(self.parts) * size.places(self.positions)
        whole = replace(size, changed=1.0) if self.baseline != "corrupt" else size
        return whole.rerun(1.3 * sources)

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Score every node; parts have shape (pair[, mark], layer[, head]) in metric units."""
        from circuitlab.methods.decomposition.relevance import relevance_rows, relevance_to_metric  # noqa: PLC0415 - torch

        marks = NodeSelection(self.parts, "z", self.positions).marks(batch)
        sources = [source for part in self.parts for source in self._sources(part, model.spec, marks)]
        relevance = relevance_to_metric(model, batch, metric, sources, self.options, relevance_rows(batch, sources))
        gap = relevance.clean if self.baseline == "zero" else relevance.clean - relevance.corrupt
        arrays = {
            "total": gap,
            "clean": relevance.clean,
            "corrupt": relevance.corrupt,
            **self._shaped(relevance.values.T, model.spec, marks),
        }
        measured = {
            "invariant_error": relevance.invariant.error,
            "invariant_difference": relevance.invariant.difference,
            "bounded_share": float(relevance.bounded.mean()),
        }
        about = msgspec.structs.replace(provenance_of(self, model, batch, metric), measured=measured)
        return HeadScores.build(arrays, about, marks)

    def _sources(self, part: str, spec: ModelSpec, marks: tuple[str, ...] | None) -> Iterator[Source]:
        for mark in marks or (None,):
            for node in _nodes(part, spec):
                at = () if mark is None else (int(mark) if self.positions == ("each",) else mark,)
                yield Source((node,), at)

    def _shaped(self, values: np.ndarray, spec: ModelSpec, marks: tuple[str, ...] | None) -> dict[str, np.ndarray]:
        """Split (pair, source) into parts."""
        arrays, start = {}, 0
        for part in self.parts:
            axes = (*(() if marks is None else (len(marks),)), *_axes(part, spec))
            stop = start + int(np.prod(axes, dtype=int))
            arrays[part] = values[:, start:stop].reshape(-1, *axes)
            start = stop
        return arrays


def _axes(part: str, spec: ModelSpec) -> tuple[int, ...]:
    sizes = {"heads": (spec.n_layers, spec.n_heads), "kv_heads": (spec.n_layers, spec.n_kv_heads), "mlps": (spec.n_layers,), "embed": ()}
    return sizes[part]


def _nodes(part: str, spec: ModelSpec) -> Iterator[Node]:
    build = {"heads": Head, "kv_heads": KVHead, "mlps": Mlp, "embed": Embed}[part]
    return (build(*map(int, place)) for place in np.ndindex(_axes(part, spec)))
