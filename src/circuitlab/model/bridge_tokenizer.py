"""The tokenizer a bridge is given: a copy of the model's own, or a stand-in for a model that has none.

TransformerBridge insists on a tokenizer, and reloads the one it gets from where it came from to switch BOS on; a model in memory or
from a GGUF file has nowhere to reload from, and circuitlab never tokenizes through the bridge.
"""

from __future__ import annotations

import copy

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["own_tokenizer", "tokenizer_for_bridge"]

_STAND_IN = {"-": 0}


def tokenizer_for_bridge(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """A tokenizer that a bridge accepts as it is; the given one is never changed."""
    own = _blank() if tokenizer is None else copy.deepcopy(tokenizer)
    own.init_kwargs.setdefault("name_or_path", own.name_or_path)
    own.init_kwargs["add_bos_token"] = True  # read as "nothing to switch on", so nothing is reloaded
    return own


def own_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a bridge, or None where it is only the stand-in."""
    return None if tokenizer is None or tokenizer.get_vocab() == _STAND_IN else tokenizer


def _blank() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415

    backend = Tokenizer(models.WordLevel(_STAND_IN, unk_token="-"))  # noqa: S106 - a token of text, no secret
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="-", pad_token="-", bos_token="-", eos_token="-")  # noqa: S106
