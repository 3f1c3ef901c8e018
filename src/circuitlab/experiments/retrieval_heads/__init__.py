"""Retrieval heads: a few heads copy what is asked for out of the context, and answers are lost without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["RetrievalHeads"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

_LEAST_SHARE, _LEAST_ANSWERED = 1 / 3, 3
_MASKED = 0.05
"""Share of heads at which the paper compares: 50 of about 1000."""
_KEPT = 0.8
_LEVEL = 0.05
_ZERO, _MOST = 0.45, 0.1


class RetrievalHeads(Experiment, frozen=True, forbid_unknown_fields=True):
    """Find the heads that copy a needle out of a haystack, and mask them (Wu et al. 2024).

    A made-up sentence, the needle, is hidden among passages, and the prompt asks for it. Whenever a head's largest weight lies on the
    needle's token that the model says next, it counts as copied; the **retrieval score** of a head is the share of the needle's tokens
    that it copies, mean over the needles that are answered. Half of the needles choose heads. On the other half, the model is given the
    needle's sentence as its answer, and the share of the answer's tokens is counted that are the most probable of the whole vocabulary:
    unedited, with the top heads masked (their outputs set to 0), and with as many random heads masked that are no retrieval heads: of the
    same layers, and of the nearest ones where a layer has too few others.

    Parameters
    ----------
    length : int
        Tokens of a haystack, about.
    depths : tuple of float
        Where needles are hidden, in turn; 0 is the beginning of the haystack.
    sizes : tuple of int
        Numbers of heads that are masked.
    random_sets : int
        Random sets for each number.
    passages : int
        Passages of 64 tokens on which the loss is measured, as a control.

    Notes
    -----
    Intervals are over needles, of which each is asked once, or over passages: Student's, and `rate_interval` for shares of tokens;
    differences are paired. Claims about masking are judged at the number of heads nearest to 5 % of the model's, where the paper compares.

    References
    ----------
    Wu et al. (2024), Retrieval Head Mechanistically Explains Long-Context Factuality, arXiv:2404.15574. Tang et al. (2024),
    RazorAttention, arXiv:2407.15891, for induction heads as retrieval heads.
    """

    name: ClassVar[str] = "retrieval_heads"
    title: ClassVar[str] = "Retrieval heads"
    question: ClassVar[str] = "Does a model need a few heads to answer from its context, and which are they?"
    cite: ClassVar[tuple[str, ...]] = ("wu2024retrieval", "tang2024")
    cost: ClassVar[str] = "4 minutes"
    version: ClassVar[int] = 3
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Retrieval heads are few: most heads copy nothing.",
            published="Seven models: 2 to 6 % of heads above 0.1, under 5 % above 0.5, 45 to 73 % at exactly 0.",
            rule="Between 0 and 10 % of heads score above 0.1, and 45 % or more exactly 0; in part if only the first holds.",
        ),
        Claim(
            claim="Without the top retrieval heads, answers from the context are lost.",
            published="Llama-2-7B-80K: needle score from 94.7 to 63.6; three models below 50 with 5 % of heads masked.",
            rule="With about 5 % of heads masked, the answer's tokens come first less often than in the unedited model and than with "
            "random heads masked, both by more than 0 (95 %, paired); in part if only the first holds.",
        ),
        Claim(
            claim="Without as many random heads, they are not.",
            published="The same models: above 80 with 5 % of heads masked at random.",
            rule="With about 5 % of heads masked at random, the mean share is 80 % or more of the unedited model's.",
        ),
        Claim(
            claim="Other abilities do not depend on them more than on random heads.",
            published="Mistral-7B, answers without reasoning: MMLU 57.2; 54.0 without 100 retrieval heads and 54.2 without random ones.",
            rule="With about 5 % of heads masked, the loss on passages rises by no more than with random heads masked: the paired "
            "difference is not above 0 (95 %).",
        ),
        Claim(
            claim="Retrieval heads are found by their induction on random tokens.",
            published="RazorAttention keeps the top 15 % of heads by induction: 45.5 of 46.9 points, and 40.7 with random heads.",
            rule="More of the heads above 0.1 are among the top 15 % by induction than chance gives (hypergeometric, p < 0.05).",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "Haystacks have some hundred tokens here, and 1,000 to 50,000 in the paper; there is no grid of lengths.",
        "The paper counts words of generated answers. Here the needle's sentence is given as the answer, and what is counted is whether "
        "its answering words come first: one pass for an answer, and a failure early in an answer does not spoil the rest.",
        "Nine needles choose and nine measure; with few needles, more heads copy exactly nothing than with the paper's 600 tests.",
        "The paper shows that reasoning in steps needs these heads; a small model has no such ability to lose, so other text stands "
        "here for other abilities.",
    )

    length: Annotated[int, msgspec.Meta(ge=64)] = 128
    depths: tuple[Share, ...] = (0.1, 0.5, 0.9)
    sizes: tuple[Count, ...] = (2, 5, 10, 20)
    random_sets: Count = 2
    passages: Annotated[int, msgspec.Meta(ge=2)] = 16

    def gate(self, context: ExperimentContext) -> Gate:
        """A third of the needles that choose heads must be answered, and three at least: heads are counted only while one is."""
        from circuitlab.experiments.retrieval_heads.needles import answer_needles, split_needles  # noqa: PLC0415 - torch

        halves = split_needles(context.model, self.length, self.depths, context.rng("needles"))
        counted = context.stored("answers", lambda: answer_needles(context.model, halves.choosing))
        asked, answered = counted["asked"], counted["answered"]
        said = f"It answers {answered} of the {asked} needles that choose heads, each hidden among about {self.length} tokens."
        met = answered >= max(_LEAST_ANSWERED, _LEAST_SHARE * asked)
        return Gate(met=met, reason=said, measured={"asked": asked, "answered": answered})

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Score heads on one half of the needles, and mask them on the other."""
        from circuitlab.execute.continuations import Continuation  # noqa: PLC0415 - torch
        from circuitlab.execute.text_rows import text_rows  # noqa: PLC0415
        from circuitlab.experiments.retrieval_heads.masking import (  # noqa: PLC0415
            bands,
            beside_induction,
            mask_heads,
            mask_on_text,
            sets_of_heads,
        )
        from circuitlab.experiments.retrieval_heads.needles import answer_needles, split_needles  # noqa: PLC0415
        from circuitlab.methods.roles.repeats import Induction  # noqa: PLC0415

        model = context.model
        halves = split_needles(model, self.length, self.depths, context.rng("needles"))
        answers = context.stored("answers", lambda: answer_needles(model, halves.choosing))
        with context.share(0.0, 0.1):
            induction = context.stored("induction", lambda: {"map": Induction(rows=8)(model).value.round(5).tolist()})
        sets = sets_of_heads(context, answers["scores"], self.sizes, self.random_sets)
        with context.share(0.1, 0.8):
            masked = context.stored("masking", lambda: mask_heads(model, halves.said, sets), about=sets)
        at = min(sets, key=lambda one: abs(one["size"] - _MASKED * model.spec.n_layers * model.spec.n_heads)) if sets else None
        rows = [Continuation.passage(row) for row in text_rows(model, None, 64) if len(row) == 64][: self.passages]  # noqa: PLR2004
        with context.share(0.8, 1.0):
            on_text = context.stored("text", lambda: mask_on_text(model, rows, at), about=at) if at else {}
        about = beside_induction(answers["scores"], _array(induction["map"]))
        needles = dict(zip(("chosen_on", "measured_on"), map(list, halves.names), strict=True))
        return {
            "needles": needles,
            "answers": answers,
            "bands": bands(answers["scores"]),
            "induction": {**about, **induction},
            "sets": sets,
            "masking": masked,
            "text": on_text,
        }

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By shares of heads, by paired differences on the held-out needles, and by the overlap with induction heads."""
        few = _few(self.published[0], results["bands"])
        about = _induction(self.published[4], results["induction"])
        if not results["text"]:
            return few, *self.published[1:4], about  # no set of heads was large enough to be masked
        size = results["text"]["size"]
        row = next(row for row in results["masking"]["sizes"] if row["size"] == size)["top"]
        lost, beyond, before = row["lost"], row["beyond"], results["masking"]["unedited"]["top"]["mean"]
        here = (
            f"without the top {size} heads {interval_words(row['masked'])} of the answers' tokens come first, {before:.2f} unedited and "
            f"{interval_words(row['random'])} without random heads; random minus top {interval_words(beyond)}"
        )
        masking = judged(self.published[1], here, holds=lost["low"] > 0 and beyond["low"] > 0, partly=lost["low"] > 0)
        share = row["random"]["mean"] / before if before else 0.0
        here = f"{row['random']['mean']:.2f} of {before:.2f} without {size} random heads: {share:.0%}"
        random = judged(self.published[2], here, holds=share >= _KEPT)
        text = results["text"]
        here = (
            f"loss {text['loss']['mean']:.2f} nats; it rises by {interval_words(text['masked'])} without the top {size} heads and by "
            f"{interval_words(text['random'])} without random ones; difference {interval_words(text['beyond'])}"
        )
        return few, masking, random, judged(self.published[3], here, holds=text["beyond"]["low"] <= 0), about

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """The map of retrieval scores, answers over the number of masked heads, and log-probabilities."""
        from circuitlab.figures import Series, Wording, line_series, value_map  # noqa: PLC0415 - plotly

        answers, sets = results["answers"], results["sets"]
        words = Wording("Which heads copy the needle?", subtitle, units="share of the needle that is copied")
        outlined = sets[-1]["top"] if sets else []
        shown = value_map(answers["scores"], words, outlined=outlined)
        caption = f"On {answers['answered']} answered needles; the {len(outlined)} heads that are masked together are outlined."
        drawings = [Picture("heads", shown, caption)]
        names = {"top": ("answers", "answer tokens that come first (share)"), "logprob": ("logprob", "log-probability per token (nats)")}
        for which, (name, axis) in names.items() if sets else ():
            rows, whole = results["masking"]["sizes"], results["masking"]["unedited"][which]
            sizes = [0, *(row["size"] for row in rows)]
            lines = {
                "top retrieval heads": Series.of(sizes, [whole, *(row[which]["masked"] for row in rows)]),
                "random heads": Series.of(sizes, [whole, *(row[which]["random"] for row in rows)], control=True),
            }
            words = Wording("What do answers lose without retrieval heads?", subtitle, x="heads masked", y=axis)
            caption = f"On {len(results['needles']['measured_on'])} needles that chose nothing. Bands: 95 % over needles.{_elsewhere(sets)}"
            drawings.append(Picture(name, line_series(lines, words), caption))
        return drawings


def _elsewhere(sets: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the numbers of heads at which random ones do not come from the layers of the top ones; empty if there is none."""
    layers = {one["size"]: [sorted(head.split(".")[0] for head in heads) for heads in (one["top"], *one["random"])] for one in sets}
    other = [str(size) for size, (top, *drawn) in layers.items() if any(one != top for one in drawn)]
    if not other:
        return " Random heads come from the layers of the top ones."
    lacking = f"but not with {' and '.join(other)} heads: too few others are left there, and the nearest layers give the rest."
    return f" Random heads come from the layers of the top ones, {lacking}"


def _array(values: Sequence[Sequence[float]]) -> Any:
    import numpy as np  # noqa: PLC0415

    return np.array(values)


def _few(claim: Claim, shares: Mapping[str, float]) -> Claim:
    here = f"{shares['above 0.1']:.1%} of heads above 0.1, {shares['above 0.5']:.1%} above 0.5, {shares['0']:.1%} at exactly 0"
    few = 0 < shares["above 0.1"] <= _MOST
    return judged(claim, here, holds=few and shares["0"] >= _ZERO, partly=few)


def _induction(claim: Claim, about: Mapping[str, Any]) -> Claim:
    here = (
        f"{about['shared']} of {about['retrieval_heads']} heads above 0.1 are among the top {about['induction_heads']} by induction, "
        f"{about['expected']:.1f} expected (p = {about['p']:.2g}); rank correlation over all heads {about['spearman']:.2f}"
    )
    return judged(claim, here, holds=about["retrieval_heads"] > 0 and about["p"] < _LEVEL)
