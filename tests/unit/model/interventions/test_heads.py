"""A budget of heads for each token: what is left is the sum over the heads that a loop over tokens keeps."""

from __future__ import annotations

import pytest
import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.methods import ActivationPatching
from circuitlab.metrics import LogitDiff
from circuitlab.model.interventions import KeepHeads
from circuitlab.model.sites import Site
from circuitlab.testing.tiny import shared_tiny_model, tiny_batch

LAYER, KEEP = 1, 2


def lengths(model, by, tokens: torch.Tensor) -> torch.Tensor:
    """What ranks every head of the layer, computed one token and one head at a time; shape (row, pos, head)."""
    z = model.capture(tokens, [Site.Z], layers=[LAYER])[Site.Z][:, 0]
    if not isinstance(by, str):
        return by[0][: tokens.shape[1]].expand(len(tokens), tokens.shape[1], model.spec.n_heads)
    out = torch.empty(z.shape[:-1])
    for index in torch.cartesian_prod(*map(torch.arange, z.shape[:-1])).tolist():
        row, pos, head = index
        written = z[row, pos, head] @ model.weights.output(LAYER)[head]
        post = model.weights.post_attention_norm(LAYER)
        written = written if post is None else written * post.gain
        out[row, pos, head] = written.norm()
    return out


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("by", ["write", "scores"])
def test_each_token_keeps_the_heads_that_rank_first(family: str, by: str) -> None:
    model = shared_tiny_model(family)
    tokens = tiny_batch(model, 2).clean
    ranking = torch.randn(1, tokens.shape[1], 4, generator=torch.Generator().manual_seed(0)) if by == "scores" else by
    z = model.capture(tokens, [Site.Z], layers=[LAYER])[Site.Z][:, 0]
    edited = model.edited(KeepHeads(LAYER, KEEP, ranking)).capture(tokens, [Site.Z], layers=[LAYER])[Site.Z][:, 0]
    ranks = lengths(model, ranking, tokens)
    for row in range(len(tokens)):
        for pos in range(tokens.shape[1]):
            kept = sorted(range(4), key=lambda head: -float(ranks[row, pos, head]))[:KEEP]
            for head in range(4):
                expected = z[row, pos, head] if head in kept else torch.zeros_like(z[row, pos, head])
                assert torch.equal(edited[row, pos, head], expected)


def test_of_equal_scores_the_earlier_head_is_kept_and_one_position_stands_for_all() -> None:
    model = shared_tiny_model("llama")
    tokens = tiny_batch(model, 2).clean
    edited = model.edited(KeepHeads(LAYER, 2, torch.tensor([[[0.0, 1.0, 0.0, 0.0]]])))
    z = edited.capture(tokens, [Site.Z], layers=[LAYER])[Site.Z][:, 0]
    assert z.ne(0).any(-1).all((0, 1)).tolist() == [True, True, False, False]
    assert z.ne(0).any(-1).any(1).any(0).tolist() == [True, True, False, False]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("by", ["write", "scores"])
def test_patching_under_a_budget_is_that_of_plain_hooks(family: str, by: str) -> None:
    model = shared_tiny_model(family)
    batch = tiny_batch(model, 3, unequal=True)
    ranking = torch.randn(3, batch.clean.shape[1], 4, generator=torch.Generator().manual_seed(0)) if by == "scores" else by
    edited = model.edited(KeepHeads([0, 1, 2], KEEP, ranking))
    fast, hooks = (ActivationPatching(engine=engine)(edited, batch, LogitDiff()).values("heads") for engine in ("exact", "hooks"))
    assert abs(hooks).max() > 0.01
    assert fast == pytest.approx(hooks, abs=1e-4)


def test_the_budget_holds_in_generated_text() -> None:
    model = shared_tiny_model("llama")
    prompt = tiny_batch(model, 1).clean[0].tolist()
    edited = model.edited(KeepHeads([0, 1, 2], 1))
    text = edited.generate(prompt, 4).ids
    whole = torch.tensor([[*prompt, *text]])
    for number, token in enumerate(text):
        at = torch.tensor([len(prompt) - 1 + number])
        assert int(edited.logits(whole[:, : int(at) + 1], at).argmax()) == token


def test_settings_that_cannot_be_meant_are_refused() -> None:
    model = shared_tiny_model("llama")
    tokens = tiny_batch(model, 1).clean
    with pytest.raises(UnknownNameError, match="write"):
        KeepHeads(0, 2, "writes")
    for broken in ([], [0, 0]):
        with pytest.raises(BadParameterError, match="once"):
            KeepHeads(broken, 2)
    with pytest.raises(BadParameterError, match="0 heads or more"):
        KeepHeads(0, -1)
    with pytest.raises(BadParameterError, match=r"\(2, 3\)"):
        KeepHeads(0, 1, torch.zeros(2, 3))
    with pytest.raises(BadParameterError, match="4 heads"):
        model.edited(KeepHeads(0, 5))
    with pytest.raises(BadParameterError, match="3 scored"):
        model.edited(KeepHeads(0, 2, torch.zeros(1, 1, 3)))
    with pytest.raises(BadParameterError, match="layers 0 to 2"):
        model.edited(KeepHeads(3, 2))
    with pytest.raises(BadParameterError, match="hold 2 positions"):
        model.edited(KeepHeads(0, 2, torch.zeros(1, 2, 4))).logits(tokens, torch.tensor([tokens.shape[1] - 1]))
