"""A trained model whose circuit is known, because every other part was held at zero during training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError
from circuitlab.core.nodes import Head
from circuitlab.model.load import load_model
from circuitlab.model.toy.planted import BACKGROUND, PlantedModel, edges
from circuitlab.model.toy.sequences import CONTENTS, LENGTH, PLACES, repeat_prompt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from circuitlab.model.toy.wiring import Form

__all__ = ["trained_induction"]

_HEADS, _D_HEAD = 4, 16
_WIDTH = _HEADS * _D_HEAD
_ALIVE = (Head(0, 1), Head(1, 2))
_STEPS, _ROWS, _RATE, _ENOUGH = 2000, 128, 3e-3, 2e-3


def trained_induction(form: Form = "gqa", *, seed: int = 0, background: float = BACKGROUND) -> PlantedModel:
    """Train two layers on the induction task with one head alive in each: ``a0.h1`` and ``a1.h2``.

    All other heads and the MLPs write 0 at every step, so that these two heads are the circuit whatever they learn. How they divide the
    task between them, and how sharp their attention is, is learned and not designed. ``edges`` holds the connections of an induction
    circuit; training may have used others as well. The other heads get small random output weights at the end.

    Parameters
    ----------
    form : {"gqa", "mha"}
        A Llama with 2 key/value heads, or a GPT-2.
    seed : int
        Seed of the weights and the training prompts. On other machines rounding may differ, and with it every weight.
    background : float
        Size of the other heads' output weights, relative to those of the circuit.

    Raises
    ------
    ModelError
        If the task is not learned in 2,000 steps.

    Notes
    -----
    Training takes a few hundred steps, a few seconds on one core.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        hf = _untrained(form)
        _train(hf, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            for circuit_weights, other_weights in zip(*_outputs(hf), strict=True):
                other_weights.copy_(torch.randn_like(other_weights) * circuit_weights.square().mean().sqrt() * background)
        for parameter in hf.parameters():
            parameter.grad = None
        model = load_model(hf.eval(), name=f"trained_induction-{form}")
    first, second = (head.head if form == "mha" else head.head // 2 for head in _ALIVE)
    return PlantedModel(
        circuit="trained_induction",
        form=form,
        model=model,
        helpers=frozenset(_ALIVE),
        hinderers=frozenset(),
        edges=edges([f"embed->a0.kv{first}<v>", f"{_ALIVE[0]}->a1.kv{second}<k>", f"{_ALIVE[1]}->logits"]),
        positions={_ALIVE[0]: ("AFTER", "AFTER_RIVAL"), _ALIVE[1]: ("END",)},
        prompt=repeat_prompt,
        candidates=tuple(range(CONTENTS)),
    )


def _untrained(form: Form) -> Any:
    """Small random weights, embeddings of about unit length."""
    import transformers  # noqa: PLC0415

    shared: dict[str, Any] = {"vocab_size": CONTENTS, "tie_word_embeddings": False, "attn_implementation": "eager"}
    if form == "gqa":
        sizes = {"hidden_size": _WIDTH, "num_hidden_layers": 2, "num_attention_heads": _HEADS, "num_key_value_heads": 2}
        config: Any = transformers.LlamaConfig(**shared, **sizes, head_dim=_D_HEAD, intermediate_size=4, max_position_embeddings=64)
        hf: Any = transformers.LlamaForCausalLM(config)
    else:
        sizes = {"n_embd": _WIDTH, "n_layer": 2, "n_head": _HEADS, "n_inner": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
        config = transformers.GPT2Config(**shared, **sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        hf = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, value in hf.named_parameters():
            if any(part in name for part in ("embed_tokens", "wte", "wpe", "lm_head")):
                value.mul_(15.0)
    return hf.float()


def _train(hf: Any, generator: torch.Generator) -> None:
    optimiser = torch.optim.Adam(hf.parameters(), lr=_RATE)
    reached = float("inf")
    _silence(hf)
    for _ in range(_STEPS):
        tokens, answers = _sample(generator)
        loss = torch.nn.functional.cross_entropy(hf(tokens).logits[:, -1], answers)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        _silence(hf)
        reached = loss.item()
        if reached < _ENOUGH:
            return
    what = f"The induction task was not learned in {_STEPS} steps; the loss is {reached:.3g}."
    raise ModelError(what, "Use another seed.")


def _sample(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Training prompts (row, pos) and answers (row,), distributed like the clean prompts of the induction circuit."""
    rows = torch.rand(_ROWS, CONTENTS, generator=generator).argsort(1)[:, :LENGTH]
    at = torch.tensor(PLACES)[:, 0][torch.randint(len(PLACES), (_ROWS,), generator=generator)]
    every = torch.arange(_ROWS)
    return torch.cat([rows, rows[every, at][:, None]], dim=1), rows[every, at + 1]


@torch.no_grad()
def _silence(hf: Any) -> None:
    """Set the output weights of everything outside the circuit to 0."""
    for other in _outputs(hf)[1]:
        other.zero_()
    for silent in _silent(hf):
        silent.zero_()


def _blocks(hf: Any) -> Any:
    return hf.model.layers if hasattr(hf, "model") else hf.transformer.h


def _outputs(hf: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Views of the output weights of the circuit's heads and of the other heads, as two lists with one entry per other head."""
    circuit, others = [], []
    for layer, block in enumerate(_blocks(hf)):
        weight = block.self_attn.o_proj.weight.T if hasattr(block, "self_attn") else block.attn.c_proj.weight
        parts = weight.split(_D_HEAD)
        for head, part in enumerate(parts):
            if head != _ALIVE[layer].head:
                circuit.append(parts[_ALIVE[layer].head])
                others.append(part)
    return circuit, others


def _silent(hf: Any) -> Iterator[torch.Tensor]:
    """Output biases of attention, and output weights and biases of MLPs."""
    for block in _blocks(hf):
        if hasattr(block, "self_attn"):
            yield block.mlp.down_proj.weight
        else:
            yield from (block.attn.c_proj.bias, block.mlp.c_proj.weight, block.mlp.c_proj.bias)
