"""Run a loaded Hugging Face model with a tap: hooks are added for one run and removed after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from circuitlab.model.anatomy.parts import HeadMap, LayerParts, ModelParts, Write
from circuitlab.model.anatomy.watch import is_softmax
from circuitlab.model.identity import follows_length
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.places import Tap

__all__ = ["HookedRun", "device_of", "evaluating", "full_precision", "length_dependent", "own_modes"]


@contextmanager
def own_modes(root: Any, *, gradients: bool = False) -> Iterator[None]:
    """Evaluation mode, no gradients unless asked for, no inference mode, no autocast; the caller's settings are restored after the block.

    Rotary tables that grew with an earlier, longer prompt are reset, and restored as well.
    """
    trainable = [value for value in root.parameters() if value.requires_grad] if gradients else []
    tables = [_Table.of(module) for module in root.modules() if follows_length(module)]
    try:
        for value in trainable:
            value.requires_grad_(False)
        with evaluating(root), torch.inference_mode(mode=False), torch.set_grad_enabled(gradients), full_precision():
            for table in tables:
                table.begin_anew()
            yield
    finally:
        for value in trainable:
            value.requires_grad_(True)
        for table in tables:
            table.put_back()


@contextmanager
def full_precision() -> Iterator[None]:
    """No autocast and no TensorFloat-32 inside the ``with`` block: they round products although the model's dtype says otherwise."""
    with ExitStack() as stack:
        for products in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
            if (chosen := products.fp32_precision) not in {"ieee", "none"}:
                stack.callback(setattr, products, "fp32_precision", chosen)
                products.fp32_precision = "ieee"
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def evaluating(root: Any) -> Iterator[None]:
    """Put a module and all its children in evaluation mode inside the ``with`` block."""
    training = [module for module in root.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True, eq=False)
class _Table:
    """A rotary module, and its buffers and attributes before a run."""

    module: Any
    buffers: dict[str, Tensor]
    values: dict[str, Tensor]
    numbers: dict[str, Any]

    @classmethod
    def of(cls, module: Any) -> _Table:
        buffers = dict(module.named_buffers(recurse=False))
        numbers = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "config"}
        return cls(module, buffers, {name: value.detach().clone() for name, value in buffers.items()}, numbers)

    def begin_anew(self) -> None:
        """Reset the angles to those before any prompt."""
        for name in [name for name in self.numbers if name.endswith("max_seq_len_cached")]:
            setattr(self.module, name, self.module.original_max_seq_len)
        for name in [name for name in self.buffers if name.endswith("original_inv_freq")]:
            grown = name.replace("original_inv_freq", "inv_freq")
            setattr(self.module, grown, self.buffers[name].detach().clone())

    def put_back(self) -> None:
        """Restore everything. An unchanged buffer is not written to, because a write counts as a change of the model."""
        for name, value in self.numbers.items():
            setattr(self.module, name, value)
        for name, buffer in self.buffers.items():
            if not torch.equal(buffer, self.values[name]):
                with torch.no_grad():
                    buffer.copy_(self.values[name])
            setattr(self.module, name, buffer)


def device_of(root: Any) -> torch.device:
    """The device of a module's weights; the processor for one whose weights are not in memory."""
    return next((value.device for value in root.parameters() if value.device.type != "meta"), torch.device("cpu"))


def length_dependent(root: Any) -> bool:
    """Whether a model's rotary angles depend on the length of the prompt."""
    return any(follows_length(module) for module in root.modules())


@dataclass(frozen=True, eq=False)
class HookedRun:
    """Runs a model's own forward pass, with a tap at some sites.

    Parameters
    ----------
    root : Module
        The Hugging Face model. It is never changed: hooks are removed after each run, also after one that failed.
    parts : ModelParts
        Its parts, and the sites that it has.
    """

    root: Any
    parts: ModelParts

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so where token ids are moved and values arise."""
        return device_of(self.root)

    def logits(
        self,
        tokens: Int[Tensor, "row pos"],
        at: Int[Tensor, " row"] | None,
        sites: Collection[tuple[Site, int]] = (),
        tap: Tap | None = None,
        past: Any = None,
    ) -> Float[Tensor, "row *pos vocab"]:
        """Next-token logits at one position of each row, or at all positions if ``at`` is None.

        Parameters
        ----------
        tokens : Tensor of int, shape (row, pos)
            Right-padded prompts.
        at : Tensor of int, shape (row,), or None
            The position of each row that is unembedded.
        sites : collection of (Site, int)
            Sites and layers at which the tap is called.
        tap : Tap, optional
            Called with each value; the run continues with the value that it returns.
        past : Cache, optional
            Keys and values of the positions before ``tokens``; those of this run are appended.
        """
        tokens = tokens.to(self.device)
        named: dict[str, Any] = {"input_ids": tokens, "use_cache": past is not None}
        if past is not None:
            named["past_key_values"] = past
        rows = torch.arange(len(tokens), device=tokens.device)
        with ExitStack() as hooks:
            reduced = []
            if at is not None and self.parts.unembed is not None:

                def only_answer(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
                    reduced.append(True)
                    return (args[0][rows.to(args[0].device), at.to(args[0].device)][:, None], *args[1:])

                hooks.callback(self.parts.unembed.register_forward_pre_hook(only_answer).remove)
            if tap is not None:
                self._install(hooks, _Tapped(tuple(tokens.shape), tap), sites)
            logits: Tensor = self.root(**named).logits
        if at is None:
            return logits
        return logits[:, 0] if reduced else logits[rows, at.to(logits.device)]

    def entering(self, tokens: Int[Tensor, "row pos"], seen: Callable[[int, Any, dict[str, Any]], None], layers: int = 1) -> None:
        """Run the first ``layers`` layers, and call ``seen`` with each layer's (number, first argument, keyword arguments)."""
        with ExitStack() as hooks:
            for index, parts in enumerate(self.parts.layers[:layers]):

                def keep(_module: Any, args: tuple[Any, ...], named: dict[str, Any], layer: int = index) -> None:
                    seen(layer, args[0] if args else named["hidden_states"], named)
                    if layer + 1 == layers:
                        raise _ReachedError

                hooks.callback(parts.layer.register_forward_pre_hook(keep, with_kwargs=True).remove)
            try:
                self.root(input_ids=tokens.to(self.device), use_cache=False)
            except _ReachedError:
                return

    def _install(self, hooks: ExitStack, tapped: _Tapped, sites: Collection[tuple[Site, int]]) -> None:
        patterns: dict[int, tuple[int, LayerParts]] = {}
        for layer, parts in enumerate(self.parts.layers):
            layer_sites = {site for site, place in sites if place == layer}
            if layer_sites:
                for handle in tapped.install(layer, parts, layer_sites):
                    hooks.callback(handle.remove)
            if Site.PATTERN in layer_sites:
                patterns[id(parts.attention)] = (layer, parts)
        if patterns:
            mode = _PatternTap(patterns, tapped)
            for parts in self.parts.layers:
                if id(parts.attention) in patterns:
                    hooks.callback(parts.attention.register_forward_pre_hook(mode.enter).remove)
                    hooks.callback(parts.attention.register_forward_hook(mode.leave).remove)
            hooks.enter_context(mode)


class _ReachedError(Exception):
    """Stops a forward pass at a layer."""


@dataclass(eq=False)
class _Tapped:
    """The hooks of one run."""

    shape: tuple[int, ...]
    tap: Tap
    entering: dict[int, Tensor] = field(default_factory=dict)

    def install(self, layer: int, parts: LayerParts, sites: set[Site]) -> Iterator[Any]:
        """Hooks for the sites of one layer."""
        if sites & {Site.RESID_PRE, Site.RESID_MID}:
            yield parts.layer.register_forward_pre_hook(self._enter(layer, sites), with_kwargs=True)
        maps = [
            (site, heads)
            for site, heads in ((Site.Q, parts.q), (Site.K, parts.k), (Site.V, parts.v))
            if site in sites and heads is not None
        ]
        for module in {id(heads.module): heads.module for _, heads in maps}.values():
            yield module.register_forward_hook(self._project(layer, [(site, heads) for site, heads in maps if heads.module is module]))
        if Site.Z in sites:
            yield parts.o.register_forward_pre_hook(self._mix(layer, parts))
        if sites & {Site.ATTN_OUT, Site.RESID_MID} and parts.attn_out is not None:
            yield parts.attn_out.module.register_forward_hook(self._added(layer, parts.attn_out, sites & {Site.ATTN_OUT, Site.RESID_MID}))
        if Site.MLP_OUT in sites and parts.mlp_out is not None:
            yield parts.mlp_out.module.register_forward_hook(self._added(layer, parts.mlp_out, {Site.MLP_OUT}))
        if Site.RESID_POST in sites:
            yield parts.layer.register_forward_hook(self._left(layer))

    def _enter(self, layer: int, sites: set[Site]) -> Callable[..., Any]:
        def enter(_module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            value = args[0] if args else named["hidden_states"]
            new = self.tap(Site.RESID_PRE, layer, value) if Site.RESID_PRE in sites else value
            self.entering[layer] = new
            if new is value:
                return None
            return ((new, *args[1:]), named) if args else (args, {**named, "hidden_states": new})

        return enter

    def _project(self, layer: int, maps: list[tuple[Site, HeadMap]]) -> Callable[..., Any]:
        def project(_module: Any, _args: Any, out: Tensor) -> Tensor:
            wide = out.reshape(*self.shape, -1)
            for site, heads in maps:
                value = heads.read(wide)
                new = self.tap(site, layer, value)
                if new is not value:
                    wide = heads.write(wide, new)
            return wide.reshape(out.shape)

        return project

    def _mix(self, layer: int, parts: LayerParts) -> Callable[..., Any]:
        def mix(_module: Any, args: tuple[Any, ...]) -> Any:
            value = args[0].reshape(*self.shape, parts.n_heads, parts.d_value)
            new = self.tap(Site.Z, layer, value)
            return None if new is value else (new.to(value.dtype).reshape(args[0].shape), *args[1:])

        return mix

    def _added(self, layer: int, write: Write, sites: set[Site]) -> Callable[..., Any]:
        def added(_module: Any, _args: Any, out: Any) -> Any:
            raw = out if isinstance(out, torch.Tensor) else out[0]
            wide = raw.reshape(*self.shape, raw.shape[-1])
            value = wide if write.scale == 1 else wide * write.scale
            new = value
            for site in (Site.ATTN_OUT, Site.MLP_OUT):
                new = self.tap(site, layer, new) if site in sites else new
            if Site.RESID_MID in sites:
                start = self.entering[layer]
                mid = start + new
                other = self.tap(Site.RESID_MID, layer, mid)
                new = new if other is mid else other - start
            if new is value:
                return None
            back = (new if write.scale == 1 else new / write.scale).to(raw.dtype).reshape(raw.shape)
            return back if isinstance(out, torch.Tensor) else type(out)((back, *out[1:]))

        return added

    def _left(self, layer: int) -> Callable[..., Any]:
        def left(_module: Any, _args: Any, out: Any) -> Any:
            value = out if isinstance(out, torch.Tensor) else out[0]
            new = self.tap(Site.RESID_POST, layer, value)
            if new is value:
                return None
            return new if isinstance(out, torch.Tensor) else type(out)((new, *out[1:]))

        return left

    def pattern(self, layer: int, parts: LayerParts, value: Tensor) -> Tensor:
        """The result of a softmax over keys after the tap; the last column of a model with sinks is not shown to the tap and stays."""
        whole = value if value.ndim == 4 else value.unflatten(0, (self.shape[0], -1))  # noqa: PLR2004
        keys = whole.shape[-1] - int(parts.sink)
        weights = whole[..., :keys]
        new = self.tap(Site.PATTERN, layer, weights)
        if new is weights:
            return value
        new = new.to(value.dtype)
        return (torch.cat([new, whole[..., keys:]], dim=-1) if parts.sink else new).reshape(value.shape)


class _PatternTap(TorchFunctionMode):
    """Calls the tap with every softmax over keys that runs inside an attention module."""

    def __init__(self, layers: dict[int, tuple[int, LayerParts]], tapped: _Tapped) -> None:
        super().__init__()
        self._layers, self._tapped = layers, tapped
        self._now: tuple[int, LayerParts] | None = None

    def enter(self, module: Any, _args: Any) -> None:
        """Called when an attention module begins."""
        self._now = self._layers[id(module)]

    def leave(self, _module: Any, _args: Any, _out: Any) -> None:
        """Called when it ends."""
        self._now = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._now is not None and is_softmax(func, out):
            return self._tapped.pattern(*self._now, out)
        return out
