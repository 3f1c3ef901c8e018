"""Needles in haystacks: sentences that answer a question, hidden among passages, as the tokens that a model is given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from circuitlab.core.errors import BadParameterError, TokenizationError
from circuitlab.model.encode import need_tokenizer, tokenize
from circuitlab.texts import load_texts

if TYPE_CHECKING:
    from circuitlab.model.encode import TokenizedPrompt
    from circuitlab.model.protocol import Model

__all__ = [
    "NEEDLES",
    "Needle",
    "NeedleTest",
    "Span",
    "control_spans",
    "haystack_sentences",
    "hidden_pairs",
    "hidden_singly",
    "prompt_asking",
]

Span: TypeAlias = tuple[int, int]
"""The first token, and the one after the last."""

_PROSE = ("narrative", "history", "science", "news", "travel", "essay", "biography", "diary", "encyclopedia", "gardening")
_ASKING = "\n\nBased on the content of the book, Question: {question}\nAnswer:"
_LEAST = 64
"""Tokens of a prompt below which a haystack holds hardly more than the needle."""


@dataclass(frozen=True)
class Needle:
    """A sentence that nobody knows by heart, the question that it answers, and the words of it that are the answer."""

    sentence: str
    question: str
    answer: str

    def __post_init__(self) -> None:
        if self.sentence.count(self.answer) != 1:
            what = f"The answer {self.answer!r} stands {self.sentence.count(self.answer)} times in {self.sentence!r}."
            raise BadParameterError(what, "Take words that stand there once.")


NEEDLES = tuple(
    Needle(*row)
    for row in (
        ("The password of the green lighthouse is seven purple elephants.", "What is the password of the green lighthouse?",
         "seven purple elephants"),
        ("Mrs Halloway keeps her spare key under the blue flowerpot beside the shed.", "Where does Mrs Halloway keep her spare key?",
         "under the blue flowerpot beside the shed"),
        ("The first prize at the Dunmore fair went to a goat named Barnaby.", "Who won the first prize at the Dunmore fair?",
         "a goat named Barnaby"),
        ("The old clock in Verrin tower was repaired by a retired baker and his nieces.", "Who repaired the old clock in Verrin tower?",
         "a retired baker and his nieces"),
        ("The favourite meal of the ship's captain is cold potato soup with mint.", "What is the favourite meal of the ship's captain?",
         "cold potato soup with mint"),
        ("Doctor Pell travels to work every morning on a borrowed wooden sledge.", "How does Doctor Pell travel to work every morning?",
         "on a borrowed wooden sledge"),
        ("The secret ingredient of Anna's bread is a spoon of roasted chestnut flour.", "What is the secret ingredient of Anna's bread?",
         "a spoon of roasted chestnut flour"),
        ("The museum of Harlow Bay is closed because a pipe burst above the whale.", "Why is the museum of Harlow Bay closed?",
         "because a pipe burst above the whale"),
        ("The thief hid the silver crown inside a hollow cheese in the cellar.", "Where did the thief hide the silver crown?",
         "inside a hollow cheese in the cellar"),
        ("The next train to Mossgrove leaves at nineteen minutes past four.", "When does the next train to Mossgrove leave?",
         "at nineteen minutes past four"),
        ("Uncle Tobias is afraid of yellow umbrellas and brass bands.", "What is Uncle Tobias afraid of?",
         "yellow umbrellas and brass bands"),
        ("The winner of the chess match in Orlen was a quiet plumber from Tarn.", "Who was the winner of the chess match in Orlen?",
         "a quiet plumber from Tarn"),
        ("The island of Skerra is famous for its black honey and crooked chapels.", "What is the island of Skerra famous for?",
         "its black honey and crooked chapels"),
        ("Professor Lind wrote her last book in a caravan behind the bakery.", "Where did Professor Lind write her last book?",
         "in a caravan behind the bakery"),
        ("The dragon in the play was built from bicycle parts and green silk.", "What was the dragon in the play built from?",
         "from bicycle parts and green silk"),
        ("The mayor of Quillby promised every child a jar of gooseberry jam.", "What did the mayor of Quillby promise every child?",
         "a jar of gooseberry jam"),
        ("The lost parrot was found by two fishermen near the salt works.", "Who found the lost parrot?",
         "two fishermen near the salt works"),
        ("The best place to see otters is the stone bridge below Ferry Lane.", "What is the best place to see otters?",
         "the stone bridge below Ferry Lane"),
    )
)  # fmt: skip
"""Needles of circuitlab's own; names and facts are made up."""


@dataclass(frozen=True)
class NeedleTest:
    """A prompt that asks for what stands somewhere in it.

    Parameters
    ----------
    tokens : tuple of int
        The prompt, whose continuation is the answer.
    evidence : tuple of int
        First token of what answers the question, and the one after its last.
    other : tuple of int
        The same of something in the prompt that answers nothing: what the evidence is compared with.
    question : tuple of int
        The same of the question.
    answer : str
        The words looked for in what the model says; where it is empty, the tokens of the evidence are.

    Raises
    ------
    BadParameterError
        If a span is empty or outside the prompt, or evidence and the other span have tokens in common.

    Examples
    --------
    >>> NeedleTest((5, 6, 7, 1, 2, 3, 5), evidence=(1, 3), other=(3, 5), question=(6, 7)).copied
    (6, 7)
    """

    tokens: tuple[int, ...]
    evidence: Span
    other: Span
    question: Span
    answer: str = ""

    def __post_init__(self) -> None:
        for name in ("evidence", "other", "question"):
            start, stop = getattr(self, name)
            if not 0 <= start < stop <= len(self.tokens):
                what = f"{name}={(start, stop)} is no span of a prompt of {len(self.tokens)} tokens."
                raise BadParameterError(what, "Give the first token and the one after the last.")
        if max(self.evidence[0], self.other[0]) < min(self.evidence[1], self.other[1]):
            what = f"evidence={self.evidence} and other={self.other} have tokens in common."
            raise BadParameterError(what, "Compare the evidence with something else.")

    @property
    def copied(self) -> tuple[int, ...]:
        """The tokens of the evidence."""
        return self.tokens[slice(*self.evidence)]

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def hidden_singly(model: Model, length: int, depths: Sequence[float], seed: int, *, chat: bool = True) -> tuple[NeedleTest, ...]:
    """One prompt for each needle, hidden at the depths in turn; the evidence is the answer's words in the needle's sentence.

    With ``chat``, where the tokenizer has a chat template, haystack and question are a user's turn in it, and the answer is the
    assistant's.

    The other span is as long, and drawn from the haystack outside the needle's sentence and the first token, where attention rests.
    """
    rng, tests = np.random.default_rng(seed), []
    for number, needle in enumerate(NEEDLES):
        sentences = haystack_sentences(model, length, rng)
        at = round(depths[number % len(depths)] * len(sentences))
        text = " ".join([*sentences[:at], needle.sentence, *sentences[at:]])
        prompt, asked, before = prompt_asking(model, text, needle, chat=chat)
        full = before + text
        sentence = full.index(needle.sentence, len(before))
        whole, haystack = _tokens_of(prompt, full, needle.sentence, sentence), _tokens_of(prompt, full, text, len(before))
        evidence = _tokens_of(prompt, full, needle.answer, sentence)
        spans = list(control_spans(evidence[1] - evidence[0], whole, haystack))
        other = spans[int(rng.integers(len(spans)))]
        tests.append(NeedleTest(tuple(prompt.ids), evidence, other, asked, needle.answer))
    return tuple(tests)


def hidden_pairs(model: Model, length: int, seed: int) -> tuple[NeedleTest, ...]:
    """Two prompts for every two needles: the same haystack holds both, at a third and at two thirds, and each is asked for once.

    Evidence is the sentence asked for, and the other span the sentence of the other needle, so that places and sentences are the same on
    both sides.
    """
    rng, tests = np.random.default_rng(seed), []
    for first, second in zip(NEEDLES[::2], NEEDLES[1::2], strict=True):
        sentences = haystack_sentences(model, length, rng)
        third = max(1, len(sentences) // 3)
        parts = [*sentences[:third], first.sentence, *sentences[third : 2 * third], second.sentence, *sentences[2 * third :]]
        text = " ".join(parts)
        for needle, rival in ((first, second), (second, first)):
            prompt, asked, _before = prompt_asking(model, text, needle)
            evidence, other = (_tokens_of(prompt, text, one.sentence) for one in (needle, rival))
            tests.append(NeedleTest(tuple(prompt.ids), evidence, other, asked, needle.answer))
    return tuple(tests)


def control_spans(size: int, taken: Span, inside: Span) -> Iterator[Span]:
    """Spans of so many tokens inside another one that leave out the first token of a prompt and those taken.

    Raises
    ------
    BadParameterError
        If there is none.
    """
    first, stop = max(1, inside[0]), inside[1]
    spans = [(i, i + size) for i in range(first, stop - size + 1) if i + size <= taken[0] or i >= taken[1]]
    if not spans:
        what = f"A haystack of {stop - inside[0]} tokens with its needle at {taken} has no other span of {size} tokens."
        raise BadParameterError(what, "Use longer prompts.")
    return iter(spans)


def haystack_sentences(model: Model, length: int, rng: np.random.Generator) -> list[str]:
    """Sentences of passages in random order, as many as make a haystack of about so many tokens."""
    tokenizer, room = need_tokenizer(model.tokenizer, model.spec.name), model.spec.n_ctx or length
    if min(room, length) < _LEAST:
        what = f"Prompts of {length} tokens in {room} positions of {model.spec.name} have no room for a haystack."
        raise BadParameterError(what, f"Use {_LEAST} tokens or more, and a model with as many positions.")
    passages = [one.text for one in load_texts(_PROSE)]
    sentences: list[str] = []
    tokens = 0
    for number in rng.permutation(len(passages)):
        for sentence in re.split(r"(?<=[.!?])\s+", passages[number]):
            tokens += len(tokenizer(f" {sentence}", add_special_tokens=False)["input_ids"])
            if tokens > length:
                return sentences
            sentences.append(sentence)
    return sentences


def prompt_asking(model: Model, text: str, needle: Needle, *, chat: bool = False) -> tuple[TokenizedPrompt, Span, str]:
    """The whole prompt, where its question stands, and what comes before the text: nothing, or the beginning of a chat."""
    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)
    before, whole = "", text + _ASKING.format(question=needle.question)
    if chat and tokenizer.chat_template:
        turn = [{"role": "user", "content": whole}]
        before, said, after = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)).partition(whole)
        if not said:
            what = f"The chat template of {model.spec.name} changes the text that it is given, so that the needle cannot be located."
            raise TokenizationError(what, "Give tests= as token ids.")
        whole = before + said + after
    # A template has the special tokens of a beginning itself.
    (prompt,) = tokenize(tokenizer, [whole], special=not before)
    if model.spec.n_ctx is not None and len(prompt.ids) > model.spec.n_ctx:
        what = f"A haystack with its question has {len(prompt.ids)} tokens, and {model.spec.name} has {model.spec.n_ctx} positions."
        raise BadParameterError(what, "Use a smaller length.")
    return prompt, _tokens_of(prompt, whole, needle.question, len(before) + len(text)), before


def _tokens_of(prompt: TokenizedPrompt, text: str, words: str, after: int = 0) -> Span:
    """The tokens that overlap some words of a text."""
    first = text.index(words, after)
    inside = [i for i, (start, stop) in enumerate(prompt.spans) if start < first + len(words) and stop > first and stop > start]
    return inside[0], inside[-1] + 1
