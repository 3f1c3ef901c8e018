"""Path patching through plain PyTorch hooks on a Hugging Face model: whole forward passes, one sender at a time.

Senders are ("head", layer, head), ("mlp", layer) and ("embed",); receivers ("q", layer, head), ("k", layer, kv_head), ("v", layer,
kv_head), ("mlp", layer), ("pre", layer), ("mid", layer), ("post", layer) and ("logits",). Everything works on one unpadded prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from reference.patching import output_projections

Hook = tuple[torch.nn.Module, Callable[[torch.Tensor], torch.Tensor | None], bool]
"""A module, what to do with its input or output (a tensor to put in its place, or None), and whether it is the input."""


class Parts:
    """Where a family keeps what path patching touches."""

    def __init__(self, hf: Any) -> None:
        self.hf, config = hf, hf.config
        self.heads = config.num_attention_heads
        self.shared = getattr(config, "num_key_value_heads", None) or self.heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        if hasattr(hf, "transformer"):
            self.kind, self.layers = "gpt2", hf.transformer.h
            self.mid = [block.ln_2 for block in self.layers]
        elif hasattr(hf, "gpt_neox"):
            self.kind, self.layers = "neox", hf.gpt_neox.layers
            self.mid = None
        else:
            self.kind, self.layers = "separate", hf.model.layers
            gemma = hasattr(self.layers[0], "pre_feedforward_layernorm")
            self.mid = [block.pre_feedforward_layernorm if gemma else block.post_attention_layernorm for block in self.layers]
        self.out = output_projections(hf)
        self.mlps = [block.mlp for block in self.layers]

    def group(self, receiver: tuple[Any, ...]) -> list[int]:
        """Query heads that read an input."""
        size = self.heads // self.shared
        return [receiver[2]] if receiver[0] == "q" else [receiver[2] * size + i for i in range(size)]

    def projection(self, receiver: tuple[Any, ...]) -> tuple[torch.nn.Module, slice]:
        """The module that makes a q, k or v, and the columns of its output."""
        port, layer, head = receiver
        block, width = self.layers[layer], self.width
        if self.kind == "gpt2":
            start = "qkv".index(port) * self.heads * width + head * width
            return block.attn.c_attn, slice(start, start + width)
        if self.kind == "neox":
            start = head * 3 * width + "qkv".index(port) * width
            return block.attention.query_key_value, slice(start, start + width)
        return getattr(block.self_attn, f"{port}_proj"), slice(head * width, (head + 1) * width)

    def columns(self, head: int) -> slice:
        """A head's part of z."""
        return slice(head * self.width, (head + 1) * self.width)


@torch.no_grad()
def run(hf: Any, tokens: torch.Tensor, hooks: Sequence[Hook]) -> torch.Tensor:
    """Logits of the last position of a run with hooks, (vocab,)."""
    handles = [_register(*hook) for hook in hooks]
    try:
        return hf(tokens).logits[0, -1].double()
    finally:
        for handle in handles:
            handle.remove()


def _register(module: torch.nn.Module, act: Callable[[torch.Tensor], torch.Tensor | None], on_input: bool) -> Any:
    if on_input:

        def before(_m: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any] | None:
            value = args[0] if args else named["hidden_states"]
            new = act(value)
            if new is None:
                return None
            return ((new, *args[1:]), named) if args else (args, named | {"hidden_states": new})

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_m: Any, _args: Any, out: Any) -> Any:
        new = act(out[0] if isinstance(out, tuple) else out)
        if new is None:
            return None
        return (new, *out[1:]) if isinstance(out, tuple) else new

    return module.register_forward_hook(after)


class Run:
    """z, MLP outputs and the embedding of one unedited run."""

    def __init__(self, parts: Parts, tokens: torch.Tensor) -> None:
        self.tokens, self.z, self.mlp, first = tokens, {}, {}, {}
        hooks: list[Hook] = [(parts.layers[0], keep(first, "embed"), True)]
        for layer, (out, mlp) in enumerate(zip(parts.out, parts.mlps, strict=True)):
            hooks += [(out, keep(self.z, layer), True), (mlp, keep(self.mlp, layer), False)]
        self.logits = run(parts.hf, tokens, hooks)
        self.embed = first["embed"]


def keep(store: dict[Any, torch.Tensor], key: Any) -> Callable[[torch.Tensor], None]:
    """A hook that keeps what passes."""

    def act(value: torch.Tensor) -> None:
        store[key] = value.clone()

    return act


def put(new: torch.Tensor, columns: slice = slice(None), at: slice = slice(None)) -> Callable[[torch.Tensor], torch.Tensor]:
    """A hook that replaces columns at positions."""

    def act(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[:, at, columns] = new[:, at, columns]
        return value

    return act


def recorded(
    parts: Parts,
    edited: Run,
    sender: dict[tuple[Any, ...], torch.Tensor],
    receivers: Sequence[tuple[Any, ...]],
    at: slice,
    freeze_mlps: bool,
) -> dict[Any, torch.Tensor]:
    """The pass in which all heads are frozen, the sender's outputs are replaced, and receivers are read."""
    seen: dict[Any, torch.Tensor] = {}
    hooks: list[Hook] = []
    for layer in range(len(parts.layers)):
        hooks.append((parts.out[layer], put(edited.z[layer]), True))
        if freeze_mlps:
            hooks.append((parts.mlps[layer], put(edited.mlp[layer]), False))
    for name, new in sender.items():
        if name[0] == "head":
            hooks.append((parts.out[name[1]], put(new, parts.columns(name[2]), at), True))
        elif name[0] == "mlp":
            hooks.append((parts.mlps[name[1]], put(new, at=at), False))
        else:
            hooks.append((parts.layers[0], put(new, at=at), True))
    for receiver in receivers:
        hooks += _readers(parts, receiver, seen)
    seen["logits",] = run(parts.hf, edited.tokens, hooks)
    return seen


def _readers(parts: Parts, receiver: tuple[Any, ...], seen: dict[Any, torch.Tensor]) -> list[Hook]:
    kind = receiver[0]
    if kind == "logits":
        return []
    if kind in {"q", "k", "v"}:
        return [(parts.projection(receiver)[0], keep(seen, receiver), False)]
    module, on_input = _place(parts, receiver)
    return [(module, keep(seen, receiver), on_input)]


def _place(parts: Parts, receiver: tuple[Any, ...]) -> tuple[torch.nn.Module, bool]:
    kind, layer = receiver
    if kind == "mid":
        return parts.mid[layer], True
    return {"mlp": (parts.mlps[layer], True), "pre": (parts.layers[layer], True), "post": (parts.layers[layer], False)}[kind]


def writers(parts: Parts, values: dict[Any, torch.Tensor], at: slice) -> list[Hook]:
    """Hooks that set receivers to recorded values."""
    hooks: list[Hook] = []
    for receiver, new in values.items():
        if receiver[0] in {"q", "k", "v"}:
            module, columns = parts.projection(receiver)
            hooks.append((module, put(new, columns, at), False))
        elif receiver[0] == "mid":
            hooks.append((parts.mid[receiver[1]], _in_place(new, at), True))
        else:
            module, on_input = _place(parts, receiver)
            hooks.append((module, put(new, at=at), on_input))
    return hooks


def _in_place(new: torch.Tensor, at: slice) -> Callable[[torch.Tensor], None]:
    """The stream that the norm reads is the very tensor that the residual connection adds later."""

    def act(value: torch.Tensor) -> None:
        value[:, at] = new[:, at]

    return act


def sender_values(parts: Parts, sender: tuple[Any, ...], source: Run) -> dict[tuple[Any, ...], torch.Tensor]:
    """What a sender puts out in the source run."""
    if sender[0] == "embed":
        return {sender: source.embed}
    return {sender: source.z[sender[1]] if sender[0] == "head" else source.mlp[sender[1]]}


def end_of_path(parts: Parts, edited: Run, values: dict[Any, torch.Tensor], receivers: Sequence[Any], at: slice) -> torch.Tensor:
    """Logits of the last pass: only the receivers at their recorded values."""
    if ("logits",) in receivers:
        return values["logits",]
    return run(parts.hf, edited.tokens, writers(parts, {one: values[one] for one in receivers}, at))


def chained(
    parts: Parts,
    edited: Run,
    source: Run,
    sender: tuple[Any, ...],
    path: Sequence[tuple[Any, ...]],
    freeze_mlps: bool,
) -> torch.Tensor:
    """Logits when a change goes from a sender through inputs to the last name of a path, each hop by three passes of its own."""
    everywhere = slice(None)
    now = sender_values(parts, sender, source)
    for number, receiver in enumerate(path):
        values = recorded(parts, edited, now, [receiver], everywhere, freeze_mlps)
        if number + 1 == len(path):
            return end_of_path(parts, edited, values, [receiver], everywhere)
        seen: dict[Any, torch.Tensor] = {}
        layer = receiver[1]
        module, on_input = (parts.mlps[layer], False) if receiver[0] == "mlp" else (parts.out[layer], True)
        hooks = writers(parts, {receiver: values[receiver]}, everywhere)
        run(parts.hf, edited.tokens, [*hooks, (module, keep(seen, "out"), on_input)])
        names = [receiver] if receiver[0] == "mlp" else [("head", layer, head) for head in parts.group(receiver)]
        now = dict.fromkeys(names, seen["out"])
    raise ValueError(path)
