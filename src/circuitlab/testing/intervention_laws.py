"""check_intervention: the laws that every intervention must obey on every model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import EditDidNotFireError, ModelError
from circuitlab.model.interventions import (
    Add,
    Composed,
    EditPattern,
    Intervention,
    KeepHeads,
    KeepKeys,
    Knockout,
    Project,
    Replace,
    Scale,
    compose,
)
from circuitlab.model.interventions.base import NodeEdit
from circuitlab.model.places import Places
from circuitlab.model.sites import Edit, Site
from circuitlab.testing.laws import LawResult, raise_on_failure

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.interventions.spots import Spot
    from circuitlab.model.protocol import Model

__all__ = ["check_intervention", "intervention_laws"]

_FAR = 1 << 20
_ALONE = 3


def check_intervention(intervention: Intervention, model: Model, batch: ContrastBatch) -> list[LawResult]:
    """Run every law on an intervention.

    Parameters
    ----------
    intervention : Intervention
        One of `circuitlab.interventions`, or your own.
    model : Model
        From `circuitlab.load_model`.
    batch : ContrastBatch
        Prompts for that model; of unequal lengths, to test padding.

    Returns
    -------
    list of LawResult
        One entry per law.

    Raises
    ------
    LawError
        If a law fails; the message lists each failed law with its value and tolerance.
    """
    name = f"intervention {intervention.describe()!r} on {model.spec.name!r}"
    return raise_on_failure(name, intervention_laws(intervention, model, batch))


def intervention_laws(intervention: Intervention, model: Model, batch: ContrastBatch) -> list[LawResult]:
    """Results of every law, without raising.

    Laws: a setting that changes nothing gives the unedited logits to the last bit; a position outside the prompts raises; the second of two
    interventions sees the result of the first; an edited value is what the tap makes of the unedited one, and writing that value with
    `Edit` gives the same logits; hooks agree with the functional decoder, if the model has one; padding and other prompts of the batch
    change nothing; the unedited model stays as it was; the edit is part of the edited model's identity.
    """
    before, identity = _logits(model, batch), model.spec.identity()
    results: list[LawResult] = []
    for law in (_nothing_to_do, _outside, _order):
        for part in intervention.parts if isinstance(intervention, Composed) else (intervention,):
            results += law(part, model, batch)
    for law in (_by_hand, _decoder, _padding):
        results += law(intervention, model, batch)
    results.append(_same("the unedited model stays as it was", _logits(model, batch) - before))
    changed = model.edited(intervention).spec.identity() != identity and model.spec.identity() == identity
    results.append(LawResult("the edit is part of the edited model's identity, and not of the model's", changed, float(not changed), 0.0))
    return results


def _logits(model: Model, batch: ContrastBatch) -> Tensor:
    return model.logits(batch.clean, batch.end, marks=batch.marks)


def _same(name: str, difference: Tensor) -> LawResult:
    """The result of a law that holds to the last bit."""
    value = float(difference.abs().max())
    return LawResult(name, value == 0, value, 0.0)


def _near(model: Model, name: str, difference: Tensor, values: Tensor) -> LawResult:
    factor = {"float64": 1e-8, "float32": 1e-4}.get(model.spec.dtype, 3e-2)
    value, tolerance = float(difference.abs().max()), factor * max(1.0, float(values.abs().max()))
    return LawResult(name, value <= tolerance, value, tolerance)


def _alone(batch: ContrastBatch) -> list[ContrastBatch]:
    """The first prompts one by one, without padding."""
    return [batch.select([pair]) for pair in range(min(_ALONE, batch.n_pairs))]


def _captured(model: Model, batch: ContrastBatch, target: tuple[Site, int]) -> Tensor:
    """The value of one site on the clean prompts of a batch, all of one length."""
    site, layer = target
    return model.capture(batch.clean, [site], layers=[layer], marks=batch.marks)[site][:, 0]


def _nothing_to_do(intervention: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    first = batch.select([0])
    off = _off(intervention, model, first)
    if off is not None:
        yield _same(
            "a setting that should change nothing gives the unedited logits", _logits(model.edited(off), first) - _logits(model, first)
        )


def _off(intervention: Intervention, model: Model, batch: ContrastBatch) -> Intervention | None:
    """The same kind of intervention at the same place, set to change nothing; None for kinds that this law does not know."""
    if isinstance(intervention, Scale):
        return replace(intervention, factor=1.0)
    if isinstance(intervention, Add):
        return replace(intervention, offset=torch.tensor(0.0))
    if isinstance(intervention, Project):
        return replace(intervention, basis=torch.zeros(0, intervention.basis.shape[-1]), keep=False)
    if isinstance(intervention, EditPattern | KeepHeads | KeepKeys):
        return _off_pattern(intervention, model)
    if isinstance(intervention, Replace | Knockout):
        return compose([_own_value(intervention, spot, model, batch) for spot in intervention.spots])
    return None


def _off_pattern(intervention: EditPattern | KeepHeads | KeepKeys, model: Model) -> Intervention:
    if isinstance(intervention, KeepHeads):
        return replace(intervention, keep=model.spec.n_heads)
    if isinstance(intervention, KeepKeys):
        return replace(intervention, window=_FAR)
    if intervention.how == "scale":
        return replace(intervention, factor=1.0)
    return EditPattern(intervention.heads, "block", keys=(), positions=intervention.positions)


def _own_value(intervention: NodeEdit, spot: Spot, model: Model, batch: ContrastBatch) -> Replace:
    value = _captured(model, batch, spot.target)
    value = value if spot.head is None else value[:, :, spot.head]
    return Replace(spot.node, value, batch, site=spot.site, positions=intervention.positions)


def _outside(intervention: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    """At positions that no prompt has, an edit must raise: otherwise it would look like an effect of zero."""
    if not isinstance(intervention, NodeEdit | EditPattern | KeepHeads | KeepKeys):
        return
    raised = False
    try:
        _logits(model.edited(replace(intervention, positions=_FAR)), batch)
    except EditDidNotFireError:
        raised = True
    yield LawResult("an edit outside every prompt raises", raised, float(not raised), 0.0)


def _order(intervention: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    if isinstance(intervention, EditPattern):
        other: Intervention = EditPattern(intervention.heads, "block", keys=0, positions=intervention.positions)
    elif isinstance(intervention, KeepKeys):
        # After an edit that leaves keys without weight, a compensation token is refused.
        other = KeepKeys(intervention.heads, sinks=2, compensate=intervention.compensate, positions=intervention.positions)
    elif isinstance(intervention, KeepHeads):
        other = KeepHeads(intervention.layers, 1, positions=intervention.positions)
    elif isinstance(intervention, NodeEdit):
        other = Add(intervention.nodes, 0.5, site=intervention.site, positions=intervention.positions)
    else:
        return
    pair = batch.select([0])
    target = min(intervention.targets, key=_forward)
    for first, second in ((intervention, other), (other, intervention)):
        both = _captured(model.edited(first, second), pair, target)
        value = _captured(model, pair, target)
        for single in (first, second):
            value = single.resolved(model).tap(Places.of(pair))(*target, value)
        yield _same("the second of two interventions sees the result of the first", both - value)


def _forward(target: tuple[Site, int]) -> tuple[int, int]:
    """Sort key: the order in which a forward pass computes sites."""
    order = [Site.RESID_PRE, Site.Q, Site.K, Site.V, Site.PATTERN, Site.Z, Site.ATTN_OUT, Site.RESID_MID, Site.MLP_OUT, Site.RESID_POST]
    return target[1], order.index(target[0])


def _by_hand(intervention: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    targets = sorted(intervention.targets, key=_forward)
    for pair in _alone(batch)[:1]:
        edited = model.edited(intervention)
        captured = [_captured(edited, pair, target) for target in targets]
        plain = _captured(model, pair, targets[0])
        before = plain.clone()
        tapped = intervention.resolved(model).tap(Places.of(pair))(*targets[0], plain)
        yield _same("a tap does not change the tensor that it gets", plain - before)
        yield _same("an edited value is what the tap makes of the unedited one", captured[0] - tapped)
        edits = [Edit(site, layer, value) for (site, layer), value in zip(targets, captured, strict=True)]
        by_hand = model.with_edits(edits).logits(pair.clean, pair.end)
        yield _near(model, "writing the edited values with Edit gives the same logits", by_hand - _logits(edited, pair), by_hand)


def _decoder(intervention: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    edited = model.edited(intervention)
    if reason := _refusal(model):
        same = _refusal(edited) == reason
        yield LawResult(
            "if the model has no functional decoder, neither has the edited model, for the same reason", same, float(not same), 0.0
        )
        return
    singles = _alone(batch)
    by_hooks = torch.cat([_logits(edited, single) for single in singles])
    final = [edited.decoder.final(single.clean, Places.of(single))[:, -1] for single in singles]
    yield _near(model, "hooks and the functional decoder agree", edited.unembed(torch.cat(final)) - by_hooks, by_hooks)


def _refusal(model: Model) -> str:
    """Why a model has no functional decoder that gives its logits; empty if it has one."""
    try:
        model.decoder  # noqa: B018 - built and checked on first use
        model.weights.final_norm  # noqa: B018 - the logits need it
    except ModelError as error:
        return error.what
    return ""


def _padding(intervention: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    edited = model.edited(intervention)
    together = _logits(edited, batch)
    alone = torch.cat([_logits(edited, single) for single in _alone(batch)])
    yield _near(model, "prompts of other lengths in the batch change nothing", together[: len(alone)] - alone, alone)
    padded = torch.nn.functional.pad(batch.clean, (0, 2))
    padded_logits = edited.logits(padded, batch.end, marks=batch.marks)
    yield _near(model, "padding on the right changes nothing", padded_logits - together, together)
