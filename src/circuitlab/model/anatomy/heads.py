"""Possible layouts of heads in the projections of attention, to be tested one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.model.anatomy.parts import HeadMap, LayerParts, out_width
from circuitlab.model.anatomy.watch import Watched, is_linear, is_norm

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["layouts", "norms_of_heads"]

_LETTERS = ("q", "k", "v")


def layouts(parts: LayerParts, watched: Watched) -> Iterator[LayerParts]:
    """The layer with every layout of queries, keys and values that the shapes allow, the likeliest first."""
    if parts.attention is None:
        return
    names = {id(module): name for name, module in parts.attention.named_modules()}
    calls = sorted((c for c in watched.within(parts.attention) if is_linear(c.module) and c.module is not parts.o), key=lambda c: c.began)
    modules = list({id(c.module): c.module for c in calls if not any(is_linear(part) for part in c.inside)}.values())
    letters = {letter: [m for m in modules if _letter(names[id(m)]) == letter] for letter in _LETTERS}
    if all(len(letters[letter]) == 1 for letter in _LETTERS):
        yield from _separate(parts, *(letters[letter][0] for letter in _LETTERS))
    elif len(modules) == 1:
        yield from _fused(parts, modules[0])
    else:
        yield from _latent(parts, {names[id(m)]: m for m in modules})


def _letter(name: str) -> str:
    """q, k or v by the last part of a module's name (q_proj, query, Wq), or the empty string."""
    tail = name.rsplit(".", 1)[-1].lower().removeprefix("w")
    if tail.startswith(("query_key", "qkv", "kv", "q_a", "q_b", "k_a", "k_b")):
        return ""
    return tail[:1] if tail[:1] in _LETTERS else ""


def _separate(parts: LayerParts, q: Any, k: Any, v: Any) -> Iterator[LayerParts]:
    heads, width = parts.n_heads, out_width(q)
    shared = out_width(v) // parts.d_value if not out_width(v) % parts.d_value else heads
    if shared and not out_width(k) % shared:
        d_key = out_width(k) // shared
        if width == 2 * heads * d_key:  # a query and an output gate for each head
            yield _with(
                parts,
                (q, _steps(heads, 2 * d_key, d_key)),
                (k, _steps(shared, d_key, d_key)),
                (v, _steps(shared, parts.d_value, parts.d_value)),
            )
        elif width == heads * d_key:
            yield _with(
                parts,
                (q, _steps(heads, d_key, d_key)),
                (k, _steps(shared, d_key, d_key)),
                (v, _steps(shared, parts.d_value, parts.d_value)),
            )


def _fused(parts: LayerParts, module: Any) -> Iterator[LayerParts]:
    """One fused projection: groups of heads one after another, each with its queries, keys and values in some order."""
    heads, d = parts.n_heads, parts.d_value
    width = out_width(module)
    shared = (width // d - heads) // 2
    if shared < 1 or width != (heads + 2 * shared) * d or heads % shared:
        return
    for groups in [g for g in range(1, shared + 1) if not shared % g]:
        for order in ("qkv", "qvk", "kvq"):
            yield _grouped(parts, module, (heads // groups, shared // groups), groups, order)


def _grouped(parts: LayerParts, module: Any, each: tuple[int, int], groups: int, order: str) -> LayerParts:
    sizes = {"q": each[0], "k": each[1], "v": each[1]}
    length = sum(sizes.values()) * parts.d_value
    index = {}
    offset = 0
    for letter in order:
        inside = torch.arange(sizes[letter] * parts.d_value).view(sizes[letter], parts.d_value) + offset
        index[letter] = torch.cat([inside + group * length for group in range(groups)])
        offset += sizes[letter] * parts.d_value
    return _with(parts, *((module, index[letter]) for letter in _LETTERS))


def _latent(parts: LayerParts, named: dict[str, Any]) -> Iterator[LayerParts]:
    """Latent attention (DeepSeek): queries of each head in one map; keys and values of each head side by side in another."""
    queries = [m for name, m in named.items() if name.rsplit(".", 1)[-1] in {"q_proj", "q_b_proj"}]
    both = [m for name, m in named.items() if name.rsplit(".", 1)[-1] == "kv_b_proj"]
    if len(queries) != 1 or len(both) != 1 or out_width(queries[0]) % parts.n_heads or out_width(both[0]) % parts.n_heads:
        return
    d_query, each = out_width(queries[0]) // parts.n_heads, out_width(both[0]) // parts.n_heads
    values = _steps(parts.n_heads, each, parts.d_value) + (each - parts.d_value)
    yield replace(parts, q=HeadMap(queries[0], _steps(parts.n_heads, d_query, d_query)), v=HeadMap(both[0], values))


def _steps(heads: int, step: int, width: int) -> Tensor:
    """Index of the first ``width`` columns of every ``step``, shape (head, width)."""
    return torch.arange(heads)[:, None] * step + torch.arange(width)[None]


def norms_of_heads(parts: LayerParts, watched: Watched) -> LayerParts:
    """The layer with the norms applied to its queries and keys right after their projections."""
    return replace(parts, q_norm=_norm_after(parts, parts.q, watched), k_norm=_norm_after(parts, parts.k, watched))


def _norm_after(parts: LayerParts, heads: HeadMap | None, watched: Watched) -> Any:
    if heads is None:
        return None
    projected = watched.of(heads.module)[0].left
    for call in watched.within(parts.attention):
        same = projected is not None and call.entered is not None and call.entered.data_ptr() == projected.data_ptr()
        if same and is_norm(call.module) and call.entered.numel() == projected.numel():  # type: ignore[union-attr]
            return call.module
    return None


def _with(parts: LayerParts, q: tuple[Any, Tensor], k: tuple[Any, Tensor], v: tuple[Any, Tensor]) -> LayerParts:
    return replace(parts, q=HeadMap(*q), k=HeadMap(*k), v=HeadMap(*v))
