"""Every family against plain hooks on an untouched Hugging Face model, written down here module by module."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from family_places import FAMILIES, FURTHER, READ_OUT

from circuitlab.methods import get_method
from circuitlab.metrics import LogitDiff
from circuitlab.model.batch import ContrastBatch
from circuitlab.testing.doctor import diagnose
from circuitlab.testing.tiny import shared_tiny_model, tiny_hf

HEADS, D_HEAD = 4, 8


class Reference:
    """One Hugging Face model and what plain hooks find on it."""

    def __init__(self, family: str) -> None:
        self.names, self.hf = FAMILIES[family], tiny_hf(family)
        self.layers = self.hf.get_submodule(self.names.layers)
        self.rotary = copy.deepcopy(getattr(getattr(self.hf, "model", None), "rotary_emb", None))
        self.kept: dict[tuple, object] = {}  # unedited runs, which every node of a pair is compared with

    def module(self, layer: int, path: str) -> torch.nn.Module:
        return self.layers[layer].get_submodule(path)

    def place(self, kind: str, layer: int, head: int | None) -> tuple[torch.nn.Module, bool, slice]:
        """Module, whether its input is meant, and which numbers."""
        names = self.names
        if kind == "z":
            return self.module(layer, f"{names.attn}.{names.o}"), True, slice(head * names.d_value, (head + 1) * names.d_value)
        if kind in {"q", "k", "v"}:
            path, start = getattr(names, kind)(head)
            return self.module(layer, f"{names.attn}.{path}"), False, slice(start, start + D_HEAD)
        whole = {"attns": names.attn_out or names.attn, "mlps": names.mlp}
        if kind in whole:
            return self.module(layer, whole[kind]), False, slice(None)
        return self.layers[layer], kind == "resid_pre", slice(None)

    @contextmanager
    def hooked(self, places: list, act: Callable):
        handles = []
        for index, (module, reads_input, numbers) in enumerate(places):

            def write(value, index=index, numbers=numbers):
                new = value.clone()
                new[..., numbers] = act(index, value[..., numbers])
                return new

            if reads_input:

                def before(_m, args, named, write=write):
                    if args:
                        return (write(args[0]), *args[1:]), named
                    return args, {**named, "hidden_states": write(named["hidden_states"])}

                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            else:

                def after(_m, _a, out, write=write):
                    return write(out) if isinstance(out, torch.Tensor) else (write(out[0]), *out[1:])

                handles.append(module.register_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def run(self, tokens: list[int], places: list, act: Callable = lambda _i, value: value) -> torch.Tensor:
        if self.rotary is not None:  # tables that grew with a longer prompt would stay grown
            self.hf.model.rotary_emb = copy.deepcopy(self.rotary)
        with self.hooked(places, act):
            return self.hf(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]

    def seen(self, tokens: list[int], places: list) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}

        def keep(index, value):
            found[index] = value.clone()
            return value

        self.run(tokens, places, keep)
        return [found[i] for i in range(len(places))]

    def patched(self, pair, kind: str, layer: int, head: int | None = None) -> float:
        """metric(patched) - metric(corrupt): one activation of the corrupt run taken from the clean run."""
        clean, corrupt, answer, foil = pair
        if kind == "pattern":
            patterns = self.once(("patterns", *clean), lambda: self.patterns(clean))
            after = self.with_patterns(corrupt, {(layer, head): patterns[layer]})
        else:
            mid = kind == "resid_mid"  # the stream between attention and MLP is what entered and what attention added
            wanted = [(one, layer, head) for one in (("resid_pre", "attns") if mid else (kind,))]
            values = [self.once((kind, head is None, *clean), lambda: self.clean_values(clean, wanted))[one] for one in wanted]
            after = self.run(corrupt, [self.place(*one) for one in wanted], lambda i, _value: values[i])
        before = self.once(("before", *corrupt), lambda: self.run(corrupt, []))
        return float((after[answer] - after[foil]) - (before[answer] - before[foil]))

    def once(self, key: tuple, make: Callable):
        """What was made for this key before."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def clean_values(self, tokens: list[int], like: list[tuple]) -> dict[tuple, torch.Tensor]:
        """Values of the same kinds at every layer and head, of one run."""
        counts = {"k": self.names.kv, "v": self.names.kv}
        every = [
            (kind, layer, number)
            for kind, _, head in like
            for layer in range(len(self.layers))
            for number in ([None] if head is None else range(counts.get(kind, HEADS)))
        ]
        return dict(zip(every, self.seen(tokens, [self.place(*one) for one in every]), strict=True))

    @contextmanager
    def softmax(self, change: Callable):
        """Every softmax that runs inside an attention module, by layer."""
        now: list[int] = []
        handles = []
        for layer in range(len(self.layers)):
            attention = self.module(layer, self.names.attn)
            handles.append(attention.register_forward_pre_hook(lambda _m, _a, layer=layer: now.append(layer)))
            handles.append(attention.register_forward_hook(lambda _m, _a, _o: now.clear()))
        originals = torch.nn.functional.softmax, torch.softmax

        def wrap(function):
            def inside(*args, **named):
                out = function(*args, **named)
                return change(now[-1], out) if now else out

            return inside

        torch.nn.functional.softmax, torch.softmax = (wrap(one) for one in originals)
        try:
            yield
        finally:
            torch.nn.functional.softmax, torch.softmax = originals
            for handle in handles:
                handle.remove()

    def patterns(self, tokens: list[int]) -> dict[int, torch.Tensor]:
        found: dict[int, torch.Tensor] = {}

        def keep(layer, out):
            found[layer] = out.clone()
            return out

        with self.softmax(keep):
            self.run(tokens, [])
        return found

    def with_patterns(self, tokens: list[int], values: dict) -> torch.Tensor:
        keys = len(tokens)  # not the sink, where there is one

        def write(layer, out):
            new = out.clone()
            for (place, head), value in values.items():
                if place == layer:
                    new[..., head, :, :keys] = value[..., head, :, :keys]  # also where prompts and heads share an axis: one prompt here
            return new

        with self.softmax(write):
            return self.run(tokens, [])

    def shares(self, tokens: list[int], answer: int, foil: int) -> np.ndarray:
        """Direct contribution of each head to the logit difference, (layer, head), norm scales as in the run."""
        names, norm = self.names, self.hf.get_submodule(self.names.norm)
        z_places = [(self.module(layer, f"{names.attn}.{names.o}"), True, slice(None)) for layer in range(len(self.layers))]
        *z, final, normed = self.seen(tokens, [*z_places, (norm, True, slice(None)), (norm, False, slice(None))])
        unembed = self.hf.get_output_embeddings()
        plain, logits = unembed(normed)[0, -1], self.run(tokens, [])
        out = np.zeros((len(self.layers), HEADS))
        for layer, head in np.ndindex(len(self.layers), HEADS):
            o = self.module(layer, f"{names.attn}.{names.o}")
            kept = torch.zeros_like(z[layer])
            kept[..., head * names.d_value : (head + 1) * names.d_value] = z[layer][..., head * names.d_value : (head + 1) * names.d_value]
            written = o(kept) - o(torch.zeros_like(kept))
            if names.attn_post:
                written = frozen(self.module(layer, names.attn_post), o(z[layer]), written)
            direct = unembed(frozen(norm, final, written * names.factor)) - unembed(torch.zeros_like(final))
            by_token = direct[0, -1] * logits / plain
            out[layer, head] = float(by_token[answer] - by_token[foil])
        return out


def frozen(norm: torch.nn.Module, whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """What a norm makes of a part of its input, with the scale that the whole has."""
    zero = norm(torch.zeros_like(whole))  # the bias
    subtracts_mean = "LayerNorm" in type(norm).__name__
    centre = (lambda x: x - x.mean(-1, keepdim=True)) if subtracts_mean else (lambda x: x)
    return centre(part) * (norm(whole) - zero) / centre(whole)


def prompts(family: str) -> tuple[list, ContrastBatch]:
    """Pairs of three lengths, one of them longer than every window; of two lengths for the families that came later."""
    generator = torch.Generator().manual_seed(3)
    pairs = []
    for length, place in ((7, 2), (16, 5), (11, 1))[: 2 if family in FURTHER else 3]:
        row = torch.randint(1, 48, (length,), generator=generator).tolist()
        other = [*row[:place], (row[place] + 7) % 47 + 1, *row[place + 1 :]]
        pairs.append((row, other, 5 + place, 30 + place))
    clean, corrupt, answers, foils = zip(*pairs, strict=True)
    return pairs, ContrastBatch.from_tokens(list(clean), list(corrupt), [[a] for a in answers], [[f] for f in foils])


@functools.cache
def loaded(family: str):
    model = shared_tiny_model(family)
    return Reference(family), model, diagnose(model, laws=False)


@pytest.mark.by_turns(16)
@pytest.mark.parametrize("family", FAMILIES)
def test_patching_equals_plain_hooks(family: str, share) -> None:
    reference, model, verdict = loaded(family)
    pairs, batch = prompts(family)
    names = reference.names
    assert verdict.logits_ok
    counts = {"z": HEADS, "q": HEADS, "k": names.kv, "v": names.kv, "pattern": HEADS}
    sites = {"attns": "attn_out", "mlps": "mlp_out"}
    kinds = [*counts, "attns", "mlps", "resid_pre", "resid_mid", "resid_post"]
    served = [kind for kind in kinds if verdict.sites[sites.get(kind, kind)].state != "refused"]
    assert set(kinds) - set(served) <= set(names.lacks)
    for kind in share(served, family, 2) if family in FURTHER else served:
        per_head = kind in counts
        wanted = np.array(
            [
                [
                    [reference.patched(pair, kind, layer, head) for head in (range(counts[kind]) if kind in counts else [None])]
                    for layer in range(len(reference.layers))
                ]
                for pair in pairs
            ]
            if not (kind in "qkv" and getattr(names, kind) is None)
            else np.nan
        )
        if np.isnan(wanted).any():
            continue
        part = "kv_heads" if kind in {"k", "v"} else "heads" if per_head else kind
        params = {"parts": ("heads",), "site": kind} if per_head else {"parts": (kind,)}
        exact = verdict.sites[sites.get(kind, kind)].state == "exact"
        for engine in ("exact", "hooks") if exact and kind in {"z", "resid_post"} else ("exact",) if exact else ("hooks",):
            found = get_method("activation_patching", {**params, "engine": engine})(model, batch, LogitDiff()).values(part)
            np.testing.assert_allclose(
                found.reshape(wanted.shape), wanted, atol=1e-4 * max(1, np.abs(wanted).max()), err_msg=f"{kind} {engine}"
            )
        assert np.abs(wanted).max() > 1e-3, kind


@pytest.mark.by_turns(6)
@pytest.mark.parametrize("family", READ_OUT)
def test_logit_attribution_equals_plain_hooks(family: str) -> None:
    reference, model, verdict = loaded(family)
    assert verdict.methods["logit_attribution"].state != "refused"
    pairs, batch = prompts(family)
    with torch.no_grad():
        wanted = np.array([reference.shares(clean, answer, foil) for clean, _, answer, foil in pairs])
    found = get_method("logit_attribution")(model, batch, LogitDiff()).values("heads")
    np.testing.assert_allclose(found, wanted, atol=2e-4 * max(1, np.abs(wanted).max()))
