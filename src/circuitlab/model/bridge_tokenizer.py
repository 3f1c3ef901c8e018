"""The tokenizer passed to a TransformerBridge: a copy of the model's, or a stand-in for a model that has none.

TransformerBridge requires a tokenizer and reloads it from its source to switch BOS on. A model in memory or from a GGUF file has no such
source, and circuitlab never tokenizes through the bridge.
"""

from __future__ import annotations

import copy

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["own_tokenizer", "tokenizer_for_bridge"]

_STAND_IN = {"-": 0}


def tokenizer_for_bridge(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """A tokenizer that a bridge accepts without reloading it; ``tokenizer`` itself is not changed."""
    copied = _blank() if tokenizer is None else copy.deepcopy(tokenizer)
    copied.init_kwargs.setdefault("name_or_path", copied.name_or_path)
    copied.init_kwargs["add_bos_token"] = True  # read as "nothing to switch on", so nothing is reloaded
    return copied


def own_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a bridge, or None if it is only the stand-in."""
    return None if tokenizer is None or tokenizer.get_vocab() == _STAND_IN else tokenizer


def _blank() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415

    backend = Tokenizer(models.WordLevel(_STAND_IN, unk_token="-"))  # noqa: S106 - a token of text, no secret
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="-", pad_token="-", bos_token="-", eos_token="-")  # noqa: S106
