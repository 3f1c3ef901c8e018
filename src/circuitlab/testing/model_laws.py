"""check_model: the laws that every supported model must obey. `circuitlab doctor` runs them on a user's checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import torch
from einops import einsum

from circuitlab.core.errors import ModelError
from circuitlab.model.sites import Edit, Site
from circuitlab.testing.laws import LawResult, raise_on_failure

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["check_model", "model_laws"]

Law: TypeAlias = Callable[["Model", "Tensor", "Tensor"], Iterator[LawResult]]

_TOKENS = 10
_LONG = 24


def check_model(model: Model) -> list[LawResult]:
    """Run every law on a model.

    Parameters
    ----------
    model : Model
        From `circuitlab.load_model`.

    Returns
    -------
    list of LawResult
        One entry per law.

    Raises
    ------
    LawError
        If a law fails; the message lists each failed law with its value and tolerance.
    """
    return raise_on_failure(f"model {model.spec.name!r}", model_laws(model))


def model_laws(model: Model) -> list[LawResult]:
    """Results of every law, without raising.

    Laws: logits do not depend on padding, on earlier prompts, on other prompts of the batch, or on the mode of the model and of torch; the
    residual stream is the sum of what is written to it; head outputs sum to the attention output; attention rows sum to 1 (less with a
    sink); the final norm and the unembedding give the logits; at every site, writing a value back changes nothing and writing another one
    changes the logits; nothing is changed after an error. Tolerances are 1e-4 (float32) times the size of what is compared, and larger for
    16-bit models.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.spec.d_vocab, (2, _TOKENS), generator=generator)
    end = torch.full((2,), _TOKENS - 1)
    results: list[LawResult] = []
    for law in (_padding, _history, _modes, _additivity, _head_sum, _pattern, _readout, _edits, _purity):
        results += law(model, tokens, end)
    return results


def _result(model: Model, name: str, difference: Tensor | float, values: Tensor | float = 1.0, factor: float = 1e-4) -> LawResult:
    factor_of_dtype = {"float64": 1e-4, "float32": 1.0}.get(model.spec.dtype, 300.0)
    value = float(difference.abs().max()) if isinstance(difference, torch.Tensor) else float(difference)
    scale = max(1.0, float(values.abs().max()) if isinstance(values, torch.Tensor) else float(values))
    tolerance = factor * factor_of_dtype * scale
    return LawResult(name, value <= tolerance, value, tolerance)


def _served(*sites: Site) -> Callable[[Law], Law]:
    """Run a law only on models that have these sites; a model without them lists them as refused."""

    def restrict(law: Law) -> Law:
        def restricted(model: Model, tokens: Tensor, end: Tensor) -> Iterator[LawResult]:
            return law(model, tokens, end) if set(sites) <= model.sites else iter(())

        return restricted

    return restrict


def _padding(model: Model, tokens: Tensor, end: Tensor) -> Iterator[LawResult]:
    short = tokens[:, : _TOKENS - 3]
    alone = model.logits(short, end - 3)
    yield _result(model, "padding on the right changes nothing", model.logits(tokens, end - 3) - alone, alone)
    single = torch.cat([model.logits(tokens[i : i + 1], end[:1]) for i in range(2)])
    yield _result(model, "prompts of one batch do not affect each other", model.logits(tokens, end) - single, single)


def _history(model: Model, tokens: Tensor, end: Tensor) -> Iterator[LawResult]:
    """A longer prompt must not affect later ones: some rotary tables grow with the longest prompt so far."""
    before = model.logits(tokens, end)
    long = tokens.repeat(1, 3)[:, : min(_LONG, model.spec.n_ctx or _LONG)]
    model.logits(long, end * 0 + long.shape[1] - 1)
    yield _result(model, "a longer prompt before changes nothing", model.logits(tokens, end) - before, before, factor=1e-5)
    short = end - torch.tensor([3, 0])
    alone = torch.cat([model.logits(tokens[i : i + 1, : int(short[i]) + 1], short[i : i + 1]) for i in range(2)])
    yield _result(model, "a longer prompt in the batch changes nothing", model.logits(tokens, short) - alone, alone)


def _modes(model: Model, tokens: Tensor, end: Tensor) -> Iterator[LawResult]:
    before = model.logits(tokens, end)
    with torch.no_grad():
        yield _result(model, "torch.no_grad changes nothing", model.logits(tokens, end) - before, factor=0.0)
    with torch.inference_mode():
        logits = model.logits(tokens.clone(), end.clone())
    yield _result(model, "torch.inference_mode changes nothing", logits - before, factor=0.0)
    root = getattr(model, "root", None)
    if root is not None:
        modes = [(module, module.training) for module in root.modules()]
        root.train()
        logits = model.logits(tokens, end)
        still_training = root.training
        for module, training in modes:
            module.training = training
        yield _result(
            model, "training mode changes nothing, and is left as it was", logits - before + float(not still_training), factor=0.0
        )


@_served(Site.RESID_PRE, Site.ATTN_OUT, Site.MLP_OUT, Site.RESID_POST)
def _additivity(model: Model, tokens: Tensor, _end: Tensor) -> Iterator[LawResult]:
    captured = model.capture(tokens, [Site.RESID_PRE, Site.ATTN_OUT, Site.MLP_OUT, Site.RESID_POST])
    pre, attn, mlp, post = captured.values()
    yield _result(model, "the residual stream is the sum of what is written to it", pre + attn + mlp - post, post)
    if Site.RESID_MID in model.sites:
        mid = model.capture(tokens, [Site.RESID_MID])[Site.RESID_MID]
        yield _result(model, "the middle of a layer is its start plus attention", pre + attn - mid, mid)
    yield _result(model, "each layer starts from the stream of the one before", post[:, :-1] - pre[:, 1:], post)


@_served(Site.Z, Site.ATTN_OUT)
def _head_sum(model: Model, tokens: Tensor, _end: Tensor) -> Iterator[LawResult]:
    captured = model.capture(tokens, [Site.Z, Site.ATTN_OUT])
    worst, size = 0.0, 1.0
    for layer in range(model.spec.n_layers):
        z, bias = captured[Site.Z][:, layer].double(), model.weights.output_bias(layer)
        written = einsum(z, model.weights.output(layer).double(), "row pos head d_head, head d_head d_model -> row pos d_model")
        written = written if bias is None else written + bias.double()
        norm = model.weights.post_attention_norm(layer)
        written = written if norm is None else norm.apply(written)
        out = captured[Site.ATTN_OUT][:, layer].double()
        worst, size = max(worst, float((written - out).abs().max())), max(size, float(out.abs().max()))
    yield _result(model, "head outputs sum to the attention output", worst, size)


@_served(Site.PATTERN)
def _pattern(model: Model, tokens: Tensor, _end: Tensor) -> Iterator[LawResult]:
    pattern = model.capture(tokens, [Site.PATTERN])[Site.PATTERN]
    rows = pattern.float().sum(-1)
    sinks = any(layer.sink for layer in model.parts.layers) if hasattr(model, "parts") else False
    name = "attention rows sum to at most 1, with a sink" if sinks else "attention rows sum to 1"
    yield _result(model, name, (rows - 1).clamp(min=0) if sinks else rows - 1)
    yield _result(model, "attention to later positions is 0", pattern.triu(1))


@_served(Site.RESID_POST)
def _readout(model: Model, tokens: Tensor, end: Tensor) -> Iterator[LawResult]:
    if not _reads_logits(model):
        return
    final = model.capture(tokens, [Site.RESID_POST], layers=[model.spec.n_layers - 1], at=end)[Site.RESID_POST][:, 0].double()
    ids = torch.arange(min(64, model.spec.d_vocab)).expand(2, -1)
    columns, bias = model.weights.unembed(ids).double(), model.weights.unembed_bias(ids)
    computed = einsum(model.weights.final_norm.apply(final), columns, "row d_model, row k d_model -> row k")
    computed = computed if bias is None else computed + bias
    cap = model.weights.softcap
    computed = computed if cap is None else cap * (computed / cap).tanh()
    logits = model.logits(tokens, end)[:, : ids.shape[1]].double()
    yield _result(model, "final norm and unembedding give the logits", computed - logits, logits)


def _reads_logits(model: Model) -> bool:
    try:
        return model.weights.final_norm is not None
    except ModelError:
        return False


def _edits(model: Model, tokens: Tensor, end: Tensor) -> Iterator[LawResult]:
    base = model.logits(tokens, end)
    layer = model.spec.n_layers // 2
    captured = model.capture(tokens, sorted(model.sites, key=lambda s: s.value), layers=[layer])
    for site, values in captured.items():
        written_back = model.with_edits([Edit(site, layer, values[:, 0])]).logits(tokens, end)
        yield _result(model, f"writing {site.value} back changes nothing", written_back - base, base)
        change = float((model.with_edits([Edit(site, layer, values[:, 0].flip(0))]).logits(tokens, end) - base).abs().max())
        detail = "the values of the other prompt were written, and the logits stayed the same"
        yield LawResult(f"edits of {site.value} reach the logits", change > 0, float(change == 0), 0.0, detail)


@_served(Site.Z)
def _purity(model: Model, tokens: Tensor, end: Tensor) -> Iterator[LawResult]:
    base = model.logits(tokens, end)
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()
    raised = False
    value = model.capture(tokens, [Site.Z], layers=[0])[Site.Z][:, 0]
    try:
        model.with_edits([Edit(Site.Z, 0, value[:, :, :, :-1])]).logits(tokens, end)
    except Exception:
        raised = True
    changed = float((model.logits(tokens, end) - base).abs().max())
    changed += float(not torch.equal(state, torch.get_rng_state())) + float(grad != torch.is_grad_enabled())
    yield _result(model, "an edit that raises changes nothing", changed, factor=0.0)
    yield _result(model, "an edit of the wrong shape is refused", 0.0 if raised else 1.0, factor=0.0)
