"""The attention pattern of one head on prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.nodes import Head, parse_node
from circuitlab.model.prompts import PromptLike, read_prompts
from circuitlab.model.sites import Site
from circuitlab.scores.attention import AttentionPattern

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from circuitlab.model.runner import ReadableModel

__all__ = ["attention_of_head"]


def attention_of_head(
    model: ReadableModel, tokenizer: PreTrainedTokenizerBase | None, head: Head | str, prompts: PromptLike
) -> AttentionPattern | tuple[AttentionPattern, ...]:
    """Attention weights of one head; each prompt is run by itself. See `Model.attention`."""
    node = parse_node(head) if isinstance(head, str) else head
    spec = model.spec
    if not isinstance(node, Head):
        what = f"{node} is not an attention head."
        raise BadParameterError(what, "Name a head, for example a9.h6.")
    if not (node.layer < spec.n_layers and node.head < spec.n_heads):
        what = f"{spec.name} has {spec.n_layers} layers of {spec.n_heads} heads, and no {node}."
        raise BadParameterError(what, "Count layers and heads from 0.")
    if Site.PATTERN not in model.sites:
        what = f"{spec.name} has no attention patterns: {model.lacks[Site.PATTERN]}."
        raise ModelError(what, "`circuitlab doctor MODEL` lists what it has.")
    prompt_tokens = read_prompts(prompts, tokenizer, spec)
    patterns = []
    for number, ids in enumerate(prompt_tokens.ids):
        marks = {name: torch.tensor([places[number]]) for name, places in prompt_tokens.marks.items()}
        tokens = torch.tensor([ids])
        captured = model.capture(tokens, [Site.PATTERN], layers=[node.layer], marks=marks or None)
        values = captured[Site.PATTERN][0, 0, node.head].float().cpu().numpy()
        patterns.append(AttentionPattern(node, _texts(tokenizer, ids), values, spec.name))
    return patterns[0] if prompt_tokens.alone else tuple(patterns)


def _texts(tokenizer: PreTrainedTokenizerBase | None, ids: tuple[int, ...]) -> tuple[str, ...]:
    """Tokens as text, or their ids where there is no tokenizer."""
    if tokenizer is None:
        return tuple(map(str, ids))
    return tuple(cast("str", tokenizer.decode([token], clean_up_tokenization_spaces=False)) for token in ids)
