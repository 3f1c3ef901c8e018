"""Interventions obey every law on every tiny family that has their sites, and are refused on the others; a broken one breaks its law."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.interventions import Add, EditPattern, Intervention, KeepHeads, KeepKeys, Knockout, Project, Replace, Scale, compose
from circuitlab.model.sites import Site
from circuitlab.testing import check_intervention
from circuitlab.testing.intervention_laws import intervention_laws
from circuitlab.testing.laws import LawError
from circuitlab.testing.tiny import ALL_FAMILIES, FAMILIES, shared_tiny_model, tiny_batch, tiny_model


def batch_of(model):
    batch = tiny_batch(model, 3, unequal=True)
    return batch.with_templates(["one", "two", "one"])


def interventions(model, batch) -> dict[str, Intervention]:
    made = torch.Generator().manual_seed(3)
    d_query, d_value, d_head, d_model = (model.width(site) or 1 for site in (Site.Q, Site.V, Site.Z, Site.RESID_PRE))
    shared = model.spec.n_kv_heads - 1

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made)

    return {
        "replace": Replace(["a1.h0", "a2.h3"], some(2, d_head), positions=["CHANGE", "last"]),
        "replace by position": Replace("r1.pre", some(12, d_model), positions=[1, -1]),
        "scale": Scale(["a1.h0", "m2"], 0.25),
        "scale keys": Scale(f"a1.kv{shared}", torch.tensor(2.0), site="k"),
        "replace values": Replace(f"a2.kv{shared}", some(d_value), site="v", positions="CHANGE"),
        "add": Add(["a0.h1", "a0.h2"], some(d_head)),
        "add to the stream": Add("r1.post", some(d_model), positions="CHANGE"),
        "add to the embedding": Add("embed", some(d_model), positions=0),
        "scale the middle of a layer": Scale("r1.mid", 0.5),
        "zero": Knockout(["a1", "m1"]),
        "mean": Knockout("a1.h1", "mean", batch),
        "mean by mark": Knockout(["a1.h1", "a2.h0"], "mean_by_mark", batch),
        "mean by template": Knockout("m1", "mean_by_template", batch),
        "corrupt": Knockout(["a0.h1", "r1.pre"], "corrupt", batch),
        "keep a subspace": Project("a1.h1", some(min(3, d_query), d_query), site="q"),
        "remove a subspace": Project("m0", some(2, d_model), keep=False),
        "uniform": EditPattern(["a0.h0", "a1.h1"], "uniform"),
        "move": EditPattern("a1.h1", "move", keys=0, to="CHANGE", positions="last"),
        "block": EditPattern("a1.h2", "block", keys=["CHANGE", 0]),
        "drop": EditPattern("a1.h2", "block", keys="CHANGE", rest="drop"),
        "scale a key": EditPattern(["a0.h0", "a1.h1"], "scale", keys=0, factor=torch.tensor([0.5, 3.0])),
        "calibrate": EditPattern("a1.h2", "scale", keys=["CHANGE", 1], factor=0.4, rest="others"),
        "keep keys": KeepKeys(["a0.kv0", f"a1.kv{shared}"], sinks=1, window=2),
        "keep chosen keys": KeepKeys("a1.kv0", keep=torch.tensor([True, False, True, False]), positions="last"),
        "compensate": KeepKeys(f"a2.kv{shared}", sinks=1, window=2, compensate=True),
        "keep heads": KeepHeads([0, 2], 2),
        "keep one head": KeepHeads(1, 1, positions=["CHANGE", "last"]),
        "keep scored heads": KeepHeads([1, 2], 3, some(2, 12, model.spec.n_heads), positions="prompt"),
        "gate": KeepKeys(["a0.kv0", f"a1.kv{shared}"], sinks=1, window=2, gate=torch.tensor([0.3, 0.8])),
        "rows": EditPattern("a2.h2", "replace", weights=some(12, 12).tril()),
        "composed": compose([Scale("a1.h0", 2.0), Add("a1.h0", some(d_head)), Knockout("m2")]),
    }


def lacking(model, one: Intervention) -> list[str]:
    """Why the model says that it cannot be edited so: sites that it lacks, or no functional forward to ask which keys are seen."""
    reasons = [model.lacks[site] for site, _ in one.targets if site in model.lacks]
    masked = one.compensate if isinstance(one, KeepKeys) else isinstance(one, EditPattern) and one.how in {"uniform", "move"}
    if masked and not reasons:
        try:
            model.decoder  # noqa: B018
        except ModelError as error:
            reasons.append(error.what.rstrip("."))
    return reasons


@pytest.mark.by_turns(16)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_law_holds_or_the_model_says_what_it_lacks(family: str, share) -> None:
    model = shared_tiny_model(family)
    batch = batch_of(model) if family in FAMILIES else batch_of(model).select([0, 2])
    runs, refused, every = [], [], interventions(model, batch)
    for name in share(every, family, 1 if family == "llama" else 2 if family in FAMILIES else 8):
        one = every[name]
        reasons = lacking(model, one)
        if not reasons:
            try:
                assert len(check_intervention(one, model, batch)) >= 8, name
            except ModelError as refusal:  # a query of this model gives no weight at all to the keys that are kept, or to a dropped one
                known = any(words in str(refusal) for words in ("All weight of a query lies on keys", "drops has weight 0"))
                if not isinstance(one, KeepKeys) or family in FAMILIES or not known:
                    raise
            continue
        refused.append(name)
        watching = model.root.register_forward_pre_hook(lambda *_: runs.append(1))
        with pytest.raises(ModelError) as refusal:
            model.edited(one)
        watching.remove()
        assert any(reason in str(refusal.value) for reason in reasons), name
    assert not runs, "a refused intervention was run"
    assert family not in FAMILIES or set(refused) <= {"scale the middle of a layer"}


@dataclasses.dataclass(frozen=True, eq=False)
class _InPlace(Scale):
    """Doubles the very tensor that it is given."""

    def tap(self, places):
        inner = super().tap(places)
        return lambda site, layer, value: value.mul_(2) if inner(site, layer, value) is not value else value


@dataclasses.dataclass(frozen=True, eq=False)
class _PositionBlind(Add):
    """Acts everywhere, whatever it is asked."""

    def _chosen(self, places):
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class _LengthTold(Add):
    """Adds more where the run is longer."""

    def _make(self, places):
        return lambda _index, old: old + self.offset * places.tokens.shape[1]


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (_InPlace("a1.h0", 2.0), "a tap does not change the tensor that it gets"),
        (_PositionBlind("a1.h0", 1.0, positions=2), "an edit outside every prompt raises"),
        (_LengthTold("a1.h0", torch.tensor(1.0)), "padding on the right changes nothing"),
    ],
)
def test_a_broken_intervention_breaks_its_law(broken: Intervention, law: str) -> None:
    model = tiny_model("llama")
    batch = batch_of(model)
    assert law in {one.name for one in intervention_laws(broken, model, batch) if not one.ok}
    with pytest.raises(LawError, match=law):
        check_intervention(broken, model, batch)
