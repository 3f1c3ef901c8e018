"""Path patching: the effect of replacing a sender's output along a route, and nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.in_step import ByLayer, drained
from circuitlab.core.nodes import Embed, Head, Logits, Mlp, parse_node
from circuitlab.execute.arrangement import arrangement_on
from circuitlab.execute.needs import decoder_of, is_streamed
from circuitlab.execute.reference import with_reference
from circuitlab.execute.routes import Direction, MlpRule, Route, parse_receiver
from circuitlab.execute.sweeps import batch_by_length, metric_of_sweep

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder.decoder import Trace
    from circuitlab.model.decoder.layer import LayerTrace
    from circuitlab.model.decoder.paths import Change, Sender
    from circuitlab.model.decoder.receivers import Receiver
    from circuitlab.model.protocol import Model

__all__ = ["PathEffect", "RunPair", "path_effect"]

_Kept = TypeVar("_Kept")

_LARGEST = 1 << 25  # most entries in the edits, or the logits, of one part of a sweep


@dataclass(frozen=True, eq=False)
class RunPair:
    """The edited and the source run of some pairs, with every intermediate value, and the metric of both.

    Parameters
    ----------
    model, metric, batch : Model, Metric, ContrastBatch
        The model, the metric and the pairs.
    edited, source : Trace
        The run that is edited, and the run that outputs are taken from.
    clean, corrupt : ndarray, shape (pair,)
        The metric of the unedited runs.
    direction : {"denoising", "noising"}
        Whether the corrupt run is edited with clean outputs, or the clean run with corrupt ones.
    """

    model: Model
    metric: Metric
    batch: ContrastBatch
    edited: Trace
    source: Trace
    clean: np.ndarray
    corrupt: np.ndarray
    direction: Direction

    @classmethod
    def of(cls, model: Model, batch: ContrastBatch, metric: Metric, direction: Direction) -> RunPair:
        """Run both prompts of every pair."""
        return drained(cls.by_layer(model, batch, metric, direction))

    @classmethod
    def by_layer(cls, model: Model, batch: ContrastBatch, metric: Metric, direction: Direction) -> ByLayer[RunPair]:
        """`of` as work that goes through the layers; of a streamed model only what paths to the logits need is kept."""
        import torch  # noqa: PLC0415

        from circuitlab.model.decoder.taps import NO_SUM, STREAM  # noqa: PLC0415 - torch
        from circuitlab.model.places import Places  # noqa: PLC0415 - torch

        decoder, keep = decoder_of(model).refusing(STREAM, NO_SUM), _without_attention if is_streamed(model) else _whole
        traces = [decoder.traced_by_layer(Places.of(batch, tokens), keep) for tokens in (batch.clean, batch.corrupt)]
        clean, corrupt = yield from arrangement_on(model).together(traces)
        with torch.no_grad():
            values = [_read(model, metric, batch, _at_end(run.final, batch)) for run in (clean, corrupt)]
        edited, source = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
        return cls(model, metric, batch, edited, source, values[0], values[1], direction)

    def effects(self, route: Route, senders: Sequence[Sender], mark: str | None = None) -> np.ndarray:
        """Effect of every sender along a route, (sender, pair), positive where the node helps; exactly 0 where nothing changes.

        With ``mark``, outputs are replaced at that position only, otherwise at all positions.
        """
        return drained(self.effects_by_layer(route, senders, mark))

    def effects_by_layer(self, route: Route, senders: Sequence[Sender], mark: str | None = None) -> ByLayer[np.ndarray]:
        """`effects` as work that goes through the layers."""
        import torch  # noqa: PLC0415

        arrivals = yield from self._arrivals(route, senders, mark)
        with torch.no_grad():
            if route.to_logits:
                return self._to_logits(arrivals[route.receivers[0]], len(senders))
            # A receiver is set where outputs were replaced; after a hop that can be any position.
            place = None if mark is None or route.via else self.batch.mark(mark)
            return self._downstream(route, arrivals, len(senders), place)

    def _arrivals(self, route: Route, senders: Sequence[Sender], mark: str | None) -> ByLayer[dict[Receiver, Change]]:
        """The change of the residual stream at each receiver."""
        from circuitlab.model.decoder.paths import carry_by_layer, join_point, sender_changes_when_asked  # noqa: PLC0415 - torch
        from circuitlab.model.decoder.receivers import hop  # noqa: PLC0415 - torch

        decoder, size = decoder_of(self.model), route.rows_per_block
        steps: list[tuple[Receiver, ...]] = [*((receiver,) for receiver in route.via), route.receivers]
        latest = max(receiver.point(decoder) for receiver in steps[0])
        early = {i: sender for i, sender in enumerate(senders) if join_point(sender) <= latest}
        joins = sender_changes_when_asked(decoder, self.edited, self.source, early, self._places(mark, steps[0]))
        for number, receivers in enumerate(steps):
            points = {receiver: receiver.point(decoder) for receiver in receivers}
            recompute = route.mlps == "recomputed"
            changes = yield from carry_by_layer(decoder, self.edited, joins, set(points.values()), recompute=recompute, rows_per_block=size)
            if number + 1 < len(steps):
                (receiver,) = receivers
                hopped = hop(decoder, self.edited, receiver, changes[points[receiver]], self._places(None, steps[number + 1]), size)
                joins = {point: functools.partial(_whole, change) for point, change in hopped.items()}
        return {receiver: changes[point] for receiver, point in points.items()}

    def _places(self, mark: str | None, receivers: Sequence[Receiver]) -> Tensor:
        """Positions at which a change can have an effect, (pair, pos): from the first difference to the answer position, or one mark."""
        import torch  # noqa: PLC0415

        batch = self.batch
        pos = torch.arange(batch.clean.shape[1])[None]
        keep = (pos >= batch.first_difference()[:, None]) & batch.mask
        if mark is not None:
            keep = keep & (pos == batch.mark(mark)[:, None])
        if all(isinstance(receiver.node, Logits) for receiver in receivers):
            keep = keep & (pos == batch.end[:, None])
        return keep.to(self.edited.final.device)

    def _signed(self, patched: np.ndarray, touched: np.ndarray) -> np.ndarray:
        denoising = self.direction == "denoising"
        effect = patched - self.corrupt if denoising else self.clean - patched
        return np.where(touched, effect, 0.0)

    def _to_logits(self, change: Change, n_senders: int) -> np.ndarray:
        """Effects of a path that ends at the logits, read at the answer position of the last residual stream."""
        final = _at_end(self.edited.final, self.batch)
        effects = np.zeros((n_senders, len(final)))
        width = self.model.spec.d_vocab if self.metric.whole_vocabulary else final.shape[-1]
        live = change.sender.unique()
        for senders in live.split(max(1, _LARGEST // (len(final) * width))):
            rows, slot = _slots(change, senders)
            resid = final.repeat(len(senders), 1, 1)
            resid[slot, rows.pair] += rows.value
            touched = _touched(rows, slot, len(senders), len(final))
            effects[senders.cpu().numpy()] = self._signed(_read(self.model, self.metric, self.batch, resid), touched)
        return effects

    def _downstream(self, route: Route, changes: dict[Receiver, Change], n_senders: int, place: Tensor | None) -> np.ndarray:
        """Effects of setting the receivers to their new values and recomputing everything downstream."""
        import torch  # noqa: PLC0415

        pairs, length = self.batch.clean.shape
        effects = np.zeros((n_senders, pairs))
        width = sum(receiver.unedited(self.edited).shape[-1] for receiver in changes)
        live = torch.cat([change.sender for change in changes.values()]).unique()
        for senders in live.split(max(1, _LARGEST // (pairs * length * width))):
            effects[senders.cpu().numpy()] = self._sweep(route, changes, senders, place)
        return effects

    def _sweep(self, route: Route, changes: dict[Receiver, Change], senders: Tensor, place: Tensor | None) -> np.ndarray:
        from circuitlab.model.sites import Edit, EditSet  # noqa: PLC0415

        edits: list[list[Edit]] = [[] for _ in senders]
        touched = np.zeros((len(senders), self.batch.n_pairs), dtype=bool)
        start = self.batch.clean.shape[1]
        for receiver, change in changes.items():
            rows, slot = _slots(change, senders)
            if not len(rows):
                continue
            start = min(start, int(rows.pos.min()))
            value = receiver.unedited(self.edited).repeat(len(senders), 1, 1, 1)
            value[slot, rows.pair, rows.pos] = receiver.arriving(self.model.decoder, self.edited, rows, route.rows_per_block)
            touched |= _touched(rows, slot, len(senders), self.batch.n_pairs)
            for index in slot.unique().tolist():
                edits[index].append(receiver.edit(value[index], place))
        sweep = [EditSet(tuple(edits_of_sender), start) for edits_of_sender in edits]
        tokens = self.batch.corrupt if self.direction == "denoising" else self.batch.clean
        return self._signed(metric_of_sweep(self.model, self.metric, self.batch, tokens, sweep), touched)


def _whole(kept: _Kept) -> _Kept:
    return kept


def _without_attention(layer: LayerTrace) -> LayerTrace:
    """A layer's values without what no path to the logits reads, so that it can be freed."""
    empty = layer.resid_pre.new_empty(0)
    return replace(
        layer, attn_in=empty, projected=(empty, empty, empty), q=empty, k=empty, v=empty, pattern=empty, attn_out=empty, mlp_in=empty
    )


def _at_end(whole: Tensor, batch: ContrastBatch) -> Tensor:
    return whole[range(batch.n_pairs), batch.end.to(whole.device)]


def _read(model: Model, metric: Metric, batch: ContrastBatch, resid: Tensor) -> np.ndarray:
    """The metric, from residual streams (..., pair, d_model) leaving the last layer."""
    ids, token_batch = (None, batch) if metric.whole_vocabulary else batch.over_tokens()
    return np.asarray(metric(model.unembed(resid, ids).double(), token_batch).cpu())


def _slots(change: Change, senders: Tensor) -> tuple[Change, Tensor]:
    """The rows of some senders (sorted), and the index of each row's sender among them."""
    import torch  # noqa: PLC0415

    rows = change.select(torch.isin(change.sender, senders))
    return rows, torch.searchsorted(senders, rows.sender)


def _touched(rows: Change, slot: Tensor, n_senders: int, n_pairs: int) -> np.ndarray:
    touched = np.zeros((n_senders, n_pairs), dtype=bool)
    touched[slot.cpu().numpy(), rows.pair.cpu().numpy()] = True
    return touched


@dataclass(frozen=True, eq=False)
class PathEffect:
    """The effect of one path on every pair, in metric units.

    Parameters
    ----------
    path : str
        Canonical name, such as ``"a5.h1->a9.h1<q>->logits"``.
    values, clean, corrupt : ndarray, shape (pair,)
        Effect (positive where the path helps the answer), and the metric of the unedited runs.
    """

    path: str
    values: np.ndarray
    clean: np.ndarray
    corrupt: np.ndarray


def path_effect(
    model: Model,
    batch: ContrastBatch,
    metric: Metric,
    path: str | Sequence[str],
    *,
    direction: Direction = "denoising",
    mlps: MlpRule = "recomputed",
) -> PathEffect:
    """The effect of replacing one node's output along one path, at all positions.

    Parameters
    ----------
    model, batch, metric : Model, ContrastBatch, Metric
        The model, the pairs and the metric.
    path : str or sequence of str
        Sender, intermediate inputs and receiver: ``"a2.h1->a9.h1<q>->a12.kv1<k>->logits"``, or a sequence of these names.
    direction : {"denoising", "noising"}
        Whether the corrupt run gets the sender's clean output, or the clean run its corrupt output.
    mlps : {"recomputed", "frozen"}
        Whether MLPs between the named nodes respond.

    Raises
    ------
    BadParameterError
        If the path has fewer than two nodes, a name is wrong or outside the model, or a step runs backwards.

    Notes
    -----
    At each intermediate input only that input takes its new value, with all other heads frozen. After the receiver, unless it is the
    logits, everything downstream is recomputed (Wang et al. 2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969).
    """
    names = [name.strip() for name in (path.split("->") if isinstance(path, str) else path)]
    if len(names) < 2:  # noqa: PLR2004 - both ends
        what = f"{path!r} is not a path."
        raise BadParameterError(what, "Name a sender and a receiver, for example a9.h6->logits.")
    sender = parse_node(names[0])
    if not isinstance(sender, Head | Mlp | Embed):
        what = f"{sender} cannot send a path."
        raise BadParameterError(what, "Begin with a head (a9.h6), an MLP (m3) or embed.")
    *via, last = map(parse_receiver, names[1:])
    route = Route((last,), tuple(via), direction, mlps)
    route.check(model, [sender])
    batch = with_reference(model, metric, batch)
    values, clean, corrupt = (np.zeros(batch.n_pairs) for _ in range(3))
    for pairs in batch_by_length(batch, 8, alike=not route.to_logits):
        runs = RunPair.of(model, batch.select(pairs), metric, direction)
        values[pairs], clean[pairs], corrupt[pairs] = runs.effects(route, [sender])[0], runs.clean, runs.corrupt
    return PathEffect("->".join([str(sender), *map(str, via), str(last)]), values, clean, corrupt)
