"""The direct effect of a head where a text goes on with what comes next in a list, and where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.nodes import Head
from circuitlab.execute.on_text import text_values
from circuitlab.execute.text_rows import text_rows
from circuitlab.methods.roles.succession import TASKS, succession
from circuitlab.model.encode import need_tokenizer
from circuitlab.scores.intervals import mean_interval, proportion_interval

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["counted_lists", "effects", "pairs_of", "successions"]

_LENGTH = 64
_WORDS = (
    "bread", "milk", "salt", "rice", "soap", "tea", "flour", "sugar", "butter", "cheese", "honey", "pepper", "oil", "jam", "beans", "fish",
    "apples", "pears", "plums", "onions", "nuts", "eggs", "corn", "wine", "paper", "string", "candles", "matches", "nails", "paint",
)  # fmt: skip
_FORMS = ("{number}. {word}\n", "{number} {word}, ")


def pairs_of(model: Model) -> set[tuple[int, int]]:
    """Tokens that follow each other in a list, in any spelling; digits are left out, since longer numbers are written with them."""
    pairs = succession(model, [task for task in TASKS if task != "numbers"], ())
    return set(zip(pairs.sources, pairs.targets, strict=True))


def successions(model: Model, pairs: set[tuple[int, int]], n: int) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    """The first ``n`` passages of circuitlab in which a token follows an earlier one of its list, and the positions before such tokens."""
    rows: list[tuple[int, ...]] = []
    places: list[list[int]] = []
    for row in text_rows(model, None, _LENGTH):
        here = [at for at in range(1, len(row) - 1) if any((earlier, row[at + 1]) in pairs for earlier in set(row[: at + 1]))]
        if here and len(here) < len(row) - 2 and len(rows) < n:
            rows.append(row)
            places.append(here)
    return rows, places


def counted_lists(model: Model, n: int, rng: np.random.Generator) -> dict[str, tuple[list[tuple[int, ...]], list[list[int]]]]:
    """Numbered lists of 4 to 9 things, by digits and by number words, and the position before their last number."""
    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)
    lists = {}
    for form, numbers in zip(_FORMS, ([str(i) for i in range(1, 10)], TASKS["number_words"][:9]), strict=True):
        rows, places = [], []
        for _ in range(n):
            last, words = int(rng.integers(4, 10)), rng.choice(_WORDS, 9, replace=False)
            items = [form.format(number=numbers[i], word=words[i]) for i in range(last)]
            before = tokenizer.encode("".join(items[:-1]).rstrip(" "))
            whole = tokenizer.encode("".join(items).rstrip(" "))
            if whole[: len(before)] == before and len(whole) > len(before) + 1:
                rows.append(tuple(whole))
                places.append([len(before) - 1])
        lists["digits" if numbers[0] == "1" else "number words"] = (rows, places)
    return lists


def effects(
    model: Model, rows: Sequence[tuple[int, ...]], places: Sequence[Sequence[int]], heads: Mapping[str, Sequence[Head]]
) -> dict[str, Any]:
    """Direct effects of heads on the true next token at chosen positions and at the others of the same rows; intervals over rows.

    Parameters
    ----------
    model : Model
    rows, places : sequence of tuple of int, sequence of sequence of int
        Token ids of passages, and the positions that are looked at in each.
    heads : mapping of str to sequence of Head
        ``"chosen"`` is one head, ``"random"`` its controls.

    Returns
    -------
    dict
        For the chosen head ``difference`` (positions looked at minus others, in logits), ``wins`` (share of positions looked at at which
        no head of the model has a larger effect), ``elsewhere`` (the same at other positions); differences and wins of the controls.
    """
    values = text_values(model, list(rows))
    looked = np.array([position in set(places[passage]) for passage, position in zip(values.passage, values.position, strict=True)])
    winner = values.effect.reshape(len(values.effect), -1).argmax(1)
    (chosen,) = heads["chosen"]

    def wins(head: Head, where: np.ndarray) -> np.ndarray:
        return np.asarray((winner == np.ravel_multi_index((head.layer, head.head), values.effect.shape[1:])) & where)

    def differences(head: Head) -> np.ndarray:
        effect = values.effect[:, head.layer, head.head]
        each = []
        for passage in np.unique(values.passage[looked]):
            mine = values.passage == passage
            each.append(float(effect[mine & looked].mean() - effect[mine & ~looked].mean()))
        return np.array(each)

    n_wins, n_looked = int(wins(chosen, looked).sum()), int(looked.sum())
    return {
        "rows": len(rows),
        "positions": n_looked,
        "difference": mean_interval(differences(chosen)).as_dict(),
        "wins": proportion_interval(n_wins, n_looked).as_dict(),
        "won": n_wins,
        "elsewhere": float(wins(chosen, ~looked).sum() / max(1, int((~looked).sum()))),
        "random_differences": [float(differences(head).mean()) for head in heads["random"]],
        "random_wins": [float(wins(head, looked).sum() / n_looked) for head in heads["random"]],
        "heads": int(np.prod(values.effect.shape[1:])),
    }
