"""cl.head_on_text: direct effects equal logits with a head's write replaced, deciles cover all positions, one run serves all heads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, ModelError, TokenizationError
from circuitlab.execute.on_text import text_values
from circuitlab.execute.text_rows import text_rows
from circuitlab.model.toy import build_planted
from circuitlab.testing.tiny import tiny_hf, tiny_model
from circuitlab.texts import Passage
from circuitlab.workflows.head_on_text import ON_TEXT


def random_rows(vocab: int, lengths, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (length,), generator=generator).tolist() for length in lengths]


def caught(module, hf, row) -> torch.Tensor:
    """What goes into a module of a Hugging Face model in one run, (pos, width)."""
    found = []
    hook = module.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0][0]))
    with torch.no_grad():
        hf(torch.tensor([row]))
    hook.remove()
    return found[0].double()


def rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    return (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def writes_and_readout(family: str, hf, row, layer: int, head: int):
    """What a head adds at every position, and a map from changed streams to logits with the norm's scale of this run."""
    if family == "gpt2":
        projection, norm = hf.transformer.h[layer].attn.c_proj, hf.transformer.ln_f
        width = hf.config.n_embd // hf.config.n_head
        part = slice(head * width, (head + 1) * width)
        written = caught(projection, hf, row)[:, part] @ projection.weight.double()[part]
        final = caught(norm, hf, row)
        mean, scale = final.mean(-1, keepdim=True), (final.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()

        def logits(stream):  # the mean is linear and moves; the scale does not
            moved = mean + (stream - final).mean(-1, keepdim=True)
            return ((stream - moved) / scale * norm.weight.double() + norm.bias.double()) @ hf.lm_head.weight.double().T

        return written, final, logits
    block, norm = hf.model.layers[layer], hf.model.norm
    z, projection, post = caught(block.self_attn.o_proj, hf, row), block.self_attn.o_proj.weight.double(), block.post_attention_layernorm
    part = slice(head * hf.config.head_dim, (head + 1) * hf.config.head_dim)
    written = z[:, part] @ projection[:, part].T / rms(z @ projection.T, post.eps) * (1 + post.weight.double())
    final = caught(norm, hf, row)
    return written, final, lambda x: x / rms(final, norm.eps) * (1 + norm.weight.double()) @ hf.lm_head.weight.double().T


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_direct_effects_are_what_the_next_tokens_logit_loses_without_the_heads_write(family) -> None:
    hf = tiny_hf(family).double()
    model = cl.load_model(hf, name=family)
    rows = random_rows(model.spec.d_vocab, [9, 7, 9])
    values = text_values(model, [tuple(row) for row in rows])
    assert len(values.effect) == sum(len(row) - 2 for row in rows)
    with torch.no_grad():
        runs = [writes_and_readout(family, hf, row, 1, 2) for row in rows]
        mean = torch.cat([written[1:-1] for written, _, _ in runs]).mean(0)
        at = 0
        for number, (row, (written, final, logits)) in enumerate(zip(rows, runs, strict=True)):
            whole, without = logits(final), logits(final - written + mean)
            for position in range(1, len(row) - 1):
                lost = (whole - without)[position]
                assert (values.passage[at], values.position[at]) == (number, position)
                assert values.effect[at, 1, 2] == pytest.approx(float(lost[row[position + 1]] - lost.mean()), abs=1e-8)
                assert values.activation[at, 1, 2] == pytest.approx(float(written[position].norm()), abs=1e-8)
                at += 1


def test_tokens_attended_are_those_with_most_weight() -> None:
    model = tiny_model("llama")
    rows = [tuple(row) for row in random_rows(model.spec.d_vocab, [9, 4, 9])]
    values = text_values(model, rows)
    for at in range(len(values.passage)):
        row, position = rows[values.passage[at]], values.position[at]
        pattern = model.attention("a2.h3", list(row)).values[position]
        shown = int((values.weights[at, 2, 3] > 0).sum())
        assert shown == min(5, position + 1)
        np.testing.assert_allclose(values.weights[at, 2, 3, :shown], np.sort(pattern)[::-1][:shown], rtol=1e-5)
        np.testing.assert_allclose(pattern[values.keys[at, 2, 3, :shown]], values.weights[at, 2, 3, :shown], rtol=1e-5)


def test_deciles_cover_every_activation_in_order() -> None:
    model = tiny_model("llama")
    rows = random_rows(model.spec.d_vocab, [20, 31, 12])
    found, values = cl.head_on_text(model, "a1.h3", rows), text_values(model, [tuple(row) for row in rows])
    activations = np.sort(values.activation[:, 1, 3])
    assert [one.number for one in found.deciles] == list(range(1, 11))
    assert found.deciles[0].low == activations[0] and found.deciles[-1].high == activations[-1] == found.top[0].activation
    np.testing.assert_array_equal([one.high for one in found.deciles], [part[-1] for part in np.array_split(activations, 10)])
    for one in found.deciles:
        assert [spot.activation for spot in one.spots] == sorted(spot.activation for spot in one.spots)
        assert (
            one.spots[0].activation == one.low
            and one.spots[-1].activation == one.high
            and {spot.decile for spot in one.spots} == {one.number}
        )
    assert found.effect == pytest.approx(np.mean([values.effect[values.passage == number, 1, 3].mean() for number in range(3)]))
    assert found.low is not None and found.high is not None and found.low < found.effect < found.high
    assert sum(one.effect * len(part) for one, part in zip(found.deciles, np.array_split(activations, 10), strict=True)) == pytest.approx(
        values.effect[:, 1, 3].sum()
    )
    spot = found.top[0]
    row = rows[spot.passage]
    assert (spot.token, spot.following) == (str(row[spot.position]), str(row[spot.position + 1]))
    assert spot.before == tuple(map(str, row[max(0, spot.position - 12) : spot.position]))


def test_every_position_has_one_winner_and_the_planted_head_wins_where_it_can_copy() -> None:
    model = build_planted("induction-gqa").model
    rows = [[3, 1, 5, 2, 4, 0, 1, 5, 2, 4, 0, 3], [0, 2, 1, 4, 3, 5, 2, 1, 4, 3, 5, 0]] * 3
    heads = [f"a{layer}.h{head}" for layer in range(2) for head in range(model.spec.n_heads)]
    found = {head: cl.head_on_text(model, head, rows) for head in heads}
    assert found["a1.h2"].wins == 6 * 4 and {spot.position for spot in found["a1.h2"].winning} <= {6, 7, 8, 9}
    effects = text_values(model, [tuple(row) for row in rows]).effect
    assert sum(one.wins for one in found.values()) == int((effects.max((1, 2)) > 0).sum())


def test_a_second_head_costs_nothing_and_other_texts_are_stored_apart(tmp_path, monkeypatch) -> None:
    model = tiny_model("llama")
    rows = random_rows(model.spec.d_vocab, [30, 30])
    alone = cl.head_on_text(model, "a0.h1", rows)
    assert cl.head_on_text(model, "a2.h0", rows, store=tmp_path) != alone
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "capture", lambda *_args, **_kwargs: pytest.fail("the model was run again"))
        assert cl.head_on_text(model, "a0.h1", rows, store=str(tmp_path)) == alone
    cl.head_on_text(model, "a0.h1", rows[::-1], store=tmp_path)
    edited = model.edited(cl.interventions.Knockout(["a0.h1"], "zero"))
    assert cl.head_on_text(edited, "a0.h1", rows, store=tmp_path).top[0].activation == 0
    assert len(cl.Cache(tmp_path).list(ON_TEXT)) == 3


def test_what_a_model_or_a_text_cannot_give_is_refused_with_the_reason() -> None:
    model = tiny_model("llama")
    rows = random_rows(model.spec.d_vocab, [30, 30])
    with pytest.raises(ModelError, match=r"head_on_text cannot run on this model: .*no site"):
        cl.head_on_text(tiny_model("mamba"), "a0.h0", rows)
    with pytest.raises(BadParameterError, match=r"tiny-llama has 3 layers of 4 heads, and no a9\.h9"):
        cl.head_on_text(model, "a9.h9", rows)
    with pytest.raises(BadParameterError, match="The texts have 49 positions"):
        cl.head_on_text(model, "a0.h0", random_rows(model.spec.d_vocab, [30, 23]))
    with pytest.raises(BadParameterError, match="None of 2 texts has 3 tokens"):
        cl.head_on_text(model, "a0.h0", [[1, 2], [3]])
    with pytest.raises(BadParameterError, match="No text was given"):
        cl.head_on_text(model, "a0.h0", [])
    with pytest.raises(TokenizationError, match="no tokenizer"):
        cl.head_on_text(model, "a0.h0", [Passage("a b c d")])
    assert text_rows(model, rows, 10) == [tuple(row[:10]) for row in rows]


def test_a_notebook_shows_tokens_as_text() -> None:
    model = tiny_model("llama")
    found = cl.head_on_text(model, "a0.h0", random_rows(model.spec.d_vocab, [30, 30]))
    wicked = dataclasses.replace(found.top[0], token="<script>", following="</td>")
    shown = dataclasses.replace(found, top=(wicked,))._repr_html_()
    assert "[&lt;script&gt;]" in shown and "<script>" not in shown and "&lt;/td&gt;" in shown
    assert repr(found).startswith("HeadOnText(a0.h0 of tiny-llama, 56 positions of 2 passages: direct effect ")
    single = cl.head_on_text(model, "a0.h0", random_rows(model.spec.d_vocab, [60]))
    assert single.low is None and "[" not in repr(single).partition("effect")[2]
