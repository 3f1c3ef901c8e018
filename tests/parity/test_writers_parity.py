"""Scores and values split into writers, and the logit lens, on every family: against the model itself, and against plain hooks."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import circuitlab as cl
from circuitlab.core.errors import ModelError
from circuitlab.execute.upstream import Upstream
from circuitlab.model import load_model
from circuitlab.model.places import Places
from circuitlab.model.sites import Edit, Site
from circuitlab.testing.families import ALL_FAMILIES
from circuitlab.testing.tiny import shared_tiny_model, tiny_hf
from reference.query_key import ByHand

TOKENS = [3, 17, 5, 40, 22, 9, 30, 11]
MAP = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
DECODED = [name for name in ALL_FAMILIES if re.search(rf"^\| {name} \|(?: [xh-] \|){{9}} x \|$", MAP, flags=re.MULTILINE)]
"""Families that the map says the functional decoder serves: those whose attention patterns are exact."""
BY_HAND = ("gpt2", "llama", "qwen2", "qwen3", "gemma2", "gemma3")
NOT_IN_FLOAT64 = {
    *("olmo2", "olmo3", "xglm", "mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "olmoe", "granitemoe", "aria_text", "cohere2_moe", "dots1"),
    *("ernie4_5_moe", "exaone_moe", "flex_olmo", "flint", "glm4_moe", "hy_v3", "kolibri1", "mellum", "minimax_m2", "phimoe", "solar_open"),
}
"""No decoder in float64: transformers makes products of mixtures of experts, and xglm's mask, in float32 alone; OLMo 2's norms."""


@functools.cache
def loaded(family: str, dtype: torch.dtype = torch.float32):
    return shared_tiny_model(family) if dtype == torch.float32 else load_model(tiny_hf(family, dtype=dtype), name=family)


def seen(model, layer: int, query: int) -> list[int]:
    """Keys that the model itself gives weight to."""
    weights = model.capture(torch.tensor([TOKENS]), [Site.PATTERN], layers=[layer])[Site.PATTERN][0, 0, :, query]
    return (weights > 0).all(0).nonzero().flatten().tolist()


def entering_softmax(why) -> float:
    """The score as the softmax sees it: capped, and with the position bias."""
    score = why.matrix.sum()
    capped = score if why.softcap is None else np.tanh(score / why.softcap) * why.softcap
    return float(capped + why.position)


def test_the_map_names_the_families_with_a_decoder() -> None:
    assert len(DECODED) > 75
    assert {"gpt2", "llama", "gemma3", "olmo2", "gpt_oss", "bloom", "mixtral"} <= set(DECODED)


@pytest.mark.by_turns(8)
@pytest.mark.parametrize("family", DECODED)
def test_terms_sum_to_the_score_of_the_model_itself(family: str) -> None:
    """Differences of scores are the logarithms of ratios of the weights that the model's own softmax gave."""
    model = loaded(family)
    spread = 0.0
    for layer, head, most in ((1, 2, 2), (2, 3, 8)):
        first, *others = seen(model, layer, 7)[-most:]
        whys = {key: cl.why_attends(model, f"a{layer}.h{head}", TOKENS, key=key) for key in (first, *others)}
        own = model.capture(torch.tensor([TOKENS]), [Site.PATTERN], layers=[layer])[Site.PATTERN][0, 0, head, 7].double()
        for key, why in whys.items():
            assert abs(why.residual) < 1e-4 and why.weight == pytest.approx(float(own[key]), abs=1e-6)
            wanted = float(own[key].log() - own[first].log())
            assert entering_softmax(why) - entering_softmax(whys[first]) == pytest.approx(wanted, abs=2e-4 * max(1, abs(wanted)))
            spread = max(spread, abs(wanted))
    mean = np.mean([whys[key].score for key in others])
    against = cl.why_attends(model, "a2.h3", TOKENS, key=first, against="others")
    assert against.score == pytest.approx(whys[first].score - mean, abs=1e-4) and abs(against.residual) < 1e-4
    assert spread > 0.1


@pytest.mark.by_turns(6)
@pytest.mark.parametrize("family", DECODED)
def test_writes_are_what_the_model_itself_adds(family: str) -> None:
    """By the model's own forward pass: what attention and MLPs add, and what attention adds less of without one head."""
    model, tokens, at = loaded(family), torch.tensor([TOKENS]), torch.tensor([5])
    up = Upstream.of(model, Places(tokens, torch.tensor([7])), 2)
    written = dict(zip(up.writers, torch.cat(list(up.writes(at)))[:, 0], strict=True))
    own = model.capture(tokens, [Site.ATTN_OUT, Site.MLP_OUT, Site.RESID_PRE, Site.Z], layers=[0, 1])
    close = functools.partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)
    close(written["embed"], own[Site.RESID_PRE][0, 0, 5].double())
    for layer in range(2):
        added = [value for name, value in written.items() if name.startswith(f"a{layer}.")]
        close(torch.stack(added).sum(0), own[Site.ATTN_OUT][0, layer, 5].double())
        close(written[f"m{layer}"], own[Site.MLP_OUT][0, layer, 5].double())
        if up.blocks[layer].post_attn is None:
            none = torch.zeros(1, len(TOKENS), own[Site.Z].shape[-1])
            less = model.with_edits([Edit(Site.Z, layer, none, head=1)]).capture(tokens, [Site.ATTN_OUT], layers=[layer])
            close(written[f"a{layer}.h1"], (own[Site.ATTN_OUT][0, layer, 5] - less[Site.ATTN_OUT][0, 0, 5]).double())


@pytest.mark.by_turns(6)
@pytest.mark.parametrize("family", DECODED)
def test_values_are_split_into_writers_and_tokens(family: str) -> None:
    model = loaded(family)
    key = seen(model, 2, 7)[0]
    read = cl.why_reads(model, "a2.h3", TOKENS, key=key)
    value = model.capture(torch.tensor([TOKENS]), [Site.V], layers=[2])[Site.V][0, 0, key, read.kv_head.head]
    assert read.total == pytest.approx(float(value.norm()), rel=1e-4)
    assert abs(read.residual) < 1e-4
    np.testing.assert_allclose(read.sources.sum(1), read.shares, atol=1e-4)
    assert (read.sources[:, key + 1 :] == 0).all()
    heads = [i for i, name in enumerate(read.writers) if ".h" in name]
    assert key == 0 or np.abs(np.delete(read.sources[heads], key, axis=1)).max() > 1e-3


@pytest.mark.by_turns(8)
@pytest.mark.parametrize("family", DECODED)
def test_sums_are_exact_in_float64(family: str) -> None:
    if family in NOT_IN_FLOAT64:
        with pytest.raises(ModelError):
            loaded(family, torch.float64).decoder  # noqa: B018 - built on first use
        return
    model = loaded(family, torch.float64)
    key = seen(model, 2, 7)[0]
    for head in (0, 3):
        why, read = (ask(model, f"a2.h{head}", TOKENS, key=key) for ask in (cl.why_attends, cl.why_reads))
        assert abs(why.residual) < 1e-9 and abs(read.residual) < 1e-9
        np.testing.assert_allclose(read.sources.sum(1), read.shares, atol=1e-9)


@pytest.mark.parametrize("family", BY_HAND)
def test_every_term_equals_plain_hooks(family: str) -> None:
    hf, model = tiny_hf(family, dtype=torch.float64), loaded(family, torch.float64)
    for layer, head, query, key in ((1, 0, 7, 5), (2, 3, 7, 4), (2, 1, 3, 3)):
        writers, wanted = ByHand(hf, TOKENS, layer).score(head, query, key)
        found = cl.why_attends(model, f"a{layer}.h{head}", TOKENS, query=query, key=key)
        assert list(found.writers) == writers
        np.testing.assert_allclose(found.matrix, wanted.numpy(), atol=2e-5)  # rotary angles are float32 inside
        assert np.abs(found.matrix).max() > 0.05


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_lens_of_the_last_stream_is_the_models_own_answer(family: str) -> None:
    model = loaded(family)
    if model.parts.readout_lacks:
        with pytest.raises(ModelError, match="There is no lens"):
            cl.logit_lens(model, TOKENS)
        return
    lens = cl.logit_lens(model, TOKENS, tokens=list(range(48)), positions=-1)
    assert lens.rows == ("r0.pre", *(f"r{layer}.post" for layer in range(model.spec.n_layers)))
    own = model.logits(torch.tensor([TOKENS]), torch.tensor([7]))[0].log_softmax(-1)
    np.testing.assert_allclose(lens.values[-1, 0], own.numpy(), atol=1e-4)
    assert lens.top_ids[-1, 0, 0] == int(own.argmax()) and lens.ranks[-1, 0, int(own.argmax())] == 1
    assert np.abs(lens.values[0] - lens.values[-1]).max() > 0.05
