"""RelP runs the model's own forward pass, conserves relevance, and is exact patching where the model is linear."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError, ModelError, UnknownNameError
from circuitlab.execute.gradients import gradient_run
from circuitlab.execute.relevance import relevance_decoder, secant
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.attribution_patching import AttributionPatching
from circuitlab.methods.relp import RelevancePatching
from circuitlab.metrics import KLDivergence, LogitDiff
from circuitlab.model import load_model
from circuitlab.testing.method_laws import LAW_FAMILIES, check_method
from circuitlab.testing.tiny import FAMILIES, tiny_batch, tiny_hf

METRIC = LogitDiff()
PARTS = ("heads", "attns", "mlps", "resid_pre", "resid_mid", "resid_post", "embed")


@pytest.mark.some(family=1, frozen=3)
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_forward_pass_is_the_models_own(family: str, frozen: bool) -> None:
    model = load_model(tiny_hf(family))
    batch = tiny_batch(model, n=3, unequal=True)
    decoder = relevance_decoder(model, frozen_pattern=frozen)
    trace, plain = decoder.trace(decoder.embed(batch.clean)), model.decoder.trace(model.decoder.embed(batch.clean))
    for layer, own in zip(trace.layers, plain.layers, strict=True):
        for name in ("q", "k", "v", "pattern", "z", "attn_out", "mlp_out"):
            torch.testing.assert_close(getattr(layer, name), getattr(own, name), atol=1e-6, rtol=0)
    last = trace.final[torch.arange(3), batch.end]
    torch.testing.assert_close(decoder.unembed(last), model.logits(batch.clean, batch.end), atol=2e-5, rtol=0)
    ids = torch.tensor([3, 1])
    torch.testing.assert_close(decoder.unembed(last, ids), decoder.unembed(last)[:, ids])


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gemma3"])
def test_relevance_is_conserved_where_nothing_has_a_bias(family: str) -> None:
    """Every rule passes on as much as it receives: the relevance of each stream is the metric itself."""
    model = load_model(tiny_hf(family))
    batch = tiny_batch(model, n=3, unequal=True)
    run = gradient_run(model, METRIC, batch, batch.clean, relevance_decoder(model))
    streams = [layer.resid_pre for layer in run.trace.layers] + [run.trace.final]
    coefficients = run.gradients(streams, keep=True)
    value = run.value.detach()
    assert value.abs().max() > 0.1
    for stream, coefficient in zip(streams, coefficients, strict=True):
        torch.testing.assert_close((stream * coefficient).sum((1, 2)).detach(), value, atol=2e-4, rtol=0)
    for other in (model.decoder, relevance_decoder(model, frozen_pattern=False)):
        run = gradient_run(model, METRIC, batch, batch.clean, other)
        (gradient,) = run.gradients([run.embed])
        with pytest.raises(AssertionError):
            torch.testing.assert_close((run.embed * gradient).sum((1, 2)).detach(), value, atol=2e-4, rtol=0)


def linear_model():
    """A GPT-2 that is linear: uniform attention, norms with a constant scale, activations far on their straight part."""
    hf = tiny_hf("gpt2")
    hf.config.layer_norm_epsilon = 1e8  # far above the mean square of any stream here
    with torch.no_grad():
        for norm in [hf.transformer.ln_f, *(part for block in hf.transformer.h for part in (block.ln_1, block.ln_2))]:
            norm.eps = hf.config.layer_norm_epsilon
            norm.weight.mul_(1e4)
        for block in hf.transformer.h:
            block.attn.c_attn.weight[:, : 2 * hf.config.n_embd] = 0
            block.attn.c_attn.bias[: 2 * hf.config.n_embd] = 0
            block.mlp.c_fc.weight.mul_(0.2)
            block.mlp.c_fc.bias.fill_(20.0)  # gelu(x) = x up there
            block.mlp.c_proj.bias.copy_(-20.0 * block.mlp.c_proj.weight.sum(0))  # keeps the stream small
    return load_model(hf)


def test_on_a_linear_model_it_is_exact_patching() -> None:
    model = linear_model()
    batch = tiny_batch(model, n=3, unequal=True)
    parts = PARTS[:-1]
    exact = ActivationPatching(parts=parts)(model, batch, METRIC)
    scores = RelevancePatching(parts=parts)(model, batch, METRIC)
    for part in parts:
        wanted = exact.values(part)
        assert np.abs(wanted).max() > 0.05
        np.testing.assert_allclose(scores.values(part), wanted, atol=2e-3 * np.abs(wanted).max())
    values = ActivationPatching(parts=("heads",), site="v")(model, batch, METRIC).values("kv_heads")
    np.testing.assert_allclose(RelevancePatching(site="v")(model, batch, METRIC).values("kv_heads"), values, atol=2e-3)
    bent = load_model(tiny_hf("gpt2"))
    exact, scores = (method(parts=("mlps",))(bent, batch, METRIC).values("mlps") for method in (ActivationPatching, RelevancePatching))
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(scores, exact, atol=2e-3 * np.abs(exact).max())


def test_the_last_norm_is_held() -> None:
    """What the last layer writes at the end reaches the logits through the final norm only, as a share of a linear readout."""
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=3)
    scores = RelevancePatching(parts=("mlps",), positions=("END",))(model, batch, METRIC)
    runs = [gradient_run(model, METRIC, batch, tokens, track=False).trace for tokens in (batch.clean, batch.corrupt)]
    write = runs[0].layers[-1].mlp_out[:, -1] - runs[1].layers[-1].mlp_out[:, -1]
    columns = model.weights.unembed(batch.answers[:, 0]) - model.weights.unembed(batch.foils[:, 0])
    along = model.weights.final_norm.pull_back(columns, runs[1].final[:, -1])
    np.testing.assert_allclose(scores.values("mlps", mark="END")[:, -1], (write * along).sum(-1), atol=1e-5)
    plain = AttributionPatching(parts=("mlps",), positions=("END",))(model, batch, METRIC)
    assert np.abs(plain.values("mlps", mark="END")[:, -1] - (write * along).sum(-1).numpy()).max() > 1e-2


def test_rules_of_single_steps() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 1e-6, 3.0], requires_grad=True)
    function = torch.nn.functional.silu
    value = secant(function, x)
    assert torch.equal(value.detach(), function(x.detach()))
    (slope,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(slope, torch.sigmoid(x.detach()))  # silu(x) / x, and its limit at 0
    model = load_model(tiny_hf("llama"))
    block = relevance_decoder(model).blocks[0]
    normed = torch.randn(5, model.spec.d_model, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    (found,) = torch.autograd.grad(block.neurons(normed).sum(), normed)
    gate, up = (part(normed.detach()) for part in (block.gate, block.up))
    by_gate = 0.5 * torch.sigmoid(gate) * up
    by_up = 0.5 * function(gate)
    torch.testing.assert_close(found, block.gate.back(by_gate) + block.up.back(by_up), atol=1e-5, rtol=1e-5)


def test_frozen_patterns_carry_nothing() -> None:
    model = load_model(tiny_hf("qwen2"))
    batch = tiny_batch(model, n=3)
    run = gradient_run(model, METRIC, batch, batch.corrupt, relevance_decoder(model))
    q, v = run.gradients([run.trace.layers[1].q, run.trace.layers[1].v])
    assert not q.any()
    assert v.any()
    with pytest.raises(BadParameterError, match="pattern='gradient'"):
        RelevancePatching(site="q", pattern="frozen")
    kept = RelevancePatching(parts=("heads",), site="q", pattern="gradient")(model, batch, METRIC)
    assert np.abs(kept.values("heads")).max() > 1e-3
    frozen, free = (RelevancePatching(pattern=pattern)(model, batch, METRIC) for pattern in ("frozen", "gradient"))
    np.testing.assert_allclose(frozen.values("heads")[:, -1], free.values("heads")[:, -1], atol=1e-6)  # no attention follows
    assert np.abs(frozen.values("heads")[:, 0] - free.values("heads")[:, 0]).max() > 1e-3


@pytest.mark.some(method=2)
@pytest.mark.parametrize(
    "method",
    [RelevancePatching(), RelevancePatching(direction="noising", parts=("heads", "attns", "embed")), RelevancePatching(pattern="frozen")],
    ids=["gradient", "noising", "frozen"],
)
@pytest.mark.parametrize("family", LAW_FAMILIES)
def test_every_law_holds(method, family: str) -> None:
    assert len(check_method(method, families=(family,))) > 8


def test_positions_add_up() -> None:
    model = load_model(tiny_hf("gemma3"))
    batch = tiny_batch(model, n=3)
    whole, each = (RelevancePatching(parts=PARTS, positions=positions)(model, batch, METRIC) for positions in (("all",), ("each",)))
    for part in PARTS:
        np.testing.assert_allclose(each.values(part).sum(1), whole.values(part), atol=1e-5)


def test_misuse_is_refused() -> None:
    model = load_model(tiny_hf("gpt_neox"))
    batch = tiny_batch(model)
    with pytest.raises(UnknownNameError, match="Did you mean 'frozen'"):
        RelevancePatching(pattern="froze")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="site 'pattern'"):
        RelevancePatching(site="pattern")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="resid_mid"):
        RelevancePatching(parts=("resid_mid",))(model, batch, METRIC)
    with pytest.raises(BadParameterError, match="'kl' has zero gradient at the clean run"):
        RelevancePatching(direction="noising")(model, batch, KLDivergence())
