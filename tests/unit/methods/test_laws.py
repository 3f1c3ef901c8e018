"""Every method obeys every law on every family, and the laws catch methods that do not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.logit_attribution import LogitAttribution
from circuitlab.scores.head_scores import HeadScores
from circuitlab.testing.laws import LawError
from circuitlab.testing.method_laws import LAW_FAMILIES, check_method


@pytest.mark.some(method=2, family=1)
@pytest.mark.parametrize("family", LAW_FAMILIES)
@pytest.mark.parametrize(
    "method",
    [LogitAttribution(), LogitAttribution(run="contrast"), ActivationPatching(), ActivationPatching(direction="noising")],
    ids=["logit_attribution", "contrast", "denoising", "noising"],
)
def test_every_law_holds(method, family) -> None:
    assert len(check_method(method, families=(family,))) > 8


@dataclass(frozen=True)
class _Broken(ActivationPatching):
    """Activation patching with a fault."""

    fault: str = "sign"

    def __call__(self, model, batch, metric) -> HeadScores:
        good = ActivationPatching(direction=self.direction, parts=("heads",))(model, batch, metric)
        data = good.dataset.copy(deep=True)
        heads = data["heads"].values
        if self.fault == "sign":
            heads *= -1
        elif self.fault == "roll":
            heads[:] = heads[:, :, ::-1]
        elif self.fault == "offset":
            heads += 0.01
        elif self.fault == "order":
            heads[:] = heads[::-1]
        elif self.fault == "mean":
            heads[:] = heads.mean(0, keepdims=True)
        return replace(good, dataset=data)


@pytest.mark.parametrize(
    ("fault", "law"),
    [("sign", "planted helper"), ("roll", "dead head"), ("offset", "null"), ("order", "batch size"), ("mean", "batch size")],
)
def test_a_faulty_method_breaks_the_law_it_should(fault: str, law: str) -> None:
    with pytest.raises(LawError, match=law):
        check_method(_Broken(fault=fault), families=("llama",))


def test_a_share_that_is_lost_breaks_completeness() -> None:
    @dataclass(frozen=True)
    class Lossy(LogitAttribution):
        def __call__(self, model, batch, metric) -> HeadScores:
            good = LogitAttribution()(model, batch, metric)
            data = good.dataset.copy(deep=True)
            data["mlps"].values[:, 0] = 0
            return replace(good, dataset=data)

    with pytest.raises(LawError, match="completeness"):
        check_method(Lossy(), families=("gemma2",))
