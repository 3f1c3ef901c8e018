"""Path patching equals three whole passes per sender with plain hooks on Hugging Face models: families, receivers, directions, MLPs."""

from __future__ import annotations

import numpy as np
import pytest
from test_patching_parity import assert_parity
from tolerances import TINY_FLOAT32

from circuitlab.execute.paths import path_effect
from circuitlab.methods.path_patching import PathPatching
from circuitlab.metrics import LogitDiff, LogProb
from circuitlab.model import load_model
from circuitlab.testing.tiny import FAMILIES, tiny_batch, tiny_hf
from reference.path_patching import Parts, Run, chained, end_of_path, recorded, sender_values

METRIC = LogitDiff()
SENDERS = [("head", 0, 0), ("head", 0, 3), ("head", 1, 2), ("head", 2, 1), ("mlp", 0), ("mlp", 1), ("embed",)]
RECEIVERS = {
    "logits": [("logits",)],
    "a2.h1<q>": [("q", 2, 1)],
    "a1.kv1<k>": [("k", 1, 1)],
    "a2.kv0<v>": [("v", 2, 0)],
    "m2": [("mlp", 2)],
    "m0": [("mlp", 0)],
    "m1": [("mlp", 1)],
    "r1.pre": [("pre", 1)],
    "r1.mid": [("mid", 1)],
    "r2.post": [("post", 2)],
    "a1.h3<q> a1.kv0<k> a2.kv1<v> m2": [("q", 1, 3), ("k", 1, 0), ("v", 2, 1), ("mlp", 2)],
}


@pytest.fixture(scope="module", params=FAMILIES)
def both(request):
    """The model as circuitlab wraps it, and another copy for plain hooks."""
    return load_model(tiny_hf(request.param)), Parts(tiny_hf(request.param))


def slow_effects(parts, batch, receivers, direction, mlps="recomputed", mark=None, metric=METRIC) -> np.ndarray:
    """(receiver set, sender, pair) effects."""
    out = np.zeros((len(receivers), len(SENDERS), batch.n_pairs))
    for i in range(batch.n_pairs):
        one = batch.select([i])
        clean, corrupt = Run(parts, one.clean), Run(parts, one.corrupt)
        edited, source = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
        at = slice(None) if mark is None else slice(int(one.mark(mark)), int(one.mark(mark)) + 1)
        base = metric(edited.logits[None], one).item()
        for j, sender in enumerate(SENDERS):
            every = [receiver for some in receivers for receiver in some]
            values = recorded(parts, edited, sender_values(parts, sender, source), every, at, mlps == "frozen")
            for k, some in enumerate(receivers):
                effect = metric(end_of_path(parts, edited, values, some, at)[None], one).item() - base
                out[k, j, i] = effect if direction == "denoising" else -effect
    return out


def fast_effects(scores, mark=None) -> np.ndarray:
    """(sender, pair) of the same senders."""
    part = {"head": "heads", "mlp": "mlps", "embed": "embed"}
    return np.stack([scores.values(part[name], mark=mark)[(slice(None), *where)] for name, *where in SENDERS])


def compare(both, receivers, *, n=2, **params) -> None:
    model, parts = both
    batch = tiny_batch(model, n, unequal=True)
    mark = params.get("positions", (None,))[0]
    expected = slow_effects(parts, batch, list(receivers.values()), params["direction"], params["mlps"], mark)
    for names, wanted in zip(receivers, expected, strict=True):
        method = PathPatching(senders=("heads", "mlps", "embed"), receivers=tuple(names.split()), pairs_per_pass=3, **params)
        assert_parity(fast_effects(method(model, batch, METRIC), mark), wanted, TINY_FLOAT32)


def usable(model) -> dict:
    return {names: some for names, some in RECEIVERS.items() if ".mid" not in names or not model.spec.parallel}


@pytest.mark.some(both=1, direction=4, mlps=4)
@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_every_receiver(request, both, direction, mlps, share) -> None:
    family, receivers = request.node.callspec.params["both"], usable(both[0])
    if family not in {"gpt2", "llama", "gemma3"}:
        receivers = {names: receivers[names] for names in share(receivers, family, 3)}
    compare(both, receivers, direction=direction, mlps=mlps)


@pytest.mark.some(3)
def test_at_marks(both) -> None:
    names = {name: RECEIVERS[name] for name in ("a1.kv1<k>", "m0", "r1.pre", "a1.h3<q> a1.kv0<k> a2.kv1<v> m2")}
    params = {"direction": "denoising", "mlps": "recomputed"}
    compare(both, names, positions=("CHANGE",), **params)
    compare(both, {name: RECEIVERS[name] for name in ("logits", "a2.h1<q>", "m2")}, positions=("END",), **params)


CHAINS = {
    "a0.h0->a1.h1<q>->r2.pre": (("head", 0, 0), [("q", 1, 1), ("pre", 2)]),
    "embed->a1.kv1<k>->a2.kv0<v>->logits": (("embed",), [("k", 1, 1), ("v", 2, 0), ("logits",)]),
    "m0->a1.kv0<v>->a2.h1<q>->r2.post": (("mlp", 0), [("v", 1, 0), ("q", 2, 1), ("post", 2)]),
    "m0->a1.kv1<v>->m2->logits": (("mlp", 0), [("v", 1, 1), ("mlp", 2), ("logits",)]),
    "a0.h2->m1->a2.kv0<k>": (("head", 0, 2), [("mlp", 1), ("k", 2, 0)]),
    "embed->a0.kv0<v>->m1->a2.kv1<v>": (("embed",), [("v", 0, 0), ("mlp", 1), ("v", 2, 1)]),
}
LOUDER = 20
"""Effects of long paths are small; they are compared at a twentieth of the tolerance."""


@pytest.mark.some(both=1, direction=3)
@pytest.mark.parametrize(("direction", "mlps"), [("denoising", "recomputed"), ("noising", "frozen")])
def test_paths_of_several_hops(both, direction, mlps) -> None:
    model, parts = both
    batch = tiny_batch(model, 2, unequal=True, seed=5)
    for path, (sender, hops) in CHAINS.items():
        expected = np.zeros(batch.n_pairs)
        for i in range(batch.n_pairs):
            one = batch.select([i])
            clean, corrupt = Run(parts, one.clean), Run(parts, one.corrupt)
            edited, source = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
            patched = chained(parts, edited, source, sender, hops, mlps == "frozen")
            effect = (METRIC(patched[None], one) - METRIC(edited.logits[None], one)).item()
            expected[i] = effect if direction == "denoising" else -effect
        found = path_effect(model, batch, METRIC, path, direction=direction, mlps=mlps)
        assert found.path == path
        assert_parity(LOUDER * found.values, LOUDER * expected, TINY_FLOAT32)


def test_a_metric_over_the_whole_vocabulary() -> None:
    model, parts = load_model(tiny_hf("gemma3")), Parts(tiny_hf("gemma3"))
    batch, metric = tiny_batch(model, 2, unequal=True), LogProb()
    expected = slow_effects(parts, batch, [[("logits",)], [("v", 1, 1)]], "noising", metric=metric)
    for name, wanted in zip(("logits", "a1.kv1<v>"), expected, strict=True):
        method = PathPatching(senders=("heads", "mlps", "embed"), receivers=(name,), direction="noising")
        assert_parity(fast_effects(method(model, batch, metric)), wanted, TINY_FLOAT32)


@pytest.mark.parametrize(
    "wrong",
    [{"direction": "noising"}, {"mlps": "frozen"}, {"positions": ("CHANGE",)}, {"receivers": ("a2.h2<q>",)}, {"receivers": ("logits",)}],
)
def test_the_check_can_fail(wrong) -> None:
    model, parts = load_model(tiny_hf("qwen3")), Parts(tiny_hf("qwen3"))
    batch = tiny_batch(model, 2)
    (expected,) = slow_effects(parts, batch, [[("q", 2, 1)]], "denoising")
    params = {"senders": ("heads", "mlps", "embed"), "receivers": ("a2.h1<q>",)}
    right = fast_effects(PathPatching(**params)(model, batch, METRIC))
    assert_parity(right, expected, TINY_FLOAT32)
    method = PathPatching(**(params | wrong))
    with pytest.raises(AssertionError):
        assert_parity(fast_effects(method(model, batch, METRIC), *wrong.get("positions", ())), expected, TINY_FLOAT32)
