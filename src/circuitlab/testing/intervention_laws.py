"""check_intervention: the laws every intervention must obey on every model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import EditDidNotFireError, ModelError
from circuitlab.model.interventions import Add, Composed, EditPattern, Intervention, Knockout, Project, Replace, Scale, compose
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
        Prompts for that model; of unequal lengths, so that padding is tested.

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
    """Every law's result, without raising.

    Laws: the setting that changes nothing gives the unedited logits to the last bit; a position outside the prompts raises; of two
    interventions the second sees what the first made; an edited value is the tap's value of the unedited one, and the run equals one with
    that value written by hand; hooks and the functional decoder agree, where the model has one; padding and other prompts beside one
    change nothing; the model itself stays as it was; the edit is in the model's identity.
    """
    before, identity = _logits(model, batch), model.spec.identity()
    found: list[LawResult] = []
    for law in (_nothing_to_do, _outside, _order):
        for part in intervention.parts if isinstance(intervention, Composed) else (intervention,):
            found += law(part, model, batch)
    for whole in (_by_hand, _decoder, _padding):
        found += whole(intervention, model, batch)
    found.append(_same("the model itself stays as it was", _logits(model, batch) - before))
    changed = model.edited(intervention).spec.identity() != identity and model.spec.identity() == identity
    found.append(LawResult("the edit is in the edited model's identity, and only there", changed, float(not changed), 0.0))
    return found


def _logits(model: Model, batch: ContrastBatch) -> Tensor:
    return model.logits(batch.clean, batch.end, marks=batch.marks)


def _same(name: str, apart: Tensor) -> LawResult:
    """A law to the last bit."""
    value = float(apart.abs().max())
    return LawResult(name, value == 0, value, 0.0)


def _near(model: Model, name: str, apart: Tensor, size: Tensor) -> LawResult:
    wide = {"float64": 1e-8, "float32": 1e-4}.get(model.spec.dtype, 3e-2)
    value, tolerance = float(apart.abs().max()), wide * max(1.0, float(size.abs().max()))
    return LawResult(name, value <= tolerance, value, tolerance)


def _alone(batch: ContrastBatch) -> list[ContrastBatch]:
    """The first prompts one by one, without padding."""
    return [batch.select([pair]) for pair in range(min(_ALONE, batch.n_pairs))]


def _captured(model: Model, batch: ContrastBatch, target: tuple[Site, int]) -> Tensor:
    """The value of one site in the clean prompts of a batch of one length."""
    site, layer = target
    return model.capture(batch.clean, [site], layers=[layer], marks=batch.marks)[site][:, 0]


def _nothing_to_do(one: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    few = batch.select([0])
    off = _off(one, model, few)
    if off is not None:
        yield _same("the setting that changes nothing changes nothing", _logits(model.edited(off), few) - _logits(model, few))


def _off(one: Intervention, model: Model, batch: ContrastBatch) -> Intervention | None:
    """The same kind of intervention at the same place, set to change nothing; None for kinds that nobody told this law about."""
    if isinstance(one, Scale):
        return replace(one, factor=1.0)
    if isinstance(one, Add):
        return replace(one, offset=torch.tensor(0.0))
    if isinstance(one, Project):
        return replace(one, basis=torch.zeros(0, one.basis.shape[-1]), keep=False)
    if isinstance(one, EditPattern):
        return EditPattern(one.heads, "block", keys=(), positions=one.positions)
    if isinstance(one, Replace | Knockout):
        return compose([_own_value(one, spot, model, batch) for spot in one.spots])
    return None


def _own_value(one: NodeEdit, spot: Spot, model: Model, batch: ContrastBatch) -> Replace:
    value = _captured(model, batch, spot.target)
    value = value if spot.head is None else value[:, :, spot.head]
    return Replace(spot.node, value, batch, site=spot.site, positions=one.positions)


def _outside(one: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    """Places that no prompt has: what does not fire must not pass for an effect of zero."""
    if not isinstance(one, NodeEdit | EditPattern):
        return
    raised = False
    try:
        _logits(model.edited(replace(one, positions=_FAR)), batch)
    except EditDidNotFireError:
        raised = True
    yield LawResult("an edit outside every prompt raises", raised, float(not raised), 0.0)


def _order(one: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    if isinstance(one, EditPattern):
        other: Intervention = EditPattern(one.heads, "block", keys=0, positions=one.positions)
    elif isinstance(one, NodeEdit):
        other = Add(one.nodes, 0.5, site=one.site, positions=one.positions)
    else:
        return
    few = batch.select([0])
    target = min(one.targets, key=_forward)
    for first, second in ((one, other), (other, one)):
        made = _captured(model.edited(first, second), few, target)
        value = _captured(model, few, target)
        for each in (first, second):
            value = each.resolved(model).tap(Places.of(few))(*target, value)
        yield _same("the second of two interventions sees what the first made", made - value)


def _forward(target: tuple[Site, int]) -> tuple[int, int]:
    """Sorts sites by when a forward pass computes them."""
    order = [Site.RESID_PRE, Site.Q, Site.K, Site.V, Site.PATTERN, Site.Z, Site.ATTN_OUT, Site.RESID_MID, Site.MLP_OUT, Site.RESID_POST]
    return target[1], order.index(target[0])


def _by_hand(intervention: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    targets = sorted(intervention.targets, key=_forward)
    for few in _alone(batch)[:1]:
        edited = model.edited(intervention)
        made = [_captured(edited, few, target) for target in targets]
        plain = _captured(model, few, targets[0])
        kept = plain.clone()
        tapped = intervention.resolved(model).tap(Places.of(few))(*targets[0], plain)
        yield _same("a tap leaves the tensor that it is given as it is", plain - kept)
        yield _same("an edited value is the tap's value of the unedited one", made[0] - tapped)
        edits = [Edit(site, layer, value) for (site, layer), value in zip(targets, made, strict=True)]
        by_hand = model.with_edits(edits).logits(few.clean, few.end)
        yield _near(model, "the run equals one with the edited values written by hand", by_hand - _logits(edited, few), by_hand)


def _decoder(intervention: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    edited = model.edited(intervention)
    if why := _refusal(model):
        same = _refusal(edited) == why
        yield LawResult("without a functional decoder the edited model has none, for the same reason", same, float(not same), 0.0)
        return
    few = _alone(batch)
    by_hooks = torch.cat([_logits(edited, one) for one in few])
    final = [edited.decoder.final(one.clean, Places.of(one))[:, -1] for one in few]
    yield _near(model, "hooks and the functional decoder agree", edited.unembed(torch.cat(final)) - by_hooks, by_hooks)


def _refusal(model: Model) -> str:
    """Why a model has no functional decoder, or none whose stream leads to the logits; empty where it has one."""
    try:
        model.decoder  # noqa: B018 - built and checked on first use
        model.weights.final_norm  # noqa: B018 - the way to the logits
    except ModelError as error:
        return error.what
    return ""


def _padding(intervention: Intervention, model: Model, batch: ContrastBatch) -> Iterator[LawResult]:
    edited = model.edited(intervention)
    together = _logits(edited, batch)
    alone = torch.cat([_logits(edited, one) for one in _alone(batch)])
    yield _near(model, "prompts of other lengths beside one change nothing", together[: len(alone)] - alone, alone)
    padded = torch.nn.functional.pad(batch.clean, (0, 2))
    found = edited.logits(padded, batch.end, marks=batch.marks)
    yield _near(model, "padding on the right changes nothing", found - together, together)
