"""Every intervention obeys every law on every tiny family, and a broken one breaks the law that it should."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch

from circuitlab.model.interventions import Add, EditPattern, Intervention, Knockout, Project, Replace, Scale, compose
from circuitlab.testing import check_intervention
from circuitlab.testing.intervention_laws import intervention_laws
from circuitlab.testing.laws import LawError
from circuitlab.testing.tiny import FAMILIES, tiny_batch, tiny_model


@cache
def model_of(family: str):
    return tiny_model(family)


def batch_of(model):
    batch = tiny_batch(model, 3, unequal=True)
    return batch.with_templates(["one", "two", "one"])


def interventions(model, batch) -> dict[str, Intervention]:
    made = torch.Generator().manual_seed(3)
    d_head, d_model = model.spec.d_head, model.spec.d_model
    shared = model.spec.n_kv_heads - 1

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made)

    return {
        "replace": Replace(["a1.h0", "a2.h3"], some(2, d_head), positions=["CHANGE", "last"]),
        "replace by position": Replace("r1.pre", some(12, d_model), positions=[1, -1]),
        "scale": Scale(["a1.h0", "m2"], 0.25),
        "scale keys": Scale(f"a1.kv{shared}", torch.tensor(2.0), site="k"),
        "add": Add(["a0.h1", "a0.h2"], some(d_head)),
        "add to the stream": Add("r1.post", some(d_model), positions="CHANGE"),
        "zero": Knockout(["a1", "m1"]),
        "mean": Knockout("a1.h1", "mean", batch),
        "mean by mark": Knockout(["a1.h1", "a2.h0"], "mean_by_mark", batch),
        "mean by template": Knockout("m1", "mean_by_template", batch),
        "corrupt": Knockout(["a0.h1", "r1.pre"], "corrupt", batch),
        "keep a subspace": Project("a1.h1", some(3, d_head), site="q"),
        "remove a subspace": Project("m0", some(2, d_model), keep=False),
        "uniform": EditPattern(["a0.h0", "a1.h1"], "uniform"),
        "move": EditPattern("a1.h1", "move", keys=0, to="CHANGE", positions="last"),
        "block": EditPattern("a1.h2", "block", keys=["CHANGE", 0]),
        "drop": EditPattern("a1.h2", "block", keys="CHANGE", rest="drop"),
        "rows": EditPattern("a2.h2", "replace", weights=some(12, 12).tril()),
        "composed": compose([Scale("a1.h0", 2.0), Add("a1.h0", some(d_head)), Knockout("m2")]),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_law_holds(family: str) -> None:
    model = model_of(family)
    batch = batch_of(model)
    for name, one in interventions(model, batch).items():
        assert len(check_intervention(one, model, batch)) >= 8, name


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
        (_InPlace("a1.h0", 2.0), "a tap leaves the tensor that it is given as it is"),
        (_PositionBlind("a1.h0", 1.0, positions=2), "an edit outside every prompt raises"),
        (_LengthTold("a1.h0", torch.tensor(1.0)), "padding on the right changes nothing"),
    ],
)
def test_a_broken_intervention_breaks_its_law(broken: Intervention, law: str) -> None:
    model = model_of("llama")
    batch = batch_of(model)
    assert law in {one.name for one in intervention_laws(broken, model, batch) if not one.ok}
    with pytest.raises(LawError, match=law):
        check_intervention(broken, model, batch)
