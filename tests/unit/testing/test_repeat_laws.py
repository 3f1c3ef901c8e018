"""The laws on scoring the same pairs once more can fail: by what was scored before, what stands beside, and the caller's modes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import pytest
import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.code_overlap import CodeOverlap
from circuitlab.methods.logit_attribution import LogitAttribution
from circuitlab.metrics import LogitDiff
from circuitlab.model import hooks
from circuitlab.scores.head_scores import HeadScores
from circuitlab.testing.laws import LawError
from circuitlab.testing.method_laws import check_method
from circuitlab.testing.repeat_laws import after_and_beside_others, in_every_mode
from circuitlab.testing.tiny import kept_model, shared_tiny_model, tiny_batch, tiny_model

METRIC = LogitDiff()
AFTER = "longer prompts before change nothing"
BESIDE = "pairs of other lengths in the batch change nothing"
REFUSED = "pairs of other lengths are refused, and the message says why"
TWICE = "every pair twice leaves the means, with pairs of other lengths"


@dataclass(frozen=True)
class Faulty(LogitAttribution):
    """Logit attribution whose scores are multiplied by what should not matter."""

    fault: Callable = field(default=lambda _model, _batch, _seen: 1.0, metadata={"identity": False})
    seen: list[int] = field(default_factory=list, metadata={"identity": False})

    def __call__(self, model, batch, metric) -> HeadScores:
        self.seen.extend((batch.end + 1).tolist())
        factor = self.fault(model, batch, self.seen)
        good = LogitAttribution()(model, batch, metric)
        data = good.dataset.copy(deep=True)
        data["heads"].values *= factor
        return replace(good, dataset=data)


class Pooled(Faulty):
    pooled = True


@dataclass(frozen=True)
class KeepsTables(ActivationPatching):
    """Runs the model with the rotary angles of the longest prompt that it has seen."""

    engine: str = "hooks"

    def __call__(self, model, batch, metric) -> HeadScores:
        with patch.object(hooks._Table, "begin_anew", lambda _table: None), patch.object(hooks._Table, "put_back", lambda _table: None):
            return super().__call__(model, batch, metric)


def longest_seen(_model, _batch, seen) -> float:
    return max(seen) / 9


def longest_beside(_model, batch, _seen) -> float:
    return batch.clean.shape[1] / 9


def number_of_pairs(_model, batch, _seen) -> float:
    return float(batch.n_pairs)


def refuses_without_a_reason(_model, batch, _seen) -> float:
    if len(set(batch.end.tolist())) > 1:
        raise BadParameterError("These pairs cannot be scored.", "Give others.")
    return 1.0


def refuses_by_name(_model, batch, _seen) -> float:
    if len(set(batch.end.tolist())) > 1:
        raise BadParameterError("These pairs differ in length.", "Give pairs of one length.")
    return 1.0


def gradients_of_the_caller(_model, _batch, _seen) -> float:
    return 2.0 if torch.is_grad_enabled() else 1.0


def dropout(model, batch, _seen) -> float:
    tokens = batch.clean.clone()
    own = model.root(input_ids=tokens, use_cache=False).logits[:, -1].detach()
    return 1.0 + float((own - model.logits(tokens, torch.full((len(tokens),), tokens.shape[1] - 1))).abs().max()) * 0.1


def trains(model, _batch, _seen) -> float:
    model.root.train()
    return 1.0


def freezes(model, _batch, _seen) -> float:
    model.root.requires_grad_(requires_grad=False)
    return 1.0


def leaves_a_hook(model, _batch, _seen) -> float:
    model.root.register_forward_hook(lambda *_: None)
    return 1.0


def beside(method, family: str = "llama") -> dict[str, bool]:
    model = shared_tiny_model(family)
    batch = tiny_batch(model)
    laws = list(after_and_beside_others(method, model, batch, method(model, batch, METRIC), family))
    return {law.name.partition(" [")[0]: law.ok for law in laws}


def modes(fault: Callable, family: str = "gpt2") -> dict[str, bool]:
    model = shared_tiny_model(family)
    laws = in_every_mode(Faulty(fault=fault), family, Faulty()(model, tiny_batch(model), METRIC))
    return {law.name.partition(" [")[0].removeprefix("training mode, "): law.ok for law in laws}


@pytest.mark.parametrize(
    ("fault", "verdicts"),
    [
        (lambda *_: 1.0, {BESIDE: True, AFTER: True}),
        (longest_seen, {BESIDE: False, AFTER: False}),
        (longest_beside, {BESIDE: False, AFTER: True}),
        (refuses_without_a_reason, {REFUSED: False, AFTER: True}),
        (refuses_by_name, {REFUSED: True, AFTER: True}),
    ],
)
def test_what_stood_before_and_beside_is_noticed(fault, verdicts) -> None:
    assert beside(Faulty(fault=fault)) == verdicts


@pytest.mark.parametrize(("fault", "ok"), [(lambda *_: 1.0, True), (number_of_pairs, False)])
def test_pooled_methods_obey_another_form(fault, ok) -> None:
    assert beside(Pooled(fault=fault)) == {BESIDE: True, TWICE: ok, AFTER: True}


def test_angles_of_the_longest_prompt_are_noticed() -> None:
    assert beside(ActivationPatching(engine="hooks"), "llama_dynamic") == {BESIDE: True, AFTER: True}
    assert not beside(KeepsTables(), "llama_dynamic")[AFTER]


def test_a_method_that_cannot_take_several_lengths_refuses_them_by_name() -> None:
    """Positions of this family turn by the length of the prompt, and autoencoders learn from all prompts together."""
    assert beside(CodeOverlap(epochs=5, trials=1), "llama_dynamic") == {REFUSED: True, AFTER: True}


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        (lambda *_: 1.0, set()),
        (gradients_of_the_caller, {"gradients on: the scores are the same"}),
        (
            dropout,
            {"gradients on: the scores are the same", "gradients off: the scores are the same", "inference mode: the scores are the same"},
        ),
        (trains, {"gradients on: the model is left as it was"}),
        (freezes, {"gradients on: the model is left as it was"}),
        (leaves_a_hook, {f"{mode}: the model is left as it was" for mode in ("gradients on", "gradients off", "inference mode")}),
    ],
)
def test_modes_of_the_caller_that_change_scores_or_are_changed_are_noticed(fault, broken) -> None:
    assert {name for name, ok in modes(fault).items() if not ok} == broken


def test_dropout_is_there_to_be_noticed_in_the_other_family() -> None:
    assert not modes(dropout, "llama")["gradients off: the scores are the same"]


def test_they_are_among_the_laws_of_methods() -> None:
    with pytest.raises(LawError, match=r"pairs of other lengths in the batch change nothing \[llama\]"):
        check_method(Faulty(fault=longest_beside), families=("llama",))
    with pytest.raises(LawError, match=r"gradients on: the model is left as it was \[llama\]"):
        check_method(Faulty(fault=trains), families=("llama",))


def test_a_model_that_a_method_has_changed_is_built_again_for_the_next() -> None:
    def build():
        return tiny_model("gpt2")

    first = kept_model(("changed by a test",), build)
    assert kept_model(("changed by a test",), build) is first
    with torch.no_grad():
        next(first.root.parameters()).data[0] += 1
    second = kept_model(("changed by a test",), build)
    assert second is not first
    assert kept_model(("changed by a test",), build) is second
