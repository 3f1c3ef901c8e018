"""What is computed from small matrices equals what whole maps of the vocabulary and the stream give, family by family."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from circuitlab.core.errors import ModelError, UnknownNameError
from circuitlab.execute import effective_ov
from circuitlab.execute.composition import composition_scores
from circuitlab.execute.effective_ov import EffectiveOV
from circuitlab.execute.ov_eigenvalues import ov_eigenvalues
from circuitlab.execute.singular import head_singular_values, random_singular_values
from circuitlab.methods.copying_score import CopyingScore
from circuitlab.methods.roles.copying import Copying, CopyingEigenvalues, NegativeCopying
from circuitlab.methods.roles.token_preference import same_position_scores
from circuitlab.model import load_model
from circuitlab.model.token_vectors import token_vectors
from circuitlab.testing.tiny import tiny_hf, tiny_model
from circuitlab.workflows.score import score
from reference.weight_maps import FAMILIES, SlowModel

HEADS = [(layer, head) for layer in range(3) for head in range(4)]
EVERY = torch.arange(48)


@functools.cache
def _models(family: str) -> tuple[SlowModel, object]:
    hf = tiny_hf(family)
    return SlowModel(hf, family), load_model(hf, name=family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reads", ["mlp0", "mlp0_unnormed", "stream", "embedding"])
@torch.no_grad()
def test_effective_ov_equals_the_whole_map_up_to_a_factor(family, reads) -> None:
    slow, model = _models(family)
    embedding = slow.embedding()
    later = {
        "mlp0": lambda: slow.first_mlp(embedding),
        "mlp0_unnormed": lambda: slow.first_mlp(embedding, normed=False),
        "stream": lambda: embedding + slow.first_mlp(embedding),
        "embedding": lambda: embedding,
    }[reads]()
    found = EffectiveOV.of(model, EVERY, reads)
    for layer, head in HEADS:
        want = slow.ov_map(layer, head, later if layer else embedding)
        mine = found.logits(layer, EVERY)[head]
        factor = (mine.norm() / want.norm()) if family == "granite" else 1.0  # its multipliers of the residual stream and of the logits
        torch.testing.assert_close(mine, want * factor, atol=2e-5 * float(want.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@torch.no_grad()
def test_the_top_of_the_vocabulary_equals_a_full_sort(family, monkeypatch) -> None:
    monkeypatch.setattr("circuitlab.execute.effective_ov._STEP", 7)  # the vocabulary in pieces, the last one short
    slow, model = _models(family)
    embedding = slow.embedding()
    stream = embedding + slow.first_mlp(embedding)
    words = (5, 40, 0, 47, 13, 21, 22)
    for role, sign in ((Copying(words=words, top=3), 1), (NegativeCopying(words=words, top=3), -1)):
        value = role(model).value
        for layer, head in HEADS:
            order = (sign * slow.ov_map(layer, head, stream if layer else embedding)).argsort(-1, descending=True)
            assert value[layer, head] == pytest.approx(np.mean([word in order[word, :3] for word in words]))


@torch.no_grad()
def test_heads_that_write_no_target_so_much_are_left_early_and_no_hit_is_lost(monkeypatch) -> None:
    model, targets = tiny_model("llama"), torch.tensor([3, 41])
    circuit, shapes = EffectiveOV.of(model, torch.arange(48), "stream"), []
    whole = circuit.among_top(1, targets, 2)
    extreme = effective_ov._extreme
    monkeypatch.setattr(effective_ov, "_STEP", 8)
    monkeypatch.setattr(effective_ov, "_extreme", lambda logits, *how: shapes.append(len(logits)) or extreme(logits, *how))
    assert all(torch.equal(*both) for both in zip(circuit.among_top(1, targets, 2), whole, strict=True))
    assert all(0 < int(hits.sum()) < hits.numel() / 4 for hits in whole)
    assert shapes[0] == 4 * 48 and shapes[-1] < shapes[0] / 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@torch.no_grad()
def test_eigenvalues_equal_those_of_the_whole_map(family) -> None:
    slow, model = _models(family)
    embedding = slow.embedding()
    stream = embedding + slow.first_mlp(embedding)
    value, null = ov_eigenvalues(model, 100, "stream", 50, 0)
    for layer, head in HEADS:
        whole = torch.linalg.eigvals(slow.ov_map(layer, head, stream if layer else embedding).double())
        assert value[layer, head] == pytest.approx(float(whole.real.sum() / whole.abs().sum()), abs=1e-3)
    assert np.abs(null.mean(0)).max() < 4 * (null.std(0) / 50**0.5).max(), "random rotations have no sign"


@torch.no_grad()
def test_rotated_traces_spread_as_rotations_do() -> None:
    """The mean square of ``trace(Q A)`` over rotations Q is ``|A|^2 / d``."""
    slow, model = _models("llama")
    embedding = slow.embedding()
    stream = embedding + slow.first_mlp(embedding)
    _, null = ov_eigenvalues(model, 48, "stream", 4000, 0)
    for layer, head in ((0, 1), (2, 3)):
        one, x = slow.head(layer, head), slow.read_by(layer, stream if layer else embedding)
        met = slow.linear_norm(layer) @ one.v @ one.o @ slow.to_logits() @ (x / slow.gain(slow.norm(layer)))
        sizes = torch.linalg.eigvals(slow.ov_map(layer, head, stream if layer else embedding)).abs().sum()
        assert null[:, layer, head].std() == pytest.approx(float(met.norm() / sizes) / 32**0.5, rel=0.1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "gpt_neox"])
@torch.no_grad()
def test_singular_values_equal_those_of_whole_matrices(family) -> None:
    slow, model = _models(family)
    ov, qk = head_singular_values(model, "ov"), head_singular_values(model, "qk")
    for layer, head in HEADS:
        for found, whole in ((ov, slow.ov(layer, head)), (qk, slow.qk(layer, head))):
            np.testing.assert_allclose(found[layer, head], torch.linalg.svdvals(whole)[:8].numpy(), rtol=1e-3, atol=1e-5)


def test_random_singular_values_are_those_of_gaussian_matrices() -> None:
    found = random_singular_values(tiny_model("llama"), 400, 0)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(400, 32, 8, generator=generator) for _ in range(2))
    want = torch.linalg.svdvals(left @ right.transpose(-1, -2))[:, :8].numpy()
    np.testing.assert_allclose(found.mean(0), want.mean(0), rtol=0.05)
    np.testing.assert_allclose(found.std(0), want.std(0), rtol=0.2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "gpt_neox"])
@torch.no_grad()
def test_compositions_equal_those_of_whole_matrices(family) -> None:
    slow, model = _models(family)
    n_kv = model.spec.n_kv_heads
    group = 4 // n_kv

    def share(writer: torch.Tensor, reader: torch.Tensor) -> float:
        return float((writer @ reader).norm() / (writer.norm() * reader.norm()))

    found = {port: composition_scores(model, port) for port in "qkv"}
    assert [one.shape[-1] for one in found.values()] == [4, n_kv, n_kv]
    for one in found.values():
        assert np.isnan(one[1, :, 1]).all() and np.isnan(one[2, :, 1]).all() and np.isfinite(one[1, :, 2]).all()
    for writer in ((0, 1), (1, 2)):
        for layer in range(writer[0] + 1, 3):
            written = slow.ov(*writer)
            for head in range(4):
                assert found["q"][(*writer, layer, head)] == pytest.approx(share(written, slow.qk(layer, head)), rel=1e-3)
            for kv in range(n_kv):
                heads = range(kv * group, (kv + 1) * group)
                keys = torch.cat([slow.qk(layer, head).T for head in heads], dim=1)
                assert found["k"][(*writer, layer, kv)] == pytest.approx(share(written, keys), rel=1e-3)
                values = torch.cat([slow.ov(layer, head) for head in heads], dim=1)
                assert found["v"][(*writer, layer, kv)] == pytest.approx(share(written, values), rel=1e-3)


@torch.no_grad()
def test_scores_at_one_position_are_the_models_own() -> None:
    """At one position rotary angles cancel; norms of queries and keys (Qwen 3) are applied to each token."""
    hf = tiny_hf("qwen3")
    model = load_model(hf, name="qwen3")
    tokens = [3, 17, 30, 31, 46]
    found = same_position_scores(model, tokens)
    for layer, block in enumerate(hf.model.layers):
        embedding, first = hf.model.embed_tokens.weight[tokens], hf.model.layers[0]
        x = embedding + first.mlp(first.post_attention_layernorm(embedding)) if layer else embedding
        normed = block.input_layernorm(x)
        q = block.self_attn.q_norm(block.self_attn.q_proj(normed).view(5, 4, 8))
        k = block.self_attn.k_norm(block.self_attn.k_proj(normed).view(5, 2, 8))
        want = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, dim=1)) * 8**-0.5
        np.testing.assert_allclose(found[layer], want.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3"])
def test_the_role_on_all_tokens_is_the_method_copying_score(family) -> None:
    model = tiny_model(family)
    method = score(model, method=CopyingScore()).values("heads")
    np.testing.assert_allclose(CopyingEigenvalues(n=model.spec.d_vocab)(model).value, method, atol=1e-4)


def test_what_tokens_put_into_the_stream_is_told_apart_from_positions() -> None:
    ids = torch.tensor([5, 0, 47])
    for family, module, factor in (
        ("gpt2", "transformer.wte", 1.0),
        ("gemma2", "model.embed_tokens", 32**0.5),
        ("granite", "model.embed_tokens", 3),
        ("ctrl", "transformer.w", 32**0.5),
    ):
        hf = tiny_hf(family)
        want = hf.get_submodule(module).weight[ids].detach() * factor
        torch.testing.assert_close(token_vectors(load_model(hf, name=family))(ids), want, rtol=1e-4, atol=1e-5)
    bloom = tiny_hf("bloom")
    normed = bloom.transformer.word_embeddings_layernorm(bloom.transformer.word_embeddings.weight[ids]).detach()
    torch.testing.assert_close(token_vectors(load_model(bloom, name="bloom"))(ids), normed)


def test_a_model_that_mixes_tokens_with_positions_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be told from what it adds for its position"):
        Copying(pool="vocabulary")(tiny_model("mbart"))


def test_an_unknown_way_of_reading_is_named() -> None:
    with pytest.raises(UnknownNameError, match="mlp0"):
        Copying(pool="vocabulary", reads="mlp")(tiny_model("llama"))
