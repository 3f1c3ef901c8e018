"""Test the parts of a model: change the value at a site, and check that what depends on it changes, and nothing else.

All layers are tested in one run. Every row holds the same prompt and changes a different head. The stream that leaves a layer is set back
to that of the first row, so that no layer sees the changes made in earlier layers. Queries, keys and values are first overwritten with
random numbers, so that a test does not depend on the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.model.anatomy.parts import LayerParts, ModelParts
from circuitlab.model.hooks import HookedRun
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["attention_faults", "stream_faults"]

_MOST_HEADS = 8
_PLACE = 2
_CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}


def attention_faults(root: Any, parts: ModelParts, tokens: Tensor, known: Collection[Site] = ()) -> dict[Site, str]:
    """Sites inside attention that fail a test, with what was observed; those ``known`` to be faulty are not tested.

    ``tokens`` is one prompt, shape (1, pos). A query must change the attention weights of its own head at its own position only. A key
    must change the weights of its group from its own position on. A value must change z of its group and nothing else. Attention weights
    must change z of their own head and position only.
    """
    tests: dict[Site, Callable[[_Trial], str]] = {Site.PATTERN: _pattern, Site.Q: _query, Site.K: _key, Site.V: _value}
    faults: dict[Site, str] = {}
    for site, test in tests.items():
        if site not in known and all(_has(layer, site) for layer in parts.layers):
            fault = test(_Trial(root, parts, tokens, site))
            if fault:
                faults[site] = fault
    return faults


def _has(layer: LayerParts, site: Site) -> bool:
    if site is Site.PATTERN:
        return layer.attention is not None
    return {Site.Q: layer.q, Site.K: layer.k, Site.V: layer.v}[site] is not None


@dataclass(frozen=True, eq=False)
class _Trial:
    """One run in which every row but the first changes one head of a site."""

    root: Any
    parts: ModelParts
    tokens: Tensor
    site: Site

    @property
    def heads(self) -> list[int]:
        """The heads that are tested, the first and the last among them."""
        count = self.parts.n_heads if self.site in {Site.Q, Site.PATTERN} else self.parts.n_kv_heads
        return sorted({round(i * (count - 1) / max(1, min(count, _MOST_HEADS) - 1)) for i in range(min(count, _MOST_HEADS))})

    def run(self, change: Callable[[Tensor, int], Tensor], read: Site) -> list[Tensor]:
        """The value of a site in every layer, (row, ...): row 0 is unchanged, row i + 1 has head ``heads[i]`` changed."""
        values: list[Tensor] = []
        projections = [site for site in (Site.Q, Site.K, Site.V) if all(_has(layer, site) for layer in self.parts.layers)]
        sites = [(site, n) for n in range(len(self.parts.layers)) for site in {*projections, self.site, read, Site.RESID_POST}]

        def tap(site: Site, layer: int, value: Tensor) -> Tensor:
            if site in projections:
                generator = torch.Generator().manual_seed(layer)
                noise = torch.randn(value.shape[1:], generator=generator).to(value)
                value = noise.expand_as(value).clone()
            if site is self.site:
                value = value.clone()
                for row, head in enumerate(self.heads, start=1):
                    value[row] = change(value[row], head)
            if site is read:
                values.append(value.detach().clone())
            return value[:1].expand_as(value).clone() if site is Site.RESID_POST else value

        rows = self.tokens.expand(len(self.heads) + 1, -1)
        HookedRun(self.root, self.parts).logits(rows, torch.full((len(rows),), rows.shape[1] - 1), sites, tap)
        return values

    def moved(self, values: Tensor) -> Tensor:
        """Which entries of each row differ from the first row's: bool, (row - 1, ...)."""
        close = _CLOSE.get(self.root_dtype, 2e-2)
        return (values[1:] - values[:1]).abs() > close * values.abs().max().clamp(min=1e-30)

    @property
    def root_dtype(self) -> torch.dtype:
        """Dtype of the model's weights."""
        return next(iter(self.root.parameters())).dtype

    def group(self, head: int) -> list[int]:
        """Query heads that share a key/value head."""
        size = self.parts.n_heads // self.parts.n_kv_heads
        return list(range(head * size, (head + 1) * size))


def _reversed(value: Tensor, head: int) -> Tensor:
    """A copy with one head's vector reversed at one position: another vector of the same norm, also for norms over all heads."""
    out = value.clone()
    out[_PLACE, head] = value[_PLACE, head].flip(-1)
    return out


def _query(trial: _Trial) -> str:
    for layer, pattern in enumerate(trial.run(_reversed, Site.PATTERN)):
        moved = trial.moved(pattern).any(-1)  # (head tried, head, query)
        for row, head in enumerate(trial.heads):
            expected = torch.zeros_like(moved[row])
            expected[head, _PLACE] = True
            if not torch.equal(moved[row], expected):
                return f"in layer {layer} another query of head {head} does not change that head's attention, and only there"
    return ""


def _key(trial: _Trial) -> str:
    for layer, pattern in enumerate(trial.run(_reversed, Site.PATTERN)):
        moved = trial.moved(pattern).any(-1)
        for row, head in enumerate(trial.heads):
            own_heads = trial.group(head)
            others = [h for h in range(moved.shape[1]) if h not in own_heads]
            later = moved[row][own_heads][:, _PLACE + 1 :].any(-1).all()
            if moved[row][others].any() or moved[row][:, :_PLACE].any() or not later:
                whose = "does not change the attention of its query heads, and only theirs"
                return f"in layer {layer} another key of key/value head {head} {whose}"
    return ""


def _value(trial: _Trial) -> str:
    def change(value: Tensor, head: int) -> Tensor:
        out = value.clone()
        out[:, head] = value[:, head].flip(-1)
        return out

    for layer, z in enumerate(trial.run(change, Site.Z)):
        moved = trial.moved(z).any(-1).any(1)  # (head tried, head)
        for row, head in enumerate(trial.heads):
            expected = torch.zeros_like(moved[row])
            expected[trial.group(head)] = True
            if not torch.equal(moved[row], expected):
                return f"in layer {layer} another value of key/value head {head} does not change z of its query heads, and only theirs"
    return ""


def _pattern(trial: _Trial) -> str:
    def change(value: Tensor, head: int) -> Tensor:
        out = value.clone()
        out[head, _PLACE] = out[head, _PLACE].roll(1, -1) * 0.5
        return out

    for layer, z in enumerate(trial.run(change, Site.Z)):
        moved = trial.moved(z).any(-1)  # (head tried, pos, head)
        for row, head in enumerate(trial.heads):
            if not moved[row, _PLACE, head]:
                return f"in layer {layer} other attention weights of head {head} do not reach its output"
            others = moved[row].clone()
            others[_PLACE, head] = False
            if others[:, [h for h in range(others.shape[1]) if h != head]].any() or others[:_PLACE].any():
                return f"in layer {layer} attention weights of head {head} change another head's output"
    return ""


def stream_faults(root: Any, parts: ModelParts, tokens: Tensor) -> dict[Site, str]:
    """Sites of the residual stream that fail a test, with what was observed: values, also random ones, must add up and can be rewritten."""
    run = HookedRun(root, parts)
    layers = range(len(parts.layers))
    wanted = [Site.RESID_PRE, Site.ATTN_OUT, Site.RESID_MID, Site.MLP_OUT, Site.RESID_POST]
    served = [site for site in wanted if site in parts.sites]
    at = torch.full((len(tokens),), tokens.shape[1] - 1)
    plain = run.logits(tokens, at)
    faults: dict[Site, str] = {}
    for anew in (False, True):
        seen = _streams(run, tokens, at, served, layers, anew=anew)
        faults = _unlike(seen, parts, anew=anew) | faults
    return _unlike_written_back(run, tokens, served, plain) | faults


def _unlike_written_back(run: HookedRun, tokens: Tensor, served: Sequence[Site], plain: Tensor) -> dict[Site, str]:
    """Sites where a site's own value, written back, changes the logits: all in one run first, and each alone only if that changes them."""
    at = torch.full((len(tokens),), tokens.shape[1] - 1)

    def changes(sites: Sequence[Site]) -> bool:
        every = [(site, layer) for site in sites for layer in range(len(run.parts.layers))]
        return not _near(run.logits(tokens, at, every, lambda _site, _layer, value: value.clone()), plain)

    if not changes(served):
        return {}
    why = "writing its own value back changes the logits"
    return {site: why for site in served if changes([site])} or dict.fromkeys(served, f"{why}, with the other sites of the stream")


def _streams(
    run: HookedRun, tokens: Tensor, at: Tensor, served: Sequence[Site], layers: range, *, anew: bool
) -> dict[tuple[Site, int], Tensor]:
    """Every point of the stream, in a plain run or (``anew``) in one where attention and MLPs add random values in every layer."""
    seen: dict[tuple[Site, int], Tensor] = {}

    def tap(site: Site, layer: int, value: Tensor) -> Tensor:
        if anew and site in {Site.ATTN_OUT, Site.MLP_OUT}:
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(layer)).to(value)
            value = noise * value.abs().mean().clamp(min=0.1)
        seen[site, layer] = value.detach().clone()
        return value

    run.logits(tokens, at, [(site, n) for site in {*served, Site.RESID_PRE, Site.RESID_POST} for n in layers], tap)
    return seen


def _unlike(seen: dict[tuple[Site, int], Tensor], parts: ModelParts, *, anew: bool) -> dict[Site, str]:
    faults: dict[Site, str] = {}
    when = " when other values are written" if anew else ""
    for layer in range(len(parts.layers)):
        pre, post = seen[Site.RESID_PRE, layer], seen[Site.RESID_POST, layer]
        if layer and not _near(pre, seen[Site.RESID_POST, layer - 1]):
            faults.setdefault(Site.RESID_POST, f"layer {layer} does not read what layer {layer - 1} leaves{when}")
        if (Site.ATTN_OUT, layer) not in seen or (Site.MLP_OUT, layer) not in seen:
            continue
        total = pre + seen[Site.ATTN_OUT, layer] + seen[Site.MLP_OUT, layer]
        if not _near(total, post):
            why = f"the stream leaving layer {layer} is not what entered it plus attention and MLP{when}"
            faults |= {site: faults.get(site, why) for site in (Site.ATTN_OUT, Site.MLP_OUT, Site.RESID_MID)}
    return faults


def _near(a: Tensor, b: Tensor) -> bool:
    close = _CLOSE.get(a.dtype, 2e-2)
    return bool((a - b).abs().max() <= close * b.abs().max().clamp(min=1.0))
