"""Key-value prompts: which heads look at the very token of a value that is said next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.nodes import Head
from circuitlab.model.encode import need_tokenizer
from circuitlab.model.sites import Site
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["KeyValue", "choose_heads", "key_values", "recall", "said"]

_PAIRS, _SHOTS, _KEY = 5, 2, 6
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
_ASKED = (
    "Please extract the value corresponding to the specified key from the following JSON object. Output only the value of the "
    "corresponding key and nothing else.\n\n{context}\n"
)
_SHOT = '\nkey: "{key}"\nanswer:'
_WHO = ("a fisherman", "the mayor", "my sister", "an old sailor", "the baker", "a young doctor", "our teacher", "the gardener")
_DID = ("painted", "found", "sold", "forgot", "repaired", "borrowed", "hid", "described")
_WHAT = ("a green bicycle", "two silver spoons", "the broken clock", "a jar of honey", "the northern bridge", "an empty suitcase")
_WHEN = ("on Monday", "before lunch", "last winter", "in the rain", "at midnight", "after the storm")


@dataclass(frozen=True)
class KeyValue:
    """A prompt that asks for the value of a key, with its answer.

    Parameters
    ----------
    tokens : tuple of int
        Prompt and answer.
    answer : tuple of int
        The answer's first token, and the one after its last.
    """

    tokens: tuple[int, ...]
    answer: tuple[int, int]


def key_values(model: Model, n: int, rng: np.random.Generator) -> list[KeyValue]:
    """Prompts with a JSON object of five keys, two answered questions, and a third whose answer follows."""
    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)
    prompts = []
    for _ in range(n):
        keys = ["".join(rng.choice(list(_LETTERS), _KEY)) for _ in range(_PAIRS)]
        parts = [rng.permutation(len(words))[:_PAIRS].tolist() for words in (_WHO, _DID, _WHAT, _WHEN)]
        values = [f"{_WHO[a]} {_DID[b]} {_WHAT[c]} {_WHEN[d]}" for a, b, c, d in zip(*parts, strict=True)]
        asked = rng.permutation(_PAIRS)[: _SHOTS + 1].tolist()
        context = "{" + ", ".join(f'"{key}": "{value}"' for key, value in zip(keys, values, strict=True)) + "}"
        shots = [_SHOT.format(key=keys[i]) + f" {values[i]}" for i in asked[:-1]]
        before = _ASKED.format(context=context) + "".join(shots) + _SHOT.format(key=keys[asked[-1]])
        start, whole = tokenizer.encode(before), tokenizer.encode(f"{before} {values[asked[-1]]}")
        if whole[: len(start)] == start and len(whole) > len(start):
            prompts.append(KeyValue(tuple(whole), (len(start), len(whole))))
    return prompts


def recall(model: Model, prompts: Sequence[KeyValue]) -> np.ndarray:
    """Share of an answer's tokens at which a head's largest weight lies on the same token, shape (prompt, layer, head).

    The weight is that of the position which predicts the token. The answer is given, not generated.
    """
    shares = np.zeros((len(prompts), model.spec.n_layers, model.spec.n_heads))
    for number, prompt in enumerate(prompts):
        tokens = torch.tensor([prompt.tokens])
        start, stop = prompt.answer
        pattern = model.capture(tokens, [Site.PATTERN])[Site.PATTERN][0, :, :, start - 1 : stop - 1]
        looked = tokens[0].to(pattern.device)[pattern.argmax(-1)]
        shares[number] = (looked == tokens[0, start:stop].to(pattern.device)).double().mean(-1).cpu().numpy()
    return shares


def said(model: Model, prompts: Sequence[KeyValue]) -> np.ndarray:
    """Share of an answer's tokens that the model gives first, for each prompt."""
    shares = []
    for prompt in prompts:
        tokens, (start, stop) = torch.tensor([prompt.tokens]), prompt.answer
        last = model.capture(tokens, [Site.RESID_POST], layers=[model.spec.n_layers - 1])[Site.RESID_POST][0, 0, start - 1 : stop - 1]
        shares.append(float((model.unembed(last).argmax(-1).cpu() == tokens[0, start:stop]).double().mean()))
    return np.array(shares)


def choose_heads(model: Model, prompts: Sequence[KeyValue], share: float) -> dict[str, Any]:
    """The heads of largest recall, a share of all heads, and the map of recall."""
    each = recall(model, prompts)
    mean = each.mean(0)
    count = max(1, round(share * mean.size))
    order = np.argsort(-mean, axis=None, kind="stable")[:count]
    heads = [Head(*map(int, np.unravel_index(at, mean.shape))) for at in order]
    return {
        "map": np.round(mean, 4).tolist(),
        "heads": [str(head) for head in heads],
        "least": float(mean.ravel()[order[-1]]),
        "best": mean_interval(each[:, heads[0].layer, heads[0].head], within=(0, 1)).as_dict(),
    }
