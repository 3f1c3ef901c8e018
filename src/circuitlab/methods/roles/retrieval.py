"""Roles of heads that fetch what was asked for, while the model answers: retrieval, and semantic retrieval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.progress import step
from circuitlab.methods.roles.contract import RoleKind, measured, role_provenance
from circuitlab.methods.roles.decoded import Decoded, answers, copied, decode, first_line, looked_at
from circuitlab.methods.roles.needles import NeedleTest, hidden_singly
from circuitlab.model.sites import Site
from circuitlab.scores.role_scores import RoleScores

if TYPE_CHECKING:
    from circuitlab.model.generate import Generation
    from circuitlab.model.protocol import Model

__all__ = ["OnNeedles", "Retrieval", "SemanticRetrieval", "plain_tests"]

_FEWEST = 2
"""Tests that an interval takes."""


@dataclass(frozen=True)
class OnNeedles:
    """What roles on needles share: their prompts, identified by the tokens that are run and not among the parameters."""

    kind: ClassVar[RoleKind] = "behaviour"
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    sites: ClassVar[tuple[Site, ...]] = (Site.PATTERN,)
    by_default: ClassVar[bool] = False

    tests: tuple[NeedleTest, ...] = field(default=(), repr=False, metadata={"identity": False})
    length: int = 192
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tests", tuple(self.tests))
        if len(self.tests) == 1:
            raise BadParameterError("One test has no interval.", "Give two tests or more, or none for circuitlab's own needles.")
        if self.tests:  # token ids need no tokenizer
            object.__setattr__(self, "needs", tuple(need for need in self.needs if need != "tokenizer"))

    def inputs(self: Any, model: Model) -> dict[str, Any]:
        """The token ids that are run, and where the needles stand."""
        return plain_tests(self.prompts(model))


@dataclass(frozen=True)
class _WhileAnswering(OnNeedles):
    needs: ClassVar[tuple[str, ...]] = ("tokenizer", "unedited")
    cost: ClassVar[str] = "18 answers of up to 24 tokens after 250, and a pass over each"

    depths: tuple[float, ...] = (0.1, 0.5, 0.9)
    max_new_tokens: int = 24
    recall: float = 0.5
    chat: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.depths or not all(0 <= depth <= 1 for depth in self.depths) or self.max_new_tokens < 1 or not 0 <= self.recall < 1:
            what = f"depths={self.depths}, max_new_tokens={self.max_new_tokens}, recall={self.recall} cannot be used."
            raise BadParameterError(what, "Use depths from 0 to 1, one new token or more, and a recall from 0 to below 1.")

    def prompts(self, model: Model) -> tuple[NeedleTest, ...]:
        """Tests of one's own, or circuitlab's needles in the model's tokens."""
        return self.tests or hidden_singly(model, self.length, self.depths, self.seed, chat=self.chat)

    @measured
    def __call__(self: Any, model: Model) -> RoleScores:
        """Measure every head; raises `ModelError` where fewer than two needles are answered."""
        tests = self.prompts(model)
        counts = [self.count(decoded, test) for test, decoded in self._answered(model, tests)]
        if len(counts) < _FEWEST:
            what = f"{model.spec.name} answers {len(counts)} of {len(tests)} needles, and heads are counted only while one is answered."
            raise ModelError(what, "Measure this role on a model that can answer, or with shorter haystacks (length=).")
        values, control = (np.stack(side) for side in zip(*counts, strict=True))
        about = role_provenance(self, model, f"needles answered of {len(tests)}", plain_tests(tests))
        return RoleScores(values, about, control)

    def _answered(self, model: Model, tests: tuple[NeedleTest, ...]) -> Iterator[tuple[NeedleTest, Decoded]]:
        """Tests that the model answers, with the attention it does so with."""
        for number, test in enumerate(tests):
            generation = first_line(model, cast("Generation", model.generate(list(test.tokens), self.max_new_tokens)))
            if answers(test, generation, self.recall):
                yield test, decode(model, test, generation)
            step(number + 1, len(tests))


def plain_tests(tests: tuple[NeedleTest, ...]) -> dict[str, Any]:
    """Needle tests as plain data, of which a run is identified."""
    return {"tests": [test.plain() for test in tests]}


@dataclass(frozen=True)
class Retrieval(_WhileAnswering):
    """Share of a needle that a head copies into the answer (Wu et al. 2024).

    The model answers a question about a sentence hidden among passages. Whenever a head's largest weight lies on a token of the needle
    and that token is said next, it counts as copied; answers with too little of the needle are not counted.

    Parameters
    ----------
    tests : tuple of NeedleTest
        Prompts of one's own as token ids; circuitlab's 18 needles among its passages otherwise.
    length : int
        Tokens of the haystack, about.
    seed : int
        Of the haystacks, and of the spans that needles are compared with.
    depths : tuple of float
        Where needles are hidden, in turn: 0 is the beginning of the haystack.
    max_new_tokens : int
        Most tokens of an answer; it ends with its line.
    recall : float
        A needle is answered if more than this share of its words is said.
    chat : bool
        Whether haystack and question are a user's turn in the tokenizer's chat template. Without a template, text is plain either way.

    Notes
    -----
    The count is that of the authors' code: the needle is the words of the answer, tokens copied twice count twice, and the answer ends
    with a line break. There, words are stemmed and every needle is asked at 10 depths and 20 lengths, from 1000 tokens on; here every
    needle is asked once, so that samples are independent, in haystacks that a small model can read. The threshold of 0.1 is the paper's.
    A model that was trained on a chat template may answer plain text with nothing, so the template is used where there is one. A needle
    close to the question can be copied by a layer with a window; far ones cannot.

    References
    ----------
    Wu et al. (2024), Retrieval Head Mechanistically Explains Long-Context Factuality, arXiv:2404.15574.

    Examples
    --------
    >>> from circuitlab.methods.roles.needles import NeedleTest
    >>> from circuitlab.model.toy import build_planted
    >>> prompts = ((5, 6, 7, 1, 2, 3, 5), (1, 4, 2, 6, 0, 7, 1), (3, 5, 0, 6, 2, 1, 3))
    >>> tests = tuple(NeedleTest(tokens, evidence=(1, 3), other=(3, 5), question=(6, 7)) for tokens in prompts)
    >>> scores = Retrieval(tests=tests, max_new_tokens=2)(build_planted("induction-mha").model)
    >>> scores.value.argmax() == 4 + 2, bool(scores.earned()[1, 2])  # a1.h2 was planted
    (np.True_, True)
    """

    name: ClassVar[str] = "retrieval"
    estimand: ClassVar[str] = (
        "share of a needle's tokens that the head's largest weight lies on when they are said, on needles answered; "
        "asked in the tokenizer's chat template where it has one"
    )
    units: ClassVar[str] = "share of the needle"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.1
    null: ClassVar[str] = "the same count, as if the needle stood elsewhere in the haystack"
    cite: ClassVar[tuple[str, ...]] = ("wu2024retrieval",)

    def count(self, decoded: Decoded, test: NeedleTest) -> tuple[np.ndarray, np.ndarray]:
        """Shares of the needle that are copied, from where it stands and as if it stood in the other span."""
        return copied(decoded, test.evidence, test.evidence), copied(decoded, test.evidence, test.other)


@dataclass(frozen=True)
class SemanticRetrieval(_WhileAnswering):
    """Attention to the whole needle while its tokens are said (CompressKV's semantic retrieval heads).

    As `Retrieval`, but the head need not look at the very token that is said: its attention to all of the needle counts.

    Parameters
    ----------
    tests, length, seed, depths, max_new_tokens, recall, chat
        As for `Retrieval`.

    Notes
    -----
    At each step whose token occurs in the needle, the attention to the needle is added, divided by the needle's tokens: a head that
    looks at nothing but the needle while it is said word by word has 1. The paper takes the top four heads of each layer, whatever they
    score; the threshold here, 0.3, is that of the roles on repeated tokens, about ten times what even attention gives.

    References
    ----------
    Lin et al. (2025), CompressKV, arXiv:2508.02401.

    Examples
    --------
    >>> from circuitlab.methods.roles.needles import NeedleTest
    >>> from circuitlab.model.toy import build_planted
    >>> prompts = ((5, 6, 7, 1, 2, 3, 5), (1, 4, 2, 6, 0, 7, 1), (3, 5, 0, 6, 2, 1, 3))
    >>> tests = tuple(NeedleTest(tokens, evidence=(1, 3), other=(3, 5), question=(6, 7)) for tokens in prompts)
    >>> scores = SemanticRetrieval(tests=tests, max_new_tokens=2)(build_planted("induction-mha").model)
    >>> scores.value.argmax() == 4 + 2  # a1.h2 was planted
    np.True_
    """

    name: ClassVar[str] = "semantic_retrieval"
    estimand: ClassVar[str] = (
        "attention to a needle at steps that say one of its tokens, summed, for each of its tokens; "
        "asked in the tokenizer's chat template where it has one"
    )
    units: ClassVar[str] = "share of attention"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.3
    null: ClassVar[str] = "attention at the same steps to as many tokens elsewhere in the haystack"
    cite: ClassVar[tuple[str, ...]] = ("lin2025compress",)

    def count(self, decoded: Decoded, test: NeedleTest) -> tuple[np.ndarray, np.ndarray]:
        """Attention to the needle, and to the other span."""
        return looked_at(decoded, test.evidence, test.evidence), looked_at(decoded, test.evidence, test.other)
