"""Roles of heads that find what was asked for: attention from a question to its evidence, and chunks of text chosen by their keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.progress import step
from circuitlab.methods.roles.contract import measured, role_provenance
from circuitlab.methods.roles.decoded import patterns_of
from circuitlab.methods.roles.needles import NeedleTest, hidden_pairs
from circuitlab.methods.roles.retrieval import OnNeedles, plain_tests
from circuitlab.model.sites import Site
from circuitlab.scores.role_scores import RoleScores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.decoder.block import Block
    from circuitlab.model.protocol import Model

__all__ = ["ChunkSelection", "QueryEvidence", "chosen_chunks", "chunk_keys"]


@dataclass(frozen=True)
class _OnNeedlePairs(OnNeedles):
    """What roles share that ask for each of two needles in one haystack: a span when it is asked for, beside when it is not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.tests) % 2 or len(self.tests) == 2:  # noqa: PLR2004 - one pair
            raise BadParameterError(f"{len(self.tests)} tests are no pairs, or one.", "Ask for each of two spans of two haystacks or more.")
        for number, (one, two) in enumerate(zip(self.tests[::2], self.tests[1::2], strict=True)):
            if (one.evidence, one.other) != (two.other, two.evidence):
                spans = f"{one.evidence} and {one.other}, {two.evidence} and {two.other}"
                what = f"Evidence and other span of tests {2 * number} and {2 * number + 1} do not change places: {spans}."
                raise BadParameterError(what, "The second of a pair asks for the other span of the first.")

    def prompts(self, model: Model) -> tuple[NeedleTest, ...]:
        """Tests of one's own, or circuitlab's needles in the model's tokens."""
        return self.tests or hidden_pairs(model, self.length, self.seed)

    @measured
    def __call__(self: Any, model: Model) -> RoleScores:
        """Measure every head; a sample is two questions about one haystack."""
        tests, counts = self.prompts(model), []
        for number, test in enumerate(tests):
            counts.append(self.count(model, test))
            step(number + 1, len(tests))
        heads = (model.spec.n_layers, model.spec.n_heads)
        values, control = np.moveaxis(np.array(counts).reshape(-1, 2, 2, *heads).mean(1), 1, 0)
        return RoleScores(values, role_provenance(self, model, "haystacks asked for two needles", plain_tests(tests)), control)


@dataclass(frozen=True)
class QueryEvidence(_OnNeedlePairs):
    """Attention from a question to the sentence that answers it (query-focused retrieval heads, Zhang et al. 2025).

    Nothing is generated: a head counts even where the model cannot say the answer.

    Parameters
    ----------
    tests : tuple of NeedleTest
        Prompts of one's own as token ids, in pairs: the second asks for what is the other span of the first, at the same place.
        Circuitlab's 18 needles otherwise, two in each haystack.
    length : int
        Tokens of the haystack, about.
    seed : int
        Of the haystacks.

    Notes
    -----
    The value is the paper's: attention to the evidence summed over its tokens, mean over the question's tokens; of the two prompts of a
    pair, the mean. The control is the attention to the same two sentences when they are not asked for, so that neither where they stand
    nor how odd they are among passages can make a difference. The paper keeps the top heads whatever they score; the threshold of 0.1 is
    about twice what even attention gives to a sentence in a haystack of 200 tokens.

    References
    ----------
    Zhang et al. (2025), Query-Focused Retrieval Heads Improve Long-Context Reasoning and Re-ranking, arXiv:2506.09944.

    Examples
    --------
    >>> from circuitlab.methods.roles.needles import NeedleTest
    >>> from circuitlab.model.toy import build_planted
    >>> rows = ((5, 6, 7, 1, 2, 3), (1, 4, 2, 6, 0, 7), (3, 5, 0, 6, 2, 1))
    >>> first = [NeedleTest((*row, row[0]), evidence=(1, 2), other=(4, 5), question=(6, 7)) for row in rows]
    >>> second = [NeedleTest((*row, row[3]), evidence=(4, 5), other=(1, 2), question=(6, 7)) for row in rows]
    >>> tests = tuple(test for pair in zip(first, second) for test in pair)
    >>> scores = QueryEvidence(tests=tests)(build_planted("induction-mha").model)
    >>> scores.value.argmax() == 4 + 2, bool(scores.earned()[1, 2])  # a1.h2 was planted
    (np.True_, True)
    """

    name: ClassVar[str] = "query_evidence"
    estimand: ClassVar[str] = "attention from a question's tokens to the sentence that answers it"
    units: ClassVar[str] = "share of attention"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.1
    null: ClassVar[str] = "the same attention to the same sentences when another one is asked for"
    cost: ClassVar[str] = "18 forward passes of 230 tokens"
    cite: ClassVar[tuple[str, ...]] = ("zhang2025query",)

    def count(self, model: Model, test: NeedleTest) -> tuple[np.ndarray, np.ndarray]:
        """Attention from the question to the evidence, and to the other span."""
        rows = patterns_of(model, test.tokens)[:, :, slice(*test.question)]
        evidence, other = (rows[..., slice(*span)].sum(-1).mean(-1) for span in (test.evidence, test.other))
        return evidence, other


@dataclass(frozen=True)
class ChunkSelection(_OnNeedlePairs):
    """How often a head picks the chunk of a text that holds what a question asks for (LongHeads, Lu et al. 2024).

    The text is cut into chunks, and each gets one key. A query picks the chunks whose keys it scores highest; the first chunk and the one
    that it stands in are always given to it, and are not among those it picks from.

    Parameters
    ----------
    tests, length, seed
        As for `QueryEvidence`.
    chunk : int
        Tokens of a chunk.
    chosen : int
        Chunks that a query picks.

    Notes
    -----
    The key of a chunk is the paper's: the chunk attends to itself, in both directions, with positions counted from its beginning; the mean
    of what its tokens read there asks once more, and the key is the mean of the chunk's keys by that attention. Queries meet it without
    rotary position. The value is the share of the question's tokens that pick a chunk with a token of the evidence; of the two prompts of a
    pair, the mean. The control is the same for the same two sentences when they are not asked for. The paper picks 16 chunks of 256 tokens
    in texts of thousands, and gives heads no number; here 2 of about a dozen chunks of 16 tokens are picked. A sentence lies in two
    chunks, of which even picking hits one a third of the time; the threshold, 0.6, was fixed before any model was measured. Layers with
    a window are measured like others: by their keys, not by what they see.

    References
    ----------
    Lu et al. (2024), LongHeads: Multi-Head Attention is Secretly a Long Context Processor, arXiv:2402.10685.

    Examples
    --------
    >>> ChunkSelection(chunk=8).chosen
    2
    """

    name: ClassVar[str] = "chunk_selection"
    estimand: ClassVar[str] = "share of a question's tokens that pick a chunk with what answers it, by the keys of chunks"
    units: ClassVar[str] = "share of queries"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.6
    null: ClassVar[str] = "the same chunks, picked when another sentence is asked for"
    needs: ClassVar[tuple[str, ...]] = ("decoder", "tokenizer", "unedited")
    sites: ClassVar[tuple[Site, ...]] = (Site.RESID_PRE,)
    cost: ClassVar[str] = "18 forward passes of 230 tokens"
    cite: ClassVar[tuple[str, ...]] = ("lu2024longheads",)

    chunk: int = 16
    chosen: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk < 1 or self.chosen < 1:
            what = f"chunk={self.chunk}, chosen={self.chosen} leave nothing to pick."
            raise BadParameterError(what, "Use chunks of 16 tokens, and pick 2.")

    def count(self, model: Model, test: NeedleTest) -> tuple[np.ndarray, np.ndarray]:
        """Shares of the question's tokens that pick the evidence, and the other span.

        Raises
        ------
        BadParameterError
            If there are no more chunks than are picked.
        ModelError
            If keys have another width than values, so that what a chunk reads cannot ask.
        """
        import torch  # noqa: PLC0415 - listing roles must not load torch

        if test.question[0] // self.chunk - 1 <= self.chosen:
            what = f"{self.chosen} of the {max(0, test.question[0] // self.chunk - 1)} chunks before the question would be picked."
            raise BadParameterError(what, "Use smaller chunks (chunk=), fewer picks (chosen=) or longer haystacks (length=).")
        streams = model.capture(torch.tensor([test.tokens]), [Site.RESID_PRE])[Site.RESID_PRE][0]
        shares = []
        for layer, block in enumerate(model.decoder.blocks):
            if block.d_key != block.d_head:
                what = f"Keys of {model.spec.name} have {block.d_key} dimensions and values {block.d_head}: chunks have no keys."
                raise ModelError(what, "Use the role query_evidence.")
            picked = chosen_chunks(model, layer, streams[layer], test.question, (self.chunk, self.chosen))
            spans = [slice(start // self.chunk, (stop - 1) // self.chunk + 1) for start, stop in (test.evidence, test.other)]
            shares.append([picked[..., span].any(-1).mean(-1) for span in spans])
        evidence, other = np.moveaxis(np.array(shares), 1, 0)
        return evidence, other


def chunk_keys(block: Block, chunks: Float[Tensor, "chunk pos d_model"], angles: tuple[Tensor, Tensor] | None) -> Tensor:
    """The key of each chunk for each query head, (chunk, head, d_head), from the streams that enter a layer."""
    normed = block.norm_attn.apply(chunks)
    q, k, v = (block.split(part(normed)) for part in (block.q, block.k, block.v))
    q, k = block.rotated_q(q, angles), block.rotated_k(k, angles)
    asking = block.mix(block.scores(q, k).softmax(-1), v).mean(-3, keepdim=True)
    return block.mix(block.scores(asking, k).softmax(-1), k)[:, 0]


def chosen_chunks(
    model: Model, layer: int, stream: Float[Tensor, "pos d_model"], question: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Which chunks each token of the question picks in each head of a layer, (head, query, chunk); ``size`` is chunk and number picked."""
    chunk, chosen = size
    block, count = model.decoder.blocks[layer], len(stream) // chunk
    angles = model.decoder.geometry(chunk)[layer].angles_of(0, chunk)
    keys = chunk_keys(block, stream[: count * chunk].unflatten(0, (count, chunk)), angles)
    queries = block.rotated_q(block.split(block.q(block.norm_attn.apply(stream[slice(*question)]))), None)
    scores = (queries[:, None] * keys).sum(-1).permute(2, 0, 1).double().cpu().numpy()  # head, query, chunk
    own = np.arange(*question)[:, None] // chunk
    numbers = np.arange(count)[None, :]
    scores = np.where((numbers > 0) & (numbers < own), scores, -np.inf)
    least = np.sort(scores, axis=-1)[..., -chosen, None]
    return np.asarray((scores >= least) & np.isfinite(scores))
