"""Questions with and without demonstrations, split into those that train and those that measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.execute.single_tokens import single_token
from circuitlab.methods.roles.in_context import prompt_text, task_pairs
from circuitlab.model.encode import need_tokenizer, tokenize

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["Questions", "TuningTask", "tuning_task"]


@dataclass(frozen=True, eq=False)
class Questions:
    """Prompts as token ids, each with the token that answers it.

    Parameters
    ----------
    tokens : Tensor of int, shape (row, pos)
        Padded on the right.
    end : Tensor of int, shape (row,)
        Position of each prompt's last token.
    answers : Tensor of int, shape (row,)
    names : tuple of str
        What each prompt asks about.
    """

    tokens: Int[Tensor, "row pos"]
    end: Int[Tensor, " row"]
    answers: Int[Tensor, " row"]
    names: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], answers: Sequence[int], names: Sequence[str]) -> Questions:
        """Questions from rows of token ids of any lengths."""
        longest = max(map(len, rows))
        tokens = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows])
        return cls(tokens, torch.tensor([len(row) - 1 for row in rows]), torch.tensor(list(answers)), tuple(names))

    def likely(self, model: Model, rows: Int[Tensor, " chosen"], *, gradients: bool = False) -> Float[Tensor, "chosen vocab"]:
        """Log-probabilities of the token after each chosen prompt."""
        end = self.end[rows]
        logits = model.logits(self.tokens[rows, : int(end.max()) + 1], end, gradients=gradients)
        return logits.float().log_softmax(-1)

    def measured(self, model: Model) -> np.ndarray:
        """Whether the answer is the first choice (0 or 1), and its log-probability in nats, shape (2, row)."""
        likely = self.likely(model, torch.arange(len(self.answers))).cpu()
        right = likely.argmax(-1) == self.answers
        return np.stack([right.double().numpy(), likely[torch.arange(len(right)), self.answers].double().numpy()])


@dataclass(frozen=True, eq=False)
class TuningTask:
    """The prompts of one task.

    Parameters
    ----------
    train, held : Questions
        Zero-shot prompts that train, and those that measure.
    shown_train, shown_held : Questions
        The same questions after demonstrations, all of which are questions of ``train``; none shows its own question.
    """

    train: Questions
    held: Questions
    shown_train: Questions
    shown_held: Questions


def tuning_task(model: Model, name: str, sizes: tuple[int, int], rng: np.random.Generator) -> TuningTask:
    """Prompts of a task whose answers are single tokens; ``sizes`` are the questions that train, and demonstrations in a prompt.

    Fewer train where fewer than twice as many questions are usable, and fewer demonstrations are shown where fewer train.
    """
    answers = {pair: single_token(model, f" {pair[1]}") for pair in task_pairs(name)}
    usable = [pair for pair, token in answers.items() if token is not None]
    usable = [usable[i] for i in rng.permutation(len(usable))]
    cut = min(sizes[0], len(usable) // 2)
    train, held = usable[:cut], usable[cut:]
    shots = min(sizes[1], cut - 1)
    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)

    def questions(pairs: Sequence[tuple[str, str]], count: int) -> Questions:
        texts = []
        for pair in pairs:
            others = [other for other in train if other != pair]
            shown = [others[i] for i in rng.permutation(len(others))[:count]]
            texts.append(prompt_text(shown, pair[0]))
        tokens = [answers[pair] for pair in pairs]
        rows = [prompt.ids for prompt in tokenize(tokenizer, texts)]
        return Questions.of(rows, [token for token in tokens if token is not None], [pair[0] for pair in pairs])

    return TuningTask(questions(train, 0), questions(held, 0), questions(train, shots), questions(held, shots))
