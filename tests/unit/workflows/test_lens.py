"""The logit lens: shares sum to the logits, planted heads speak for the answer, edits count, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import circuitlab as cl
from circuitlab.core.errors import AdditivityError, BadParameterError, ModelError, UnknownNameError
from circuitlab.execute.lens import LensRun
from circuitlab.model.interventions import Add, Knockout
from circuitlab.model.places import Places
from circuitlab.model.sites import Site
from circuitlab.model.toy import build_planted
from circuitlab.testing.tiny import FAMILIES, shared_tiny_model, tiny_model

TOKENS = [3, 17, 5, 40, 22, 9, 30, 11]
AT = torch.tensor([2, 7])


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def run_of(model) -> LensRun:
    return LensRun(model, Places(torch.tensor([TOKENS]), torch.tensor([7])), AT)


@pytest.mark.parametrize("family", [*FAMILIES, "granite", "cohere", "olmo2", "bloom"])
def test_shares_of_everything_that_writes_sum_to_the_logits(family: str) -> None:
    """Heads and MLPs from the lens; the embedding, biases and the norm's own bias by hand, with the same frozen norm and softcap."""
    model = shared_tiny_model(family)
    run, weights = run_of(model), model.weights
    parts = {name: share for rows, shares in (*run.heads(), *run.mlps()) for name, share in zip(rows, shares, strict=True)}
    assert len(parts) == 3 * 5
    logits = torch.stack([model.logits(torch.tensor([TOKENS]), at[None])[0] for at in AT])
    values = model.capture(torch.tensor([TOKENS]), [Site.RESID_PRE, Site.RESID_POST, Site.Z])
    final = values[Site.RESID_POST][0, -1, AT].double()
    rest = values[Site.RESID_PRE][0, 0, AT].double()
    for layer in range(3):
        post, bias = weights.post_attention_norm(layer), weights.output_bias(layer)
        z = values[Site.Z][0, layer, AT].double()
        heads = torch.einsum("phd,hdm->pm", z, weights.output(layer).double())
        if post is not None:
            rest += 0.0 if post.bias is None else post.bias
            rest += 0.0 if bias is None else post.share(bias.double().expand_as(heads), heads + bias.double())
        else:
            rest += 0.0 if bias is None else bias.double()
    norm, cap, columns = weights.final_norm, weights.softcap, weights.unembed(slice(None)).double()
    constant = (0.0 if norm.bias is None else norm.bias.double() @ columns.T) + (
        0.0 if weights.unembed_bias(slice(None)) is None else weights.unembed_bias(slice(None)).double()
    )
    raw = norm.apply(final) @ columns.T + (0.0 if weights.unembed_bias(slice(None)) is None else weights.unembed_bias(slice(None)).double())
    slope = 1.0 if cap is None else torch.tanh(raw / cap) * cap / raw
    outside = (norm.share(rest, final) @ columns.T + constant) * slope
    torch.testing.assert_close(sum(parts.values()).double() + outside, logits.double(), atol=2e-4, rtol=1e-4)
    assert max(float(share.abs().max()) for share in parts.values()) > 0.1


def test_the_induction_head_speaks_for_the_answer() -> None:
    planted = build_planted("induction-gqa")
    batch = planted.batch(4)
    for number, (stream, heads) in enumerate(
        zip(*(cl.logit_lens(planted.model, batch, at, tokens=range(8), positions="END") for at in ("stream", "heads")), strict=True)
    ):
        answer = int(batch.answers[number, 0])
        assert heads.rows[int(heads.values[:, 0, answer].argmax())] == "a1.h2"
        assert heads.top("a1.h2")[0][0] == str(answer) and heads.ranks[heads.rows.index("a1.h2"), 0, answer] == 1
        assert stream.ranks[-1, 0, answer] == 1
        np.testing.assert_allclose(stream.values[0, 0], -np.log(8), atol=1e-5)  # the embedding says nothing of what comes next
        assert stream.values[-1, 0, answer] - stream.values[1, 0, answer] > 1


def test_values_are_probabilities_of_a_stream_and_centred_shares_of_parts(llama) -> None:
    stream = cl.logit_lens(llama, TOKENS, tokens=list(range(48)))
    assert stream.values.shape == (4, 8, 48)
    np.testing.assert_allclose(np.exp(stream.values).sum(-1), 1, atol=1e-5)
    for at in ("heads", "mlps"):
        parts = cl.logit_lens(llama, TOKENS, at, tokens=list(range(48)), positions=[-1, 0, 7])
        assert parts.positions == (0, 7)
        np.testing.assert_allclose(parts.values.sum(-1), 0, atol=1e-4)
        assert (np.sort(parts.ranks, -1) == np.arange(1, 49)).all()
    order = np.argsort(-parts.values, axis=-1)[..., :5]
    np.testing.assert_array_equal(parts.top_ids, order)
    np.testing.assert_allclose(parts.top_values, np.take_along_axis(parts.values, order, -1))
    assert [len(one.tokens) for one in cl.logit_lens(llama, [TOKENS, TOKENS[:5]])] == [8, 5]


def test_a_share_is_what_taking_the_part_out_of_a_frozen_readout_costs(llama) -> None:
    heads = cl.logit_lens(llama, TOKENS, "heads", tokens=[9], positions=-1)
    found = llama.capture(torch.tensor([TOKENS]), [Site.Z, Site.RESID_POST])
    final, gain = found[Site.RESID_POST][0, 2, 7].double(), llama.root.model.norm.weight.detach().double()
    write = found[Site.Z][0, 1, 7, 2].double() @ llama.root.model.layers[1].self_attn.o_proj.weight.detach().double()[:, 16:24].T
    logits = (write / (final.pow(2).mean() + llama.root.config.rms_norm_eps).sqrt() * gain) @ llama.root.lm_head.weight.detach().double().T
    assert heads.values[heads.rows.index("a1.h2"), 0, 0] == pytest.approx(float(logits[9] - logits.mean()), abs=1e-5)


def test_edits_count_and_those_that_hide_what_heads_write_are_refused(llama) -> None:
    cut = llama.edited(Knockout("a1.h2"))
    heads = cl.logit_lens(cut, TOKENS, "heads", tokens=[9], positions=-1)
    assert heads.values[heads.rows.index("a1.h2"), 0, 0] == 0 and heads.values[heads.rows.index("a1.h1"), 0, 0] != 0
    stream = cl.logit_lens(cut, TOKENS, tokens=[9], positions=-1)
    own = cut.logits(torch.tensor([TOKENS]), torch.tensor([7]))[0].log_softmax(-1)
    assert stream.values[-1, 0, 0] == pytest.approx(float(own[9]), abs=1e-5)
    with pytest.raises(ModelError, match="What layer 1 of tiny-llama adds is not the sum of what its heads write"):
        cl.logit_lens(llama.edited(Add("a1", torch.ones(32))), TOKENS, "heads")


def test_what_cannot_be_read_is_refused(llama, monkeypatch) -> None:
    with pytest.raises(ModelError, match=r"There is no lens for tiny-opt_post: .*reads more than the last layer's stream"):
        cl.logit_lens(tiny_model("opt_post"), TOKENS)
    mamba = tiny_model("mamba")
    assert cl.logit_lens(mamba, TOKENS).rows[-1] == "r2.post"
    with pytest.raises(ModelError, match=r"no site 'z': .*Read the stream"):
        cl.logit_lens(mamba, TOKENS, "heads")
    with pytest.raises(UnknownNameError, match="Unknown place to read 'head'"):
        cl.logit_lens(llama, TOKENS, "head")
    for given, said in (({"k": 0}, "shows no token"), ({"positions": []}, "No position"), ({"positions": 8}, "prompt of 8 tokens")):
        with pytest.raises(BadParameterError, match=said):
            cl.logit_lens(llama, TOKENS, **given)
    with pytest.raises(BadParameterError, match="Token id 48"):
        cl.logit_lens(llama, TOKENS, tokens=48)
    lens = cl.logit_lens(llama, TOKENS, positions=[2])
    with pytest.raises(UnknownNameError, match=r"row of the lens 'r3\.post'"):
        lens.top("r3.post", 2)
    with pytest.raises(BadParameterError, match=r"Position -1 was not read; \[2\] were"):
        lens.top("r2.post")
    monkeypatch.setattr(type(llama), "unembed", lambda self, resid, ids=None: torch.zeros(*resid.shape[:-1], 48))
    with pytest.raises(AdditivityError, match="away from those of tiny-llama itself"):
        cl.logit_lens(llama, TOKENS)


def test_a_lens_shows_itself_and_is_plain_data(llama) -> None:
    lens = cl.logit_lens(llama, TOKENS, tokens=[9, 4])
    text = repr(lens)
    assert "Logit lens of the residual stream, tiny-llama, at 7 '11'" in text and "r2.post" in text and "log-probability" in text
    assert f"{lens.values[-1, -1, 1]:+.2f}" in text.splitlines()[-1]
    assert "<table>" in lens._repr_html_() and "&#x27;9&#x27;" in lens._repr_html_()
    data = json.loads(json.dumps(lens.to_dict()))
    assert data["ranks"] == lens.ranks.tolist() and data["asked_ids"] == [9, 4] and len(data["rows"]) == 4
    heads = cl.logit_lens(llama, TOKENS, "heads", tokens=9, positions=-1)
    assert len(heads.table()[1]) == 12
    strongest = heads.table(-1, 3)[1]
    assert [row[0] for row in strongest] == [heads.rows[i] for i in np.argsort(-np.abs(heads.values[:, 0, 0]))[:3]]
