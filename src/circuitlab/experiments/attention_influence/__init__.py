"""AttentionInfluence: what a text loses when the retrieval heads attend evenly, and which texts lose most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["AttentionInfluenceOnTexts"]

Count = Annotated[int, msgspec.Meta(ge=4)]
Several = Annotated[int, msgspec.Meta(ge=2)]
Share = Annotated[float, msgspec.Meta(gt=0, le=0.5)]

_LEAST_SAID = 0.5
STRUCTURED = (
    "table", "list", "python", "javascript", "c", "sql", "json", "html", "math word problem", "quiz", "faq", "numbers", "logic puzzle",
    "proof", "csv", "tsv", "timetable", "repetition",
)  # fmt: skip
"""Kinds of passages whose next tokens are often copied or worked out from what stands before: lists, tables, code, questions."""
PROSE = (
    "narrative", "history", "science", "news", "travel", "essay", "biography", "review", "letter", "diary", "speech", "geography",
    "gardening", "philosophy", "weather", "sports", "encyclopedia",
)  # fmt: skip
"""Kinds that the first are compared with."""


class AttentionInfluenceOnTexts(Experiment, frozen=True, forbid_unknown_fields=True):
    """Make the attention of the retrieval heads even, all at once, and see which texts lose by it (Hua et al. 2025).

    Heads are chosen on key-value prompts: a JSON object of random keys with sentences as values, two questions with their answers, and a
    third question. A head's score is the share of the answer's tokens at which its largest weight lies on the same token. The best 5 % are
    then masked together: each of their rows becomes even over the tokens it can see. The influence of a text is ``(L_ref - L_base) /
    L_base``, with ``L`` its mean next-token loss with and without the mask. The controls are as many random heads of the same layers.

    Parameters
    ----------
    prompts : int
        Key-value prompts to choose heads on, and as many others to measure on.
    passages : int
        Passages of natural text of each of the two groups of kinds.
    share : float
        Share of all heads that are masked.
    random_sets : int
        Sets of random heads.

    Notes
    -----
    Passages are the first of circuitlab's own, kind by kind in turn, and 64 tokens are read of each. Intervals are Student's over passages,
    paired where heads are compared, and Welch's where two groups of passages are. The paper selects from a corpus within each domain; the
    order of passages within a kind is not judged here, because there are few of each.

    References
    ----------
    Hua et al. (2025), AttentionInfluence, arXiv:2505.07293.
    """

    name: ClassVar[str] = "attention_influence"
    title: ClassVar[str] = "AttentionInfluence"
    question: ClassVar[str] = "Do texts that need copying and reasoning lose most when the retrieval heads attend evenly?"
    cite: ClassVar[tuple[str, ...]] = ("hua2025",)
    cost: ClassVar[str] = "4 minutes"
    version: ClassVar[int] = 2
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Masking the retrieval heads breaks tasks that read from the prompt; masking random heads hardly does.",
            published="A model of 1.3B: DROP .23 to .11, random heads .22; Banking77 in context .41 to .00, random heads .38.",
            rule="On key-value prompts that chose nothing, the answer's loss rises by more than with random heads of the same layers (95 "
            "%, paired over prompts) and by more than with every random set; in part if only the first holds.",
        ),
        Claim(
            claim="Natural text loses more when the retrieval heads attend evenly than when random heads do.",
            published="Retrieval heads are the important heads of the selector; random heads are its control.",
            rule="The influence of passages is larger than with random heads of the same layers (95 %, paired over passages) and larger "
            "than with every random set; in part if only the first holds.",
        ),
        Claim(
            claim="Texts that need reasoning have a higher score than others.",
            published="Selected texts are rich in reasoning; a 7B model trained on them gains on MMLU-Pro (+2.7), GSM8K (+2.7), HumanEval "
            "(+3.5).",
            rule="Lists, tables, code, proofs and questions have a larger influence than prose (Welch, 95 %), and the difference is larger "
            "than with every random set; in part if only the first holds.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "Prompts have 5 keys of 6 characters and 2 examples; the paper's have up to 4096 tokens, keys of 32 characters and 3 examples.",
        "Answers are given and not generated, so a head is asked at every token of the answer.",
        "Whether a model learns more from the texts of high influence is the paper's question, and is not asked here: nothing is trained.",
        "A passage has 64 tokens and there are few of each kind, so that texts are compared between two groups of kinds and not ranked "
        "within a domain.",
    )

    prompts: Count = 8
    passages: Count = 16
    share: Share = 0.05
    random_sets: Several = 3

    def gate(self, context: ExperimentContext) -> Gate:
        """The model says more than half of the tokens of the values that it is asked for."""
        from circuitlab.experiments.attention_influence.probe import key_values, said  # noqa: PLC0415 - torch

        if context.model.tokenizer is None:
            return Gate(met=False, reason=f"{context.model.spec.name} has no tokenizer, and prompts are text.")
        shares = said(context.model, key_values(context.model, self.prompts, context.rng("choosing")))
        if not len(shares):
            return Gate(met=False, reason="Its tokens of a prompt and its answer are not those of the prompt alone.")
        mean = float(shares.mean())
        said_words = f"It says {mean:.0%} of the tokens of the value that it is asked for first, given those before."
        return Gate(met=mean > _LEAST_SAID, reason=said_words, measured={"said": mean, "prompts": len(shares)})

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Choose heads on one half of the prompts; mask them on the other, and on passages."""
        from circuitlab.experiments.attention_influence.probe import choose_heads, key_values  # noqa: PLC0415 - torch
        from circuitlab.experiments.attention_influence.texts import on_prompts, on_texts, passages_of  # noqa: PLC0415

        model = context.model
        tuning, held = (key_values(model, self.prompts, context.rng(purpose)) for purpose in ("choosing", "measuring"))
        with context.share(0.0, 0.1):
            chosen = context.stored("heads", lambda: choose_heads(model, tuning, self.share))
        with context.share(0.1, 0.4):
            prompts = context.stored("prompts", lambda: on_prompts(context, held, chosen, self.random_sets))
        groups = {name: passages_of(model, kinds, self.passages) for name, kinds in (("structured", STRUCTURED), ("prose", PROSE))}
        with context.share(0.4, 1.0):
            texts_lost = context.stored("texts", lambda: on_texts(context, groups, chosen, self.random_sets))
        return {"heads": chosen, "prompts": prompts, "texts": texts_lost}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By paired differences from random heads, and by the difference of two groups of passages."""
        prompts, texts = results["prompts"], results["texts"]
        return (
            _paired(self.published[0], prompts["rise"], "nats per token of the answer"),
            _paired(self.published[1], texts["influence"], "of the loss"),
            _groups(self.published[2], texts),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """The map of recall, influence by group, and influence by kind."""
        from circuitlab.figures import Wording, category_bars, value_map  # noqa: PLC0415 - plotly

        heads, texts = results["heads"], results["texts"]
        words = Wording("Which heads look at the token that is said next?", subtitle, units="share of the answer's tokens")
        shown = value_map(heads["map"], words, outlined=heads["heads"])
        drawn = [Picture("heads", shown, f"Recall on key-value prompts; the {len(heads['heads'])} heads that are masked are outlined.")]
        groups = {
            "retrieval heads": {name: texts["groups"][name]["chosen"] for name in texts["groups"]},
            "random heads of the same layers": {name: texts["groups"][name]["random_mean"] for name in texts["groups"]},
        }
        words = Wording("What do passages lose when heads attend evenly?", subtitle, y="influence, share of the loss")
        bars = category_bars(groups, words, controls=["random heads of the same layers"])
        drawn.append(Picture("groups", bars, "Influence of passages by group of kinds. Bars: 95 % over passages."))
        by_kind = {"retrieval heads": {}, "random heads of the same layers": {}}  # type: dict[str, dict[str, Mapping[str, float | None]]]
        for kind, about in sorted(texts["kinds"].items(), key=lambda each: -each[1]["chosen"]):
            label = f"{kind} ({about['n']})"
            by_kind["retrieval heads"][label] = {"mean": about["chosen"], "low": None, "high": None}
            by_kind["random heads of the same layers"][label] = {"mean": about["random"], "low": None, "high": None}
        words = Wording("Which kinds of passages lose most?", subtitle, y="influence, share of the loss")
        ranked = category_bars(by_kind, words, controls=["random heads of the same layers"])
        drawn.append(Picture("kinds", ranked, "Mean influence by kind, with the number of passages; few of each, so without intervals."))
        return drawn


def _paired(claim: Claim, about: Mapping[str, Any], units: str) -> Claim:
    above = about["difference"]["low"] is not None and about["difference"]["low"] > 0
    beyond = about["chosen"]["mean"] > max(about["random"])
    here = (
        f"{interval_words(about['chosen'], 3)} {units} with the retrieval heads masked; {len(about['random'])} random sets "
        f"{min(about['random']):.3f} to {max(about['random']):.3f}; paired difference {interval_words(about['difference'], 3)}"
    )
    return judged(claim, here, holds=above and beyond, partly=above)


def _groups(claim: Claim, texts: Mapping[str, Any]) -> Claim:
    difference, controls = texts["difference"], texts["random_differences"]
    above = difference["low"] is not None and difference["low"] > 0
    sides = ", ".join(f"{name} {interval_words(about['chosen'], 3)} (n {about['n']})" for name, about in texts["groups"].items())
    here = (
        f"{sides}; difference {interval_words(difference, 3)}; the same difference with random sets {min(controls):+.3f} to "
        f"{max(controls):+.3f}"
    )
    return judged(claim, here, holds=above and difference["mean"] > max(controls), partly=above)
