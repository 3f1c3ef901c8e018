"""Multiple choice: which heads move the right option's label to the answer, and how few dimensions they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.multiple_choice.forms import AS_CHOSEN, FORMS, LABELS
from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["MultipleChoice"]

Questions = Annotated[int, msgspec.Meta(ge=12, multiple_of=12)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Several = Annotated[int, msgspec.Meta(ge=2)]

_RANK = 3
_HALF = 0.5


class MultipleChoice(Experiment, frozen=True, forbid_unknown_fields=True):
    """Find the heads that raise the label of the right option, and the low-rank subspaces that they use (Lieberum et al. 2023).

    A question states its answer (``The box holds a coin. What does the box hold?``), four options follow, and the model names the label of
    the right one after two answered questions. In the form ``label_first`` the labels stand before the options, as in the paper
    (``(B) coin``, ``Answer: (``); in ``label_last`` behind them (``- coin (B)``, ``Answer: coin (``), where a label can be copied from
    behind the same word. The first form in which the model is above chance is used. In the paired prompt the right option stands in another
    place. Half of the questions choose heads and subspaces, and the other half measures them.

    *Direct effect*: a head's contribution to the logits at the last token, the final norm's scale held. *Total effect*: what is lost when
    the head's output at every position comes from the paired prompt and everything later is recomputed. *Correct-letter heads*: the largest
    mean diagonal of the matrix (label of the right option) x (label that the head raises), centred over both.

    Parameters
    ----------
    questions : int
        Questions in each half, a multiple of 12: every pair of right places is then equally frequent.
    heads : int
        Number of correct-letter heads.
    random_sets : int
        Random sets of as many heads of the same layers.
    ranks : tuple of int
        Dimensions that queries and keys are projected onto; 3 is the published one and is always measured.

    Notes
    -----
    Intervals are Student's, over questions, whose words and sentences are drawn at random; that of a ratio is a percentile bootstrap. The
    loss is the cross-entropy of the right label among the four. Queries are projected at the last token and keys at the labels (or at the
    contents, whichever the heads attend to more on the first half), around their means, before the rotation of positions.

    References
    ----------
    Lieberum et al. (2023), Does Circuit Analysis Interpretability Scale? Evidence from Multiple Choice Capabilities in Chinchilla,
    arXiv:2307.09458.
    """

    name: ClassVar[str] = "multiple_choice"
    title: ClassVar[str] = "Multiple choice"
    question: ClassVar[str] = "Do a few heads carry the right option's label to the answer, and do they use few dimensions?"
    cite: ClassVar[tuple[str, ...]] = ("lieberum2023",)
    cost: ClassVar[str] = "13 minutes"
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Few nodes explain most of the direct effect on the labels.",
            published="Chinchilla-70B: about 45 nodes, 32 of them heads.",
            rule="The 5 % of heads with the largest direct effects on the first half carry more than half (95 %) of all positive direct "
            "effects on the second, and more than as many random heads; in part if only the estimate is above half.",
        ),
        Claim(
            claim="Some heads act through later ones: their total effect is large, and their direct effect small.",
            published="Chinchilla-70B: for example a24.h18, which acts through the correct-letter heads.",
            rule="Of the ten heads with the largest total effect and less than a quarter of it direct on the first half, one has a "
            "total effect more than four times its direct one on the second (95 %, corrected for their number); in part if only for the "
            "estimate.",
        ),
        Claim(
            claim="Correct-letter heads raise the right option's label, whichever it is.",
            published="Chinchilla-70B: several such heads.",
            rule="On the second half the chosen heads' mean diagonal is above 0 (95 %) and above every random set, and every label's own "
            "entry is positive; in part if only the first holds.",
        ),
        Claim(
            claim="They attend to the right option's label.",
            published="Chinchilla-70B: value-weighted attention is on the right label.",
            rule="Attention to the right label minus the mean of the others is above 0 (95 %) and above every random set; in part if this "
            "holds only for label and content together.",
        ),
        Claim(
            claim="Three dimensions of queries and keys are enough for them.",
            published="Chinchilla-70B: the loss is kept at rank 3.",
            rule="With queries and keys replaced by their means the loss rises (95 %); at rank 3 it is lower than with random subspaces "
            "(95 %), and its rise is less than a tenth of that (95 %); in part if only the first two hold.",
        ),
        Claim(
            claim="Random letters as labels keep part of the heads' effect, and numbers keep less.",
            published="Chinchilla-70B: random letters keep part of it, numbers largely fail.",
            rule="What the heads write for the right label is above 0 with random letters (95 %), less than with A to D (95 %), and less "
            "with numbers than with random letters (95 %); in part if it is above 0 with random letters and one of the others holds.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "The paper asks for knowledge (MMLU, five answered questions before); here the answer stands in the question, so that models can "
        "be asked that know little. Only the selection of the label is studied, as in the paper.",
        "Keys are shared by the query heads of a group under grouped-query attention, so that a projection of keys also changes the "
        "group's other heads.",
        "Value subspaces, and the paper's uniform, amplification and content-gatherer heads, are not measured.",
        "With labels behind the options the mechanism can be plain induction; the gate says which form was used.",
    )

    questions: Questions = 24
    heads: Count = 3
    random_sets: Several = 10
    ranks: tuple[int, ...] = (1, 3, 8, 16)

    def gate(self, context: ExperimentContext) -> Gate:
        """A form of the questions in which the model is above chance."""
        able = self._ability(context)
        words = ", ".join(f"{form}: {interval_words(about)}" for form, about in able["accuracy"].items())
        used = f"{able['form']} is used" if able["form"] else "no form is above it"
        return Gate(met=able["form"] is not None, reason=f"Accuracy among four labels: {words}; chance is 0.25; {used}.", measured=able)

    def _ability(self, context: ExperimentContext) -> dict[str, Any]:
        from circuitlab.experiments.multiple_choice.questions import ability  # noqa: PLC0415 - torch

        return context.stored("ability", lambda: ability(context.model, FORMS, self.questions, context.rng("ability")))

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Choose heads and subspaces on one half of the questions, and measure them on the other."""
        from circuitlab.experiments.multiple_choice.questions import choices  # noqa: PLC0415
        from circuitlab.experiments.multiple_choice.steps import measured  # noqa: PLC0415 - torch

        form = self._ability(context)["form"]
        tuning = choices(context.model, form, LABELS[AS_CHOSEN], self.questions, context.rng("questions", 0))
        held = {name: choices(context.model, form, labels, self.questions, context.rng("questions", 1)) for name, labels in LABELS.items()}
        sizes = (self.heads, self.random_sets, sorted({*self.ranks, _RANK}))
        return {"form": form, **measured(context, tuning, held, sizes)}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By the rules of ``published``, on the second half of the questions."""
        few, indirect, letter, look, rank, mutation = self.published
        return (
            _few(few, results["effects"]),
            _indirect(indirect, results["effects"]["indirect"]),
            _letter(letter, results["labels"]["sets"][AS_CHOSEN], results["letter"]["heads"]),
            _look(look, results["attention"]),
            _rank(rank, results["ranks"]),
            _mutation(mutation, results["labels"]),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Map of the heads, matrices of the chosen ones, direct and total effects, loss by rank, and label sets."""
        from circuitlab.experiments.multiple_choice.drawings import drawings  # noqa: PLC0415 - plotly

        return drawings(results, subtitle)


def _above(interval: Mapping[str, Any]) -> bool:
    return interval["low"] is not None and interval["low"] > 0


def _few(claim: Claim, effects: Mapping[str, Any]) -> Claim:
    share = effects["share"]
    here = f"{effects['few']} heads carry {interval_words(share)} of the positive direct effects; as many random heads: "
    beyond = share["low"] > _HALF and share["mean"] > effects["share_random"]
    return judged(claim, f"{here}{effects['share_random']:.2f}", holds=beyond, partly=share["mean"] > _HALF)


def _indirect(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> Claim:
    if not rows:
        return judged(claim, "no head has a positive total effect of which less than a quarter is direct", holds=False)
    best = max(rows, key=lambda row: row["beyond"]["low"] or float("-inf"))
    here = (
        f"of {len(rows)} heads, {best['head']} is the clearest: total {interval_words(best['total'])}, direct "
        f"{interval_words(best['direct'])} logits; total minus four times direct {interval_words(best['beyond'])} (corrected)"
    )
    return judged(claim, here, holds=_above(best["beyond"]), partly=best["beyond"]["mean"] > 0)


def _letter(claim: Claim, about: Mapping[str, Any], heads: Sequence[str]) -> Claim:
    own, others, entries = about["chosen"], about["random"], about["diagonal"]
    here = (
        f"{', '.join(heads)}: {interval_words(own)} logits for the right label; labels one by one {min(entries):+.2f} to "
        f"{max(entries):+.2f}; {len(others)} random sets {min(others):+.2f} to {max(others):+.2f}"
    )
    holds = _above(own) and own["mean"] > max(others) and min(entries) > 0
    return judged(claim, here, holds=holds, partly=_above(own))


def _look(claim: Claim, about: Mapping[str, Any]) -> Claim:
    def beyond(which: Mapping[str, Any]) -> bool:
        return _above(which["chosen"]) and which["chosen"]["mean"] > max(which["random"])

    label = about["label"]
    here = (
        f"right label minus others: {interval_words(label['chosen'])} of the attention; random sets at most {max(label['random']):+.2f}; "
        f"right content minus others: {interval_words(about['content']['chosen'])}"
    )
    return judged(claim, here, holds=beyond(label), partly=beyond(about["either"]))


def _rank(claim: Claim, about: Mapping[str, Any]) -> Claim:
    at = next(row for row in about["ranks"] if row["rank"] == _RANK)
    here = (
        f"loss {interval_words(about['unedited'])} nats; with the means alone it rises by {interval_words(about['rise_at_0'])}, at rank "
        f"{_RANK} of {about['width']} by {interval_words(at['rise'])}; with random subspaces of that rank "
        f"it is {interval_words(at['against_random'])} higher"
    )
    beyond = _above(about["rise_at_0"]) and _above(at["against_random"])
    return judged(claim, here, holds=beyond and at["beyond_tenth"]["high"] < 0, partly=beyond)


def _mutation(claim: Claim, labels: Mapping[str, Any]) -> Claim:
    kept = labels["sets"]["random letters"]["chosen"]
    lost, apart = labels["lost"]["random letters"], labels["between"]["random letters - numbers"]
    values = ", ".join(f"{name} {interval_words(about['chosen'])}" for name, about in labels["sets"].items())
    here = f"logits for the right label: {values}; random letters minus numbers {interval_words(apart)}"
    rest = [_above(lost), _above(apart)]
    return judged(claim, here, holds=_above(kept) and all(rest), partly=_above(kept) and any(rest))
