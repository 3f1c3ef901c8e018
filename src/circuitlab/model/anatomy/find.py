"""Find the parts of a model from one watched run.

Parts are recognised by what they do, not by what a family calls them. Attention is where a softmax over keys runs, and its output
projection is the linear map that follows. A norm belongs to the part that reads its output. What a part adds to the residual stream is the
output that, times one factor, equals the difference between two points of the stream. `circuitlab.model.anatomy.heads` then tries the
layouts of heads in the projections.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.anatomy.parts import LayerParts, Write
from circuitlab.model.anatomy.watch import Call, Watched, is_linear, is_norm, watch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Probe", "find_layers", "find_parts", "mixing"]

_CLOSE = {torch.float64: 1e-9, torch.float32: 1e-5}
_GATED, _PLAIN = 3, 2


@dataclass(frozen=True, eq=False)
class Probe:
    """A watched run of a model.

    Parameters
    ----------
    watched : Watched
        The calls of the run.
    shape : (int, int)
        Number of prompts and of positions.
    factors : sequence of float
        Numbers in the configuration: a measured factor close to one of them, or to 1, is taken to be that number.
    mixed : frozenset of int
        Modules, by `id`, whose input depends on the attention weights of their layer (see `mixing`).
    """

    watched: Watched
    shape: tuple[int, int]
    factors: Sequence[float]
    mixed: frozenset[int] = frozenset()

    def stream(self, value: Tensor) -> Tensor:
        """A value as (prompt, pos, d_model), also where a family concatenates prompts into one row."""
        return value.reshape(*self.shape, value.shape[-1])


def find_layers(root: Any, probe: Probe) -> list[Any]:
    """The layers of a model: the largest list of modules that passes the residual stream from one to the next.

    Raises
    ------
    ModelError
        If no list of modules was run in order on a stream of one width.
    """
    best: list[Any] = []
    size = 0
    for module in root.modules():
        if isinstance(module, torch.nn.ModuleList | torch.nn.Sequential) and len(module) and _hands_on(list(module), probe):
            n_parameters = sum(value.numel() for value in module.parameters())
            if n_parameters > size:
                best, size = list(module), n_parameters
    if not best:
        what = f"{type(root).__name__} runs no list of layers on one residual stream."
        raise ModelError(what, "circuitlab serves decoder-only transformers, whose layers follow one another.")
    return best


def _hands_on(modules: list[Any], probe: Probe) -> bool:
    calls = [probe.watched.of(module) for module in modules]
    if any(len(of_module) != 1 or of_module[0].entered is None or of_module[0].left is None for of_module in calls):
        return False
    shapes = {tuple(value.shape) for (call,) in calls for value in (call.entered, call.left) if value is not None}
    if len(shapes) != 1 or next(iter(shapes))[:-1] != probe.shape:
        return False
    return all(_reads(after, before) for (before,), (after,) in itertools.pairwise(calls))


def _reads(after: Call, before: Call) -> bool:
    """Whether a call reads the output of an earlier one. Maps that run side by side in a list (Gemma 3n) do not, and are not layers."""
    return _same(before.left, after.entered) or torch.equal(before.value, after.entered)  # type: ignore[arg-type]


def mixing(root: Any, layers: Sequence[Any], tokens: Tensor, probe: Probe) -> frozenset[int]:
    """Modules, by `id`, whose input depends on the attention weights of their layer.

    The model runs again with the attention weights of every layer moved to other keys, while each layer reads the input that it had in
    the watched run. A gate that is computed after the softmax from the stream alone (Laguna, Beam) could be mistaken for the output
    projection; its input does not change here.
    """

    def move(value: Tensor) -> Tensor:
        return value.roll(1, -1) * 0.5 if _keyed(value, probe.shape) else value

    with ExitStack() as hooks, watch(root, move) as moved:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(_replacing_input(probe.watched.of(layer)[0].entered), with_kwargs=True).remove)
        root(input_ids=tokens, use_cache=False)
    before, after = ({id(call.module): call.entered for call in run.calls} for run in (probe.watched, moved))
    return frozenset(module for module in before.keys() & after.keys() if _moved(before[module], after[module]))


def _replacing_input(stream: Any) -> Any:
    def enter(_module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return ((stream.clone(), *args[1:]), named) if args else (args, {**named, "hidden_states": stream.clone()})

    return enter


def _moved(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and not torch.equal(a, b)


def find_parts(layer: Any, probe: Probe) -> LayerParts:
    """The parts of one layer, without the layout of heads in the projections."""
    (call,) = probe.watched.of(layer)
    inner = probe.watched.within(layer)
    attention = _attention(layer, inner, probe)
    if attention is None:
        return LayerParts(layer)
    parts, path = attention
    outer = _call(inner, path[0])
    attn_norm = _norm_before(inner, outer.entered)
    feeds = _mlp(layer, inner, path[0])
    parts = replace(parts, attn_norm=attn_norm)
    if feeds is None:
        return parts
    mlp_norm = _norm_before(inner, feeds.entered)
    read = feeds.entered if mlp_norm is None else _call(inner, mlp_norm).entered
    posts = tuple(norm for norm in _norms_after(inner, outer.left) if norm is not mlp_norm)
    parts = replace(
        parts, mlp=feeds.module, mlp_maps=feeds.maps, mlp_norm=mlp_norm, attn_post=posts, mlp_post=_norms_after(inner, feeds.left),
        parallel=_same(read, call.entered) or (mlp_norm is not None and mlp_norm is attn_norm) or _same(feeds.entered, outer.entered),
    )  # fmt: skip
    attends = [*_left(inner, parts.attn_post), *_left(inner, tuple(path)), *_left(inner, (parts.o,))]
    adds = [*_left(inner, parts.mlp_post), *_left(inner, (feeds.last,)), *_left(inner, parts.mlp_maps[-1:])]
    return _writes(parts, (call.entered, read, call.left), (attends, adds), probe)


@dataclass(frozen=True, eq=False)
class _Mlp:
    """An MLP: one module, or two maps that are children of the layer itself (OPT)."""

    module: Any
    entered: Any
    left: Any
    last: Any
    maps: tuple[Any, ...]


def _attention(layer: Any, inner: Sequence[Call], probe: Probe) -> tuple[LayerParts, tuple[Any, ...]] | None:
    """The module in which one softmax over keys runs, its output projection, and the modules around it, outermost first."""
    softmaxes = [
        softmax
        for softmax in probe.watched.softmaxes
        if any(part is layer for part in softmax.inside) and _keyed(softmax.value, probe.shape)
    ]
    if len(softmaxes) != 1:
        return None
    (softmax,) = softmaxes
    depth = next(i for i, part in enumerate(softmax.inside) if part is layer)
    path = softmax.inside[depth + 1 :]
    heads = softmax.value.shape[1] if softmax.value.ndim == 4 else softmax.value.shape[0] // probe.shape[0]  # noqa: PLR2004
    for end in range(len(path), 0, -1):
        module = path[end - 1]
        after = [
            c for c in _outer_maps(inner, module)
            if c.began > softmax.when and id(c.module) in probe.mixed and c.entered is not None and not c.entered.shape[-1] % heads
        ]  # fmt: skip
        if after:
            first = after[0]
            width = int(first.entered.shape[-1]) // heads  # type: ignore[union-attr]
            sink = softmax.value.shape[-1] > probe.shape[1]
            return LayerParts(layer, attention=module, n_heads=heads, d_value=width, o=first.module, sink=sink), path[:end]
    return None


def _keyed(value: Tensor, shape: tuple[int, int]) -> bool:
    """Whether the result of a softmax has the shape of attention weights, with or without a sink."""
    prompts, length = shape
    fits = value.shape[0] == prompts if value.ndim == 4 else value.shape[0] % prompts == 0  # noqa: PLR2004
    return fits and value.shape[-2] == length and value.shape[-1] in {length, length + 1}


def _outer_maps(inner: Sequence[Call], module: Any) -> list[Call]:
    """Calls of linear maps inside a module, in order; a map inside an adapter counts as part of the adapter."""
    calls = [call for call in inner if is_linear(call.module) and any(part is module for part in call.inside)]
    calls = [call for call in calls if not any(is_linear(part) for part in call.inside)]
    return sorted(calls, key=lambda call: call.began)


def _mlp(layer: Any, inner: Sequence[Call], attention: Any) -> _Mlp | None:
    direct = sorted((call for call in inner if call.inside[-1] is layer and call.module is not attention), key=lambda call: call.began)
    maps = [call for call in direct if is_linear(call.module)]
    modules = [call for call in direct if not is_norm(call.module) and any(True for _ in call.module.parameters())]
    if len(maps) == _PLAIN and len(modules) == _PLAIN:
        return _Mlp(None, maps[0].entered, maps[1].left, maps[1].module, (maps[0].module, maps[1].module))
    if len(modules) != 1 or maps:
        return None
    (call,) = modules
    inner_maps = [map_call.module for map_call in _outer_maps(inner, call.module)]
    plain = len(inner_maps) in {_PLAIN, _GATED} and len(set(map(id, inner_maps))) == len(inner_maps) and _dense(call.module)
    return _Mlp(call.module, call.entered, call.left, call.module, tuple(inner_maps) if plain else ())


def _dense(mlp: Any) -> bool:
    """Whether every weight of an MLP lies in its linear maps; experts and routers have others."""
    maps = {id(value) for part in mlp.modules() if is_linear(part) for value in part.parameters()}
    return all(id(value) in maps for value in mlp.parameters()) and not any(isinstance(part, torch.nn.ModuleList) for part in mlp.modules())


def _call(inner: Sequence[Call], module: Any) -> Call:
    return next(call for call in inner if call.module is module)


def _same(a: Any, b: Any) -> bool:
    return a is not None and b is not None and a.data_ptr() == b.data_ptr() and a.numel() == b.numel()


def _norm_before(inner: Sequence[Call], entered: Any) -> Any:
    return next((call.module for call in inner if is_norm(call.module) and _same(call.left, entered)), None)


def _norms_after(inner: Sequence[Call], left: Any) -> tuple[Any, ...]:
    return tuple(call.module for call in inner if is_norm(call.module) and _same(call.entered, left))


def _left(inner: Sequence[Call], modules: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    for module in modules:
        yield module, _call(inner, module).value


def _writes(
    parts: LayerParts,
    points: tuple[Any, Any, Any],
    candidates: tuple[Sequence[tuple[Any, Any]], Sequence[tuple[Any, Any]]],
    probe: Probe,
) -> LayerParts:
    """The layer with what attention and the MLP add: the outputs that account for the steps of the residual stream."""
    pre, read, post = points
    attends, adds = (
        [(m, probe.stream(v).double()) for m, v in outputs if v is not None and v.shape[-1] == pre.shape[-1]] for outputs in candidates
    )
    start, end = probe.stream(pre).double(), probe.stream(post).double()
    close = _CLOSE.get(pre.dtype, 2e-2)
    rounding = 0.1 * close * float(end.abs().max())  # a step is the difference of two streams, which may be much larger than it
    if not parts.parallel:
        mid = probe.stream(read).double()
        attn, mlp = (_explained([outputs], step, (close, rounding), probe) for outputs, step in ((attends, mid - start), (adds, end - mid)))
        return replace(parts, attn_out=None if attn is None else attn[0], mlp_out=None if mlp is None else mlp[0])
    both = _explained([attends, adds], end - start, (close, rounding), probe)
    return parts if both is None else replace(parts, attn_out=both[0], mlp_out=both[1])


def _explained(
    choices: Sequence[Sequence[tuple[Any, Tensor]]], step: Tensor, close: tuple[float, float], probe: Probe
) -> list[Write] | None:
    """One output from each list, times factors, that sum to a step of the stream; ``close`` is a relative and an absolute tolerance."""
    options: list[list[tuple[Any, Tensor]]] = [[]]
    for outputs in choices:
        options = [[*before, output] for before in options for output in outputs]
    for option in options:
        columns = torch.stack([value.flatten() for _, value in option], dim=1)
        scales = torch.linalg.lstsq(columns, step.flatten()[:, None]).solution[:, 0].tolist()
        # The factor of a part that writes zeros cannot be measured here; the test that writes other values will check it.
        silent = [not bool(value.any()) for _, value in option]
        scales = [1.0 if dead else _snapped(scale, probe.factors) for scale, dead in zip(scales, silent, strict=True)]
        apart = (columns @ columns.new_tensor(scales)[:, None] - step.flatten()[:, None]).abs().max()
        if float(apart) <= close[0] * max(1.0, float(step.abs().max())) + close[1]:
            return [Write(module, scale) for (module, _), scale in zip(option, scales, strict=True)]
    return None


def _snapped(scale: float, factors: Sequence[float]) -> float:
    return next((factor for factor in (1.0, *factors) if abs(scale - factor) <= 1e-3 * max(abs(factor), 1e-3)), scale)
