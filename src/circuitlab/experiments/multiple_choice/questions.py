"""Multiple-choice questions whose answer stands in the prompt, and how well a model answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.experiments.multiple_choice.forms import AS_CHOSEN, LABELS
from circuitlab.model.encode import need_tokenizer
from circuitlab.model.prepare import prepare_batch
from circuitlab.scores.intervals import mean_interval, proportion_interval
from circuitlab.tasks import Task

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["Choices", "ability", "choices"]

_SENTENCES = (
    ("The box holds a {}.", "What does the box hold?"),
    ("Anna bought a {}.", "What did Anna buy?"),
    ("The story is about a {}.", "What is the story about?"),
    ("We found a {}.", "What did we find?"),
    ("The sign shows a {}.", "What does the sign show?"),
    ("He asked for a {}.", "What did he ask for?"),
)
_WORDS = tuple(
    """ball bed bell bird book bottle bowl box bread brush bus cake camera candle car card cat chair clock coin cow cup dog door dress
drum duck fan fish flag flower fork fox glass hammer hat horse house key knife lamp lemon map mirror mouse needle pan pen piano picture
pig plate pot rabbit ring rope ship shirt shoe sheep spoon table tent ticket tower toy train tree truck window wheel""".split()  # noqa: SIM905 - readable
)


@dataclass(frozen=True, eq=False)
class Choices:
    """Questions with the same labels.

    Parameters
    ----------
    batch : ContrastBatch
        The answer is the label of the right option. In the corrupt prompt the right option stands in another place, and its label is the
        foil. Marks ``L0``, ``L1``, ... are labels of the options, ``C0``, ``C1``, ... their contents.
    labels : tuple of int
        Token of each label, in the order of the options.
    true : ndarray of int, shape (row,)
        Place of the right option.
    """

    batch: ContrastBatch
    labels: tuple[int, ...]
    true: np.ndarray

    def places(self, kind: str) -> torch.Tensor:
        """Positions of the labels (``"L"``) or contents (``"C"``), shape (row, option)."""
        return torch.stack([self.batch.marks[f"{kind}{i}"] for i in range(len(self.labels))], dim=1)

    def losses(self, model: Model) -> np.ndarray:
        """Cross-entropy of the right label among the labels, in nats, shape (row,)."""
        logits = self._logits(model).log_softmax(-1)
        return -logits[torch.arange(len(logits)), torch.from_numpy(self.true)].numpy()

    def correct(self, model: Model) -> np.ndarray:
        """Whether the right label is the most probable one, shape (row,)."""
        return self._logits(model).argmax(-1).numpy() == self.true

    def _logits(self, model: Model) -> torch.Tensor:
        logits = model.logits(self.batch.clean, self.batch.end, marks=self.batch.marks)
        return logits[:, list(self.labels)].double().cpu()


def choices(model: Model, form: str, labels: str, n: int, rng: np.random.Generator) -> Choices:
    """Questions with two answered ones before them; places of the right option are balanced.

    Parameters
    ----------
    model : Model
        With a tokenizer; words that are not one token after a space are left out.
    form : {"label_first", "label_last"}
        See `circuitlab.experiments.multiple_choice.forms`.
    labels : str
        One character for each option.
    n : int
        Number of questions.
    rng : numpy Generator
        The same generator gives the same words and places with other labels.
    """
    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)
    words = [word for word in _WORDS if len(tokenizer.encode(" " + word, add_special_tokens=False)) == 1]
    options, shots = len(labels), 2
    if len(words) < options * (shots + 1):
        what = f"{len(words)} of the {len(_WORDS)} words are single tokens of {model.spec.name}, and {options * (shots + 1)} are needed."
        raise BadParameterError(what, "Use a model whose tokenizer has whole words.")
    rows, true = [], []
    for number in range(n):
        drawn = [words[i] for i in rng.permutation(len(words))[: options * (shots + 1)]]
        asked = [_SENTENCES[i] for i in rng.permutation(len(_SENTENCES))[: shots + 1]]
        before = "".join(
            _question(form, asked[i], labels, drawn[options * i : options * (i + 1)], int(rng.integers(options)), last=False)
            for i in range(shots)
        )
        place = number % options
        other = (place + 1 + number // options % (options - 1)) % options
        here = drawn[options * shots :]
        swapped = list(here)
        swapped[place], swapped[other] = here[other], here[place]
        clean, corrupt = (_question(form, asked[-1], labels, at, i, last=True) for at, i in ((here, place), (swapped, other)))
        rest = [label for i, label in enumerate(labels) if i not in {place, other}]
        rows.append(_row(before + clean, before + corrupt, labels[place], labels[other], rest))
        true.append(place)
    batch = prepare_batch(model, Task.from_pairs(rows, id="multiple_choice"), n, strict=True)
    tokens = dict(zip(true, batch.answers[:, 0].tolist(), strict=True))
    return Choices(batch, tuple(tokens[i] for i in range(options)), np.array(true))


def _row(clean: str, corrupt: str, answer: str, foil: str, rest: list[str]) -> dict[str, Any]:
    return {"clean": clean, "corrupt": corrupt, "answer": answer, "foil": foil, "distractors": rest}


def _question(form: str, sentence: tuple[str, str], labels: str, words: Sequence[str], place: int, *, last: bool) -> str:
    """One question; its answer is left out, and its options are marked, if it is the last one."""
    statement, question = sentence
    pairs = list(zip(labels, words, strict=True))
    shown = [(f"[L{i}:{label}]", f"[C{i}:{word}]") for i, (label, word) in enumerate(pairs)] if last else pairs
    first = form == "label_first"
    options = "\n".join(f"({label}) {word}" if first else f"- {word} ({label})" for label, word in shown)
    answer = "Answer: (" if first else f"Answer: {words[place]} ("
    text = f"{statement.format(words[place])} {question}\n{options}\n{answer}"
    return text if last else f"{text}{labels[place]})\n\n"


def ability(model: Model, forms: Sequence[str], n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Accuracy by form, and the first form, in the given order, in which it is above chance; None if there is no such form."""
    by_form: dict[str, Any] = {}
    used = None
    for form in forms:
        asked = choices(model, form, LABELS[AS_CHOSEN], n, rng)
        right = asked.correct(model)
        by_form[form] = {
            **proportion_interval(int(right.sum()), len(right)).as_dict(),
            "loss": mean_interval(asked.losses(model)).as_dict(),
        }
        if used is None and by_form[form]["low"] > 1 / len(asked.labels):
            used = form
    return {"accuracy": by_form, "form": used, "chance": 1 / len(LABELS[AS_CHOSEN])}
