"""From prompt pairs as text to aligned token ids, with every row that does not fit named and counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from circuitlab.errors import AlignmentError, TokenizationError
from circuitlab.tasks.spec import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EncodedPair", "RejectedRow", "TokenizedPrompt", "count_reasons", "encode_pair", "need_tokenizer"]


class RejectedRow(AlignmentError, TokenizationError):
    """A row that cannot be used with this tokenizer.

    Parameters
    ----------
    reason : str
        Short name it is counted under: ``misaligned``, ``multi_token``, ``same_answer``, ``mark_shift``.
    what, fix : str
        The sentence for people.
    """

    def __init__(self, reason: str, what: str, fix: str) -> None:
        self.reason = reason
        super().__init__(what, fix)


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids and the character span each token covers."""

    ids: list[int]
    spans: list[tuple[int, int]]

    def last_token_of(self, span: tuple[int, int]) -> int | None:
        """Index of the last token that overlaps a character span."""
        found = [i for i, (start, stop) in enumerate(self.spans) if start < span[1] and stop > span[0] and stop > start]
        return found[-1] if found else None


@dataclass(frozen=True)
class EncodedPair:
    """One aligned pair as token ids."""

    clean: list[int]
    corrupt: list[int]
    marks: Mapping[str, int]
    answers: list[int]
    foils: list[int]
    distractors: list[int] = field(default_factory=list)
    text: tuple[str, str] = ("", "")
    template: str = ""


def need_tokenizer(tokenizer: PreTrainedTokenizerBase | None, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer, or `TokenizationError` for a model without a usable one."""
    if tokenizer is None or not tokenizer.is_fast:
        problem = "has no tokenizer" if tokenizer is None else "has a slow tokenizer, which cannot say where tokens begin"
        what = f"Model {name!r} {problem}, so task prompts cannot be encoded."
        raise TokenizationError(what, "Pass tokenizer=... to load_model, or build token ids with ContrastBatch.from_tokens.")
    return tokenizer


def encode_pair(tokenizer: PreTrainedTokenizerBase, example: Example) -> EncodedPair:
    """Encode one pair with the tokenizer's own special tokens.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A fast tokenizer.
    example : Example
        Prompts, mark spans and answer texts.

    Returns
    -------
    EncodedPair
        Clean and corrupt ids of one length, with each mark at the same position in both.

    Raises
    ------
    RejectedRow
        If lengths differ, a mark moves, an answer or foil is not one token after the prompt, or an answer equals a foil.
        Distractors that are not one token are left out: they only widen the accuracy test.
    """
    clean, corrupt = _tokenize(tokenizer, example.clean), _tokenize(tokenizer, example.corrupt)
    if len(clean.ids) != len(corrupt.ids):
        what = f"Row {example.row}: {len(clean.ids)} and {len(corrupt.ids)} tokens in {example.clean!r} and {example.corrupt!r}."
        raise RejectedRow("misaligned", what, "Clean and corrupt prompts need equal token counts; change or drop the row.")
    marks = {}
    for name, span in example.clean_marks.items():
        here, there = clean.last_token_of(span), corrupt.last_token_of(example.corrupt_marks[name])
        if here is None or here != there:
            what = f"Row {example.row}: mark {name} is token {here} of {example.clean!r} and token {there} of {example.corrupt!r}."
            raise RejectedRow("mark_shift", what, "Marked words need equal token counts; change or drop the row.")
        marks[name] = here
    answers = [_single(tokenizer, example, text, clean) for text in example.answers]
    foils = [_single(tokenizer, example, text, clean) for text in example.foils]
    if set(answers) & set(foils):
        what = f"Row {example.row}: an answer and a foil of {example.clean!r} are the same token."
        raise RejectedRow("same_answer", what, "Use answers that begin differently.")
    distractors = [token for text in example.distractors if (token := _one_token(tokenizer, text)) is not None]
    rivals = [token for token in dict.fromkeys(distractors) if token not in {*answers, *foils}]
    text = (example.clean, example.corrupt)
    return EncodedPair(clean.ids, corrupt.ids, marks, answers, foils, rivals, text, example.template)


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> TokenizedPrompt:
    found = tokenizer(text, return_offsets_mapping=True)
    return TokenizedPrompt(list(found["input_ids"]), [tuple(span) for span in found["offset_mapping"]])


def _one_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[0] if len(ids) == 1 else None


def _single(tokenizer: PreTrainedTokenizerBase, example: Example, text: str, prompt: TokenizedPrompt) -> int:
    """The token of an answer, which must stay one token when it follows the prompt."""
    token = _one_token(tokenizer, text)
    joined = list(tokenizer(example.clean + text)["input_ids"])
    if token is None or joined[: len(prompt.ids)] != prompt.ids or joined[len(prompt.ids) :][:1] != [token]:
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
        what = f"Row {example.row}: answer {text!r} is {len(pieces)} token(s) {pieces} and not one token after {example.clean!r}."
        raise RejectedRow("multi_token", what, "Use words that are one token with their leading space for this tokenizer.")
    return int(token)


def count_reasons(rejected: Iterable[RejectedRow]) -> dict[str, int]:
    """How many rows were turned away for each reason."""
    counts: dict[str, int] = {}
    for row in rejected:
        counts[row.reason] = counts.get(row.reason, 0) + 1
    return dict(sorted(counts.items()))
