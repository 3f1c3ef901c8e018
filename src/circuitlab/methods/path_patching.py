"""Path patching: replace a node's output by that of the other run along chosen paths only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.in_step import ByLayer
from circuitlab.core.nodes import Embed
from circuitlab.core.progress import step
from circuitlab.execute.arrangement import arrangement_on
from circuitlab.execute.checkpoint import PairRows
from circuitlab.execute.chunks import Chunks, Held, window_and_length
from circuitlab.execute.contract import fields_as_tuples, provenance_of
from circuitlab.execute.memory import PassSizes, fits_in
from circuitlab.execute.needs import is_streamed, prepared
from circuitlab.execute.paths import RunPair
from circuitlab.execute.reference import with_reference
from circuitlab.execute.routes import Direction, MlpRule, Route, parse_receiver, universe_of
from circuitlab.execute.sweeps import batch_by_length
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    from circuitlab.execute.cost import RunSize
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder.paths import Sender
    from circuitlab.model.protocol import Model

__all__ = ["PathPatching"]

_PARTS = ("heads", "mlps", "embed")


@dataclass(frozen=True)
class PathPatching:
    """Effect of a node on the metric through chosen inputs of later nodes (Wang et al. 2022; Goldowsky-Dill et al. 2023).

    The sender's output is taken from the other run while every other head keeps its output, so that the change travels along the
    residual stream, through MLPs or past them, but not through other heads. The new inputs of the receivers are recorded. Then the prompt
    is run again with only the receivers at their recorded values and everything after them recomputed. Denoising edits the corrupt run;
    the score is ``metric(patched) - metric(corrupt)``. Noising edits the clean run; the score is ``metric(clean) - metric(patched)``. In
    both cases positive means that the path helps the answer.

    Parameters
    ----------
    direction : {"denoising", "noising"}
        Whether the corrupt run (denoising) or the clean run (noising) is edited.
    senders : tuple of str
        Any of heads, mlps, embed; every node of these parts gets a score. A sender that comes after every receiver scores exactly 0.
    receivers : tuple of str
        Inputs at which paths end, all set together: ``logits`` (only by itself), queries of heads (``a10.h0<q>``), keys and values of
        key/value heads (``a7.kv0<k>``, ``a7.kv0<v>``), inputs of MLPs (``m5``), residual points (``r9.pre``, ``r9.mid``, ``r9.post``).
    via : tuple of str
        Intermediate inputs of heads or MLPs that the change must pass, in forward order. With ``via=("a9.h1<q>", "a12.kv1<k>")`` it
        enters the query of a9.h1, reaches the keys of a12.kv1 only through that head's output, and reaches the receivers only through
        the heads that read those keys.
    mlps : {"recomputed", "frozen"}
        Whether the MLPs between the named nodes respond to the change.
    positions : tuple of str
        ``("all",)``, or marks of the task, such as ``("S2", "END")``: one score per mark, with outputs replaced at that position only.
        Up to the first head on the path a change stays at its position, so the receivers (or the first of ``via``) are set there, too.
    pairs_per_pass, rows_per_block : int
        Most pairs in one pass, and rows that an MLP computes at once. They affect cost, not results.

    Notes
    -----
    The scores are exact and not additive. To the logits, a sender is one row per pair that only MLPs compute: heads x layers / 2 rows of
    MLP, without attention, at the answer position only. To other receivers there are such rows at every position that differs, and one
    run per sender and pair from the first receiver on. Keys and values belong to key/value heads and are never ungrouped. Wang et al.
    freeze q, k and v of every head; Merullo et al. (2024) freeze the output z of every other head at the answer position
    (``positions=("END",)``). With all heads frozen no output changes in either case, so that the receivers get the same values. ``total``
    is the clean-corrupt gap.

    References
    ----------
    Wang et al. (2022), arXiv:2211.00593. Goldowsky-Dill et al. (2023), Localizing model behavior with path patching,
    arXiv:2304.05969. Merullo, Eickhoff and Pavlick (2024), arXiv:2310.08744.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> scores = cl.score(planted.model, planted.batch(4), PathPatching())
    >>> [str(entry.node) for entry in scores.top(2)], sorted(map(str, planted.nodes))
    (['a1.h1', 'a1.h2'], ['a1.h1', 'a1.h2'])
    """

    name: ClassVar[str] = "path_patching"
    estimand: ClassVar[str] = "effect on the metric of swapping a node's output along the paths to chosen receivers, other heads frozen"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("gradients", "heads_apart")
    cost: ClassVar[str] = "to logits: pairs x nodes x layers / 2 MLP rows; else also pairs x nodes runs from the first receiver on"
    cite: ClassVar[tuple[str, ...]] = ("wang2022", "goldowsky2023", "merullo2024")

    direction: Direction = "denoising"
    senders: tuple[str, ...] = ("heads", "mlps")
    receivers: tuple[str, ...] = ("logits",)
    via: tuple[str, ...] = ()
    mlps: MlpRule = "recomputed"
    positions: tuple[str, ...] = ("all",)
    pairs_per_pass: int = field(default=8, metadata={"identity": False})
    rows_per_block: int = field(default=1024, metadata={"identity": False})

    @property
    def contrastive(self) -> bool:
        """Always true: equal prompts have no difference to swap."""
        return True

    @property
    def streamed_fault(self) -> str:
        """Why it cannot run on a streamed model; empty if it can."""
        return (
            "" if self.receivers == ("logits",) and not self.via else "paths to other receivers than the logits need several layers at once"
        )

    def __post_init__(self) -> None:
        fields_as_tuples(self)
        for part in self.senders:
            if part not in _PARTS:
                raise UnknownNameError("sender", part, _PARTS)
        if not self.senders or not self.positions or ("all" in self.positions and len(self.positions) > 1):
            what = f"senders={self.senders}, positions={self.positions} cannot be patched."
            raise BadParameterError(what, "Name at least one part, and either ('all',) or marks of the task.")
        if self.pairs_per_pass < 1 or self.rows_per_block < 1:
            what = f"pairs_per_pass={self.pairs_per_pass} or rows_per_block={self.rows_per_block} is less than 1."
            raise BadParameterError(what, "Use at least 1 of each.")
        self._route()

    def passes(self, size: RunSize) -> float:
        """Forward passes: to logits one row of MLPs for every sender; to other receivers also one run each, from the first receiver on."""
        senders = size.nodes(self.senders) * len(self.positions)
        if self.receivers == ("logits",) and not self.via:
            return size.pairs * (2 + senders / (3 * size.length))
        return size.rerun(2 * senders)

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Score every sender; parts have shape (pair[, mark], layer[, head]) in metric units."""
        batch = with_reference(model, metric, batch)
        route, senders = self._route(), self._senders(model)
        route.check(model, senders)
        marks = None if self.positions == ("all",) else self.positions
        places: tuple[str | None, ...] = marks or (None,)
        for mark in marks or ():
            batch.mark(mark)
        rows = PairRows.of(batch.n_pairs, {"clean": (), "corrupt": (), "effects": (len(places), len(senders))})
        chunks = self._chunks(model, batch, rows.todo)
        arranged = arrangement_on(model, chunks.fits)

        def scored(pairs: list[int]) -> ByLayer[dict[str, np.ndarray]]:
            runs = yield from RunPair.by_layer(model, batch.select(pairs), metric, self.direction)
            effects = yield from arranged.together(runs.effects_by_layer(route, senders, place) for place in places)
            return {"clean": runs.clean, "corrupt": runs.corrupt, "effects": np.stack([values.T for values in effects], axis=1)}

        for pairs, values in arranged.each(scored, chunks.pairs, self.name):
            rows.put(pairs, values)
            step(int(rows.done.sum()), batch.n_pairs)
        clean, corrupt, effects = (rows.arrays[name] for name in ("clean", "corrupt", "effects"))
        arrays = {"total": clean - corrupt, "clean": clean, "corrupt": corrupt, **self._shape(effects, model)}
        return HeadScores.build(arrays, provenance_of(self, model, batch, metric), marks)

    def chunks(self, model: Model, batch: ContrastBatch) -> Chunks:
        """Pairs that share a pass, and their memory."""
        return self._chunks(model, batch, range(batch.n_pairs))

    def _chunks(self, model: Model, batch: ContrastBatch, todo: Sequence[int]) -> Chunks:
        held, senders = Held(PassSizes.of(model), is_streamed(model)), len(self._senders(model)) * len(self.positions)

        def both(pairs: int, length: int) -> tuple[int, int]:
            return held.paths(pairs, length, senders)

        fits = fits_in(lambda _window, length: sum(both(1, length)), self.name)
        return Chunks(
            list(batch_by_length(batch, self.pairs_per_pass, todo, alike=not self._route().to_logits, fits=fits)),
            lambda pairs: both(len(pairs), window_and_length(batch, pairs)[1])[0],
            lambda pairs: both(len(pairs), window_and_length(batch, pairs)[1])[1],
        )

    def _route(self) -> Route:
        receivers, via = (tuple(dict.fromkeys(map(parse_receiver, names))) for names in (self.receivers, self.via))
        return Route(receivers, via, self.direction, self.mlps, self.rows_per_block)

    def _senders(self, model: Model) -> list[Sender]:
        universe = universe_of(model)
        nodes: dict[str, list[Sender]] = {"heads": [*universe.heads()], "mlps": [*universe.mlps()], "embed": [Embed()]}
        return [node for part in self.senders for node in nodes[part]]

    def _shape(self, effects: np.ndarray, model: Model) -> dict[str, np.ndarray]:
        """Split the last axis of (pair, mark, sender) into parts, and drop the mark axis if there are no marks."""
        layers, heads = model.spec.n_layers, model.spec.n_heads
        axes: dict[str, tuple[int, ...]] = {"heads": (layers, heads), "mlps": (layers,), "embed": ()}
        values = effects[:, 0] if self.positions == ("all",) else effects
        arrays, start = {}, 0
        for part in self.senders:
            stop = start + int(np.prod(axes[part], dtype=int))
            arrays[part] = values[..., start:stop].reshape(*values.shape[:-1], *axes[part])
            start = stop
        return arrays
