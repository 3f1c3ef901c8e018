"""Every supported family obeys every model law, and a sabotaged model breaks the law it should."""

from __future__ import annotations

import pytest
import torch

from circuitlab.model.sites import Site
from circuitlab.model.toy import planted_model
from circuitlab.testing.laws import LawError
from circuitlab.testing.model_laws import check_model, model_laws
from circuitlab.testing.tiny import FAMILIES, tiny_model


@pytest.mark.laws
@pytest.mark.parametrize("family", FAMILIES)
def test_every_law_holds(family: str) -> None:
    assert len(check_model(tiny_model(family))) > 25


def test_the_planted_model_obeys_them_but_for_what_it_lacks() -> None:
    """Its MLPs write nothing and most of its heads are dead, so some edits cannot reach the logits; all else holds."""
    broken = {law.name for law in model_laws(planted_model().model) if not law.ok}
    assert broken <= {f"edits of {site.value} reach the logits" for site in Site}
    assert "edits of mlp_out reach the logits" in broken


@pytest.mark.real_model
def test_smollm2_obeys_them(smollm2) -> None:
    check_model(smollm2)


class _Sabotaged:
    """A model with one fault."""

    def __init__(self, fault: str) -> None:
        self.inner, self.fault = tiny_model("gemma3"), fault
        self.spec, self.sites, self.weights = self.inner.spec, self.inner.sites, self.inner.weights
        self.lacks, self.length_dependent, self.parts, self.root = self.inner.lacks, False, self.inner.parts, self.inner.root

    def logits(self, tokens, at):
        out = self.inner.logits(tokens, at)
        if self.fault == "padding":
            return out + 0.01 * tokens.shape[1]
        if self.fault == "rng":
            torch.rand(1)
        return out

    def capture(self, tokens, sites, **options):
        read = self.inner.capture(tokens, sites, **options)
        if self.fault == "post_norm" and Site.ATTN_OUT in read:
            read[Site.ATTN_OUT] = read[Site.ATTN_OUT] * 1.1
        if self.fault == "pattern" and Site.PATTERN in read:
            read[Site.PATTERN] = read[Site.PATTERN].flip(-1)
        if self.fault == "heads" and Site.Z in read:
            read[Site.Z] = read[Site.Z].flip(3)
        return read

    def with_edits(self, edits):
        return self.inner if self.fault == "dead_edit" else self.inner.with_edits(edits)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("padding", "padding on the right"),
        ("post_norm", "residual stream"),
        ("heads", "head outputs sum"),
        ("pattern", "attention to later positions"),
        ("dead_edit", "reach the logits"),
        ("rng", "an edit that raises"),
    ],
)
def test_a_fault_breaks_its_law(fault: str, law: str) -> None:
    with pytest.raises(LawError, match=law):
        check_model(_Sabotaged(fault))
