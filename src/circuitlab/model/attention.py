"""The attention pattern of one head on prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.inside import head_in
from circuitlab.model.prompts import PromptLike, read_prompts
from circuitlab.model.sites import Site
from circuitlab.model.token_text import texts_of
from circuitlab.scores.attention import AttentionPattern

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from circuitlab.core.nodes import Head
    from circuitlab.model.runner import ReadableModel

__all__ = ["attention_of_head"]


def attention_of_head(
    model: ReadableModel, tokenizer: PreTrainedTokenizerBase | None, head: Head | str, prompts: PromptLike
) -> AttentionPattern | tuple[AttentionPattern, ...]:
    """Attention weights of one head, for each prompt run by itself; see `Model.attention`."""
    spec = model.spec
    node = head_in(spec, head)
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
        patterns.append(AttentionPattern(node, texts_of(tokenizer, ids), values, spec.name))
    return patterns[0] if prompt_tokens.alone else tuple(patterns)
