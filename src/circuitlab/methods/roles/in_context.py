"""In-context tasks: demonstrations of one rule and a question, and the same with the demonstrations' answers dealt anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.errors import BadParameterError, TokenizationError, UnknownNameError
from circuitlab.execute.single_tokens import single_token
from circuitlab.model.encode import need_tokenizer, tokenize
from circuitlab.tasks.relations import list_relations, relation_pairs

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["TASKS", "InContextTask", "in_context_task", "prompt_text", "task_pairs"]

_WORDS = {
    "antonyms": "big small, hot cold, up down, left right, open closed, early late, rich poor, fast slow, hard soft, wet dry, "
    "high low, good bad, happy sad, long short, new old, strong weak, young old, light dark, full empty, near far, true false, "
    "thick thin, cheap expensive, noisy quiet",
    "plurals": "cat cats, dog dogs, house houses, tree trees, book books, car cars, man men, woman women, child children, foot feet, "
    "city cities, story stories, box boxes, bird birds, hand hands, river rivers, road roads, star stars, king kings, shoe shoes, "
    "door doors, letter letters, friend friends, country countries",
    "past_tense": "go went, see saw, take took, come came, make made, give gave, find found, tell told, think thought, know knew, "
    "walk walked, ask asked, play played, look looked, call called, run ran, write wrote, eat ate, buy bought, begin began, "
    "leave left, keep kept, bring brought, feel felt",
    "capitalised": "apple Apple, river River, stone Stone, garden Garden, music Music, winter Winter, paper Paper, window Window, "
    "market Market, church Church, school School, bridge Bridge, summer Summer, island Island, forest Forest, doctor Doctor, "
    "kitchen Kitchen, engine Engine, silver Silver, village Village, mountain Mountain, station Station, power Power, table Table",
    "comparatives": "big bigger, small smaller, fast faster, slow slower, old older, young younger, high higher, low lower, "
    "strong stronger, weak weaker, hard harder, soft softer, long longer, short shorter, warm warmer, cold colder, rich richer, "
    "poor poorer, great greater, late later, deep deeper, wide wider, cheap cheaper, good better",
}
TASKS = (*_WORDS, "capitals", "country_language", "country_continent")
"""Five tables of common words, and three of the relations in ``tasks/``."""

_ASKED, _ANSWERED = "Q: {}\nA:", " {}\n\n"
"""The layout of Todd et al.'s prompts."""
_FEWEST = 2


@dataclass(frozen=True)
class InContextTask:
    """Prompts of one in-context task as token ids.

    Parameters
    ----------
    name : str
        The task.
    clean : tuple of tuple of int
        Prompts with demonstrations of the rule, and a question.
    corrupt : tuple of tuple of int
        The same number of prompts whose demonstrations follow no rule.
    answers : tuple of int
        The token that answers each corrupt prompt by the rule.

    Raises
    ------
    BadParameterError
        If there are fewer than two prompts, or not as many of each kind.

    Examples
    --------
    >>> InContextTask("double", clean=((1, 2, 3), (2, 4, 3)), corrupt=((1, 3, 3), (2, 1, 3)), answers=(6, 6)).name
    'double'
    """

    name: str
    clean: tuple[tuple[int, ...], ...]
    corrupt: tuple[tuple[int, ...], ...]
    answers: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = (len(self.clean), len(self.corrupt), len(self.answers))
        if len(set(sizes)) != 1 or sizes[0] < _FEWEST:
            what = f"Task {self.name!r} has {sizes[0]} clean prompts, {sizes[1]} corrupt ones and {sizes[2]} answers."
            raise BadParameterError(what, "Give two prompts or more, and as many of each.")

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def task_pairs(name: str) -> list[tuple[str, str]]:
    """Questions and answers of a task.

    Raises
    ------
    UnknownNameError
        If there is no such task.

    Examples
    --------
    >>> task_pairs("past_tense")[0]
    ('go', 'went')
    """
    if name in _WORDS:
        return [(question, answer) for question, answer in (pair.split() for pair in _WORDS[name].split(", "))]
    if name not in list_relations():
        raise UnknownNameError("in-context task", name, TASKS)
    return list(dict.fromkeys(relation_pairs(name)))


def in_context_task(model: Model, name: str, n: int, shots: int, seed: int) -> InContextTask:
    """Prompts of a task in the model's own tokens, of pairs whose answer is a single token.

    A corrupt prompt has the questions of a clean one, and its demonstrations' answers moved among them so that none stands with its own
    question, unless it has the same answer.

    Raises
    ------
    TokenizationError
        If too few answers are single tokens for so many demonstrations and a question.
    UnknownNameError
        If there is no such task.
    BadParameterError
        If a prompt is longer than the model's positions.
    """
    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)
    answers = {pair: single_token(model, f" {pair[1]}") for pair in task_pairs(name)}
    usable = [pair for pair, token in answers.items() if token is not None]
    if len(usable) <= shots:
        what = f"{len(usable)} answers of {name} are single tokens of {model.spec.name}, for {shots} demonstrations and a question."
        raise TokenizationError(what, "Use fewer demonstrations (shots=), or other tasks.")
    random, sides, said = np.random.default_rng([seed, *name.encode()]), ([], []), []  # type: ignore[var-annotated]
    for _ in range(n):
        *shown, asked = [usable[i] for i in random.permutation(len(usable))[: shots + 1]]
        turn = int(random.integers(1, shots))
        moved = [(question, shown[(i + turn) % shots][1]) for i, (question, _answer) in enumerate(shown)]
        for side, demonstrations in zip(sides, (shown, moved), strict=True):
            side.append(prompt_text(demonstrations, asked[0]))
        said.append(answers[asked])
    clean, corrupt = (tuple(tuple(prompt.ids) for prompt in tokenize(tokenizer, side)) for side in sides)
    longest = max(map(len, (*clean, *corrupt)))
    if model.spec.n_ctx is not None and longest > model.spec.n_ctx:
        prompt = f"{shots} demonstrations of {name} and a question have {longest} tokens"
        what = f"{prompt}, and {model.spec.name} has {model.spec.n_ctx} positions."
        raise BadParameterError(what, "Use fewer demonstrations (shots=).")
    return InContextTask(name, clean, corrupt, tuple(token for token in said if token is not None))


def prompt_text(demonstrations: Sequence[tuple[str, str]], asked: str) -> str:
    r"""Demonstrations and a question, in the layout of Todd et al.; without demonstrations, the question alone.

    Examples
    --------
    >>> prompt_text([("go", "went")], "see")
    'Q: go\nA: went\n\nQ: see\nA:'
    """
    return "".join(_ASKED.format(question) + _ANSWERED.format(answer) for question, answer in demonstrations) + _ASKED.format(asked)
