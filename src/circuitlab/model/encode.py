"""Encode pairs of prompts as aligned token ids; every row that cannot be used is named and counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from circuitlab.core.errors import AlignmentError, TokenizationError
from circuitlab.tasks.spec import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EncodedPair", "RejectedRow", "TokenizedPrompt", "count_reasons", "encode_pair", "need_tokenizer", "tokenize"]


class RejectedRow(AlignmentError, TokenizationError):
    """A row that cannot be used with this tokenizer.

    Parameters
    ----------
    reason : str
        Short name for counting: ``misaligned``, ``multi_token``, ``same_answer``, ``same_prompt``, ``mark_shift``, ``two_bos``,
        ``empty_prompt``.
    what, fix : str
        What happened, and what to do next.
    """

    def __init__(self, reason: str, what: str, fix: str) -> None:
        self.reason = reason
        super().__init__(what, fix)


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids, and the character span of each token."""

    ids: list[int]
    spans: list[tuple[int, int]]

    def last_token_of(self, span: tuple[int, int]) -> int | None:
        """Index of the last token that overlaps a character span."""
        overlapping = [i for i, (start, stop) in enumerate(self.spans) if start < span[1] and stop > span[0] and stop > start]
        return overlapping[-1] if overlapping else None


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
    """The tokenizer; raises `TokenizationError` for a model without a fast one."""
    if tokenizer is None or not tokenizer.is_fast:
        problem = "has no tokenizer" if tokenizer is None else "has a slow tokenizer, which gives no character offsets of tokens"
        what = f"Model {name!r} {problem}, so task prompts cannot be encoded."
        raise TokenizationError(what, "Pass tokenizer=... to load_model, or build token ids with ContrastBatch.from_tokens.")
    return tokenizer


def encode_pair(tokenizer: PreTrainedTokenizerBase, example: Example) -> EncodedPair:
    """Encode one pair with the special tokens that the tokenizer puts before a text.

    Special tokens that it puts after a text (an EOS) are left out, because the answer follows the prompt.

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
        If lengths differ, both prompts are the same tokens, one begins with two BOS, a mark is at different positions, an answer or foil
        is not a single token after the prompt, or an answer equals a foil. Distractors that are not a single token are left out, because
        only accuracy reads them.
    """
    clean, corrupt = _prompt(tokenizer, example, example.clean), _prompt(tokenizer, example, example.corrupt)
    if len(clean.ids) != len(corrupt.ids):
        what = f"Row {example.row}: {len(clean.ids)} and {len(corrupt.ids)} tokens in {example.clean!r} and {example.corrupt!r}."
        raise RejectedRow("misaligned", what, "Clean and corrupt prompts need equal token counts; change or drop the row.")
    if clean.ids == corrupt.ids:
        what = f"Row {example.row}: {example.clean!r} and {example.corrupt!r} are the same tokens."
        raise RejectedRow("same_prompt", what, "The tokenizer gives both texts the same tokens; change the words that differ.")
    marks = {}
    for name, span in example.clean_marks.items():
        here, other = clean.last_token_of(span), example.corrupt_marks.get(name)
        there = here if other is None else corrupt.last_token_of(other)
        if here is None or here != there:
            what = f"Row {example.row}: mark {name} is token {here} of {example.clean!r} and token {there} of {example.corrupt!r}."
            raise RejectedRow("mark_shift", what, "Marked words need equal token counts; change or drop the row.")
        marks[name] = here
    answers, foils = (_singles(tokenizer, example, texts, clean) for texts in (example.answers, example.foils))
    if set(answers) & set(foils):
        what = f"Row {example.row}: an answer and a foil of {example.clean!r} are the same token."
        raise RejectedRow("same_answer", what, "Use answers that begin differently.")
    distractors = [token for token in _after(tokenizer, example, example.distractors, clean) if token is not None]
    rivals = [token for token in dict.fromkeys(distractors) if token not in {*answers, *foils}]
    text = (example.clean, example.corrupt)
    return EncodedPair(clean.ids, corrupt.ids, marks, answers, foils, rivals, text, example.template)


def _prompt(tokenizer: PreTrainedTokenizerBase, example: Example, text: str) -> TokenizedPrompt:
    (prompt,) = tokenize(tokenizer, [text])
    bos = tokenizer.bos_token_id
    if bos is not None and prompt.ids[:2] == [bos, bos]:
        what = f"Row {example.row}: {text!r} begins with {tokenizer.bos_token!r} twice: once in the text, and the tokenizer adds another."
        raise RejectedRow("two_bos", what, f"Remove {tokenizer.bos_token!r} from the template.")
    if not prompt.ids:
        raise RejectedRow("empty_prompt", f"Row {example.row}: {text!r} has no tokens.", "Use words that this tokenizer knows.")
    return prompt


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool = True) -> list[TokenizedPrompt]:
    """Ids and spans of texts, without the special tokens that the tokenizer adds at the end; with ``special=False``, at the start, too."""
    encoded = tokenizer(list(texts), return_offsets_mapping=True, return_special_tokens_mask=True, add_special_tokens=special)
    prompts = []
    for ids, spans, added in zip(encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True):
        stop = len(ids)
        while stop and added[stop - 1]:  # the mask marks tokens that the tokenizer added, not special tokens in the text itself
            stop -= 1
        stop = stop or len(ids)
        prompts.append(TokenizedPrompt(list(ids[:stop]), [tuple(span) for span in spans[:stop]]))
    return prompts


def _after(tokenizer: PreTrainedTokenizerBase, example: Example, texts: Sequence[str], prompt: TokenizedPrompt) -> list[int | None]:
    """For each text, its token after the clean prompt; None if it is not a single token there.

    Texts are encoded after the prompt, because many tokenizers put a space before the first word of a text.
    """
    if not texts:
        return []
    length = len(prompt.ids)
    joined = [prompt_and_text.ids for prompt_and_text in tokenize(tokenizer, [example.clean + text for text in texts])]
    return [ids[length] if len(ids) == length + 1 and ids[:length] == prompt.ids else None for ids in joined]


def _singles(tokenizer: PreTrainedTokenizerBase, example: Example, texts: Sequence[str], prompt: TokenizedPrompt) -> list[int]:
    """The tokens of answers without duplicates; each must be a single token after the prompt."""
    tokens = _after(tokenizer, example, texts, prompt)
    for text, token in zip(texts, tokens, strict=True):
        if token is None:
            (joined,) = tokenize(tokenizer, [example.clean + text])
            prompt_is_prefix = joined.ids[: len(prompt.ids)] == prompt.ids
            pieces = tokenizer.convert_ids_to_tokens(joined.ids[len(prompt.ids) :])
            problem = f"is {len(pieces)} tokens {pieces}" if prompt_is_prefix else "joins the prompt's last word, and is not one token"
            what = f"Row {example.row}: answer {text!r} {problem} after {example.clean!r}."
            raise RejectedRow("multi_token", what, "Use words that are one token with their leading space for this tokenizer.")
    return list(dict.fromkeys(token for token in tokens if token is not None))


def count_reasons(rejected: Iterable[RejectedRow]) -> dict[str, int]:
    """Number of rejected rows for each reason."""
    counts: dict[str, int] = {}
    for row in rejected:
        counts[row.reason] = counts.get(row.reason, 0) + 1
    return dict(sorted(counts.items()))
