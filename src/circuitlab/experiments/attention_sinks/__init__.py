"""Attention sinks: scaling the attention of some heads to them, calibrated on one half of the prompts and measured on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["AttentionSinks"]

Several = Annotated[int, msgspec.Meta(ge=2)]
Share = Annotated[float, msgspec.Meta(gt=0, le=0.5)]
Reduction = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Layers = Annotated[int, msgspec.Meta(ge=0)]

_LEAST_SHARE = 0.05
_LEAST_CHANGE = 0.01


class AttentionSinks(Experiment, frozen=True, forbid_unknown_fields=True):
    """Scale attention to sinks in some heads, and see whether more reviews are labelled rightly (ACT and ZeroTuning).

    Prompts ask for the sentiment of a review, ``positive`` or ``negative``, after two demonstrations; an answer is right if the right label
    is the likelier of the two. One half of the reviews chooses heads and factors, the other half measures.

    A *sink* is a token that receives more than 0.1 of the attention of its own and later tokens, without the first such token. ACT scales
    the weights of a head's sinks by 0.4, and gives what they lose to the other keys in proportion to their weights. ZeroTuning multiplies
    the weight of the first token by a factor and renormalises the row: above 1 in *up-effective* heads, below 1 in *down-effective* ones.

    Parameters
    ----------
    share : float
        Heads that are chosen for ACT, and for each group of ZeroTuning, as a share of all heads.
    factors : tuple of float
        Factors of the attention to the first token; 1 changes nothing.
    calibration : float
        Factor of the attention to other sinks.
    threshold : float
        Mean attention that makes a token a sink.
    skipped : (int, int)
        First and last layers that ACT leaves alone.
    random_sets : int
        Random sets of as many heads of the same layers, edited alike.

    Notes
    -----
    Heads are chosen by a slope: the derivative of the right label's log-probability (among both labels, mean over the first half) in the
    factor of that head, at a factor of 1. Factors are those of the largest mean log-probability on the first half, for each group alone,
    and for both tried together. Sinks are those of the unedited model on the same prompt. Intervals are over reviews, of paired changes:
    Wilson's of accuracies, Student's of log-probabilities.

    References
    ----------
    Yu et al. (2024), Unveiling and Harnessing Hidden Attention Sinks (ACT), arXiv:2406.15765. Han et al. (2025), ZeroTuning,
    arXiv:2505.11739.
    """

    name: ClassVar[str] = "attention_sinks"
    title: ClassVar[str] = "Attention sinks"
    question: ClassVar[str] = "Does scaling the attention that some heads give to sinks make answers right?"
    cite: ClassVar[tuple[str, ...]] = ("yu2024act", "han2025zero")
    cost: ClassVar[str] = "8 minutes"
    version: ClassVar[int] = 3
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Sinks also occur beyond the first token.",
            published="Llama-2-7B and others: in many heads of the middle layers (ACT).",
            rule="More than 5 % (lower limit over reviews) of the heads outside the skipped layers have a sink beyond the first, counting "
            "only tokens with 16 queries or more, where even attention has none.",
        ),
        Claim(
            claim="Scaling these sinks down in chosen heads raises accuracy.",
            published="Up to +7.3 % (Llama-30B, mean over tasks, ACT).",
            rule="On reviews that chose nothing, accuracy rises by more than 0 (95 %) and by more than for every random set; in part if "
            "only the log-probability of the right label does (by more than 0.01, 95 %).",
        ),
        Claim(
            claim="Some heads answer better with more attention to the first token, others with less.",
            published="Llama-3.1-8B: up-effective and down-effective heads (ZeroTuning).",
            rule="On reviews that chose nothing, the log-probability of the right label rises by more than 0.01 (95 %) and by more than "
            "for every random set, both when up-effective heads are scaled up and when down-effective ones are scaled down; in part if "
            "one.",
        ),
        Claim(
            claim="Scaling both groups together raises accuracy.",
            published="Llama-3.1-8B: +11.7 % on classification (ZeroTuning).",
            rule="As for the second claim.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "The papers try every head, or every head's factor, on hundreds of samples; here heads are ranked by a slope on 32.",
        "ACT finds the sinks of each layer after the layers below were calibrated; here they are those of the unedited model.",
        "ACT also counts the last tokens, which few queries see; the calibration does, too, but the first claim does not.",
        "The reviews were written for this experiment; the papers use larger benchmarks.",
    )

    share: Share = 0.1
    factors: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
    calibration: Reduction = 0.4
    threshold: Share = 0.1
    skipped: tuple[Layers, Layers] = (2, 1)
    random_sets: Several = 5

    def gate(self, context: ExperimentContext) -> Gate:
        """Accuracy above chance by its interval."""
        from circuitlab.experiments.attention_sinks.labelled import review_prompts  # noqa: PLC0415 - torch
        from circuitlab.scores.intervals import proportion_interval  # noqa: PLC0415

        asked = review_prompts(context.model)
        right = asked.scored(context.model).right
        accuracy = proportion_interval(int(right.sum()), len(right)).as_dict()
        chance = 1 / len(asked.labels)
        said = f"It labels {accuracy['mean']:.0%} [{accuracy['low']:.0%}, {accuracy['high']:.0%}] of {len(right)} reviews rightly."
        said += f" Chance is {chance:.0%}."
        return Gate(met=accuracy["low"] > chance, reason=said, measured={"accuracy": accuracy, "reviews": len(right)})

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Count sinks, then choose heads on half of the reviews and scale them on the other half."""
        from circuitlab.experiments.attention_sinks.labelled import review_prompts  # noqa: PLC0415 - torch
        from circuitlab.experiments.attention_sinks.sinks import sink_shares  # noqa: PLC0415
        from circuitlab.experiments.attention_sinks.tuning import calibrate, tune_first_token  # noqa: PLC0415

        asked, spec = review_prompts(context.model), context.model.spec
        halves = asked.halves(context.rng("halves"))
        layers = range(self.skipped[0], spec.n_layers - self.skipped[1])
        n = (max(1, round(self.share * spec.n_layers * spec.n_heads)), self.random_sets)
        factors = sorted({*self.factors, 1.0})
        with context.share(0.0, 0.1):
            counted = context.stored("sinks", lambda: sink_shares(context.model, asked, self.threshold, layers))
        with context.share(0.1, 0.3):
            act = context.stored("act", lambda: calibrate(context, halves, self.calibration, self.threshold, n, layers))
        with context.share(0.3, 1.0):
            zero = context.stored("first token", lambda: tune_first_token(context, halves, factors, n))
        reviews = {"chosen_on": len(halves[0].rows), "measured_on": len(halves[1].rows)}
        return {"reviews": reviews, "sinks": counted, "act": act, "first_token": zero}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By counts of sinks, and paired changes on the held-out reviews."""
        sinks, act, zero = results["sinks"], results["act"], results["first_token"]
        share = sinks["share"]
        here = f"{interval_words(share)} of the heads; even attention has {sinks['even']} such sinks"
        first = judged(self.published[0], here, holds=_above(share, _LEAST_SHARE) and sinks["even"] == 0)
        count = f"{len(act['heads'])} heads calibrated: "
        second = _accuracy(self.published[1], count, act["plain"], act)
        chosen = zero["chosen"]
        gains = {name: _gains(chosen[name], "likely", _LEAST_CHANGE) for name in ("up", "down")}
        here = "; ".join(
            f"{len(zero['groups'][name])} {name}-effective heads times {chosen[name]['factors'][name]:g}: {_change(chosen[name], 'likely')}"
            for name in gains
        )
        third = judged(
            self.published[2], f"log-probability of the right label, {here}", holds=all(gains.values()), partly=any(gains.values())
        )
        by = chosen["both"]["factors"]
        together = f"up-effective heads times {by['up']:g} and down-effective ones times {by['down']:g}: "
        return first, second, third, _accuracy(self.published[3], together, zero["plain"], chosen["both"])

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Maps of sinks and slopes, log-probability over the factor, and accuracy beside random heads."""
        from circuitlab.experiments.attention_sinks.drawing import drawings  # noqa: PLC0415 - plotly

        return drawings(results, subtitle)


def _above(interval: Mapping[str, Any], least: float) -> bool:
    return interval["low"] is not None and interval["low"] > least


def _gains(chosen: Mapping[str, Any], measure: str, least: float = 0.0) -> bool:
    """Whether a measure rises by more than ``least`` (95 %), and by more than for every random set."""
    change, random = chosen["change"][measure], [one[measure] for one in chosen["random"]]
    return bool(random) and _above(change, least) and change["mean"] > max(random)


def _change(chosen: Mapping[str, Any], measure: str) -> str:
    random = [one[measure] for one in chosen["random"]]
    beside = f" ({len(random)} random sets: {min(random):+.2f} to {max(random):+.2f})" if random else " (no head to choose)"
    return interval_words(chosen["change"][measure]) + beside


def _accuracy(claim: Claim, what: str, plain: Mapping[str, Any], chosen: Mapping[str, Any]) -> Claim:
    here = (
        f"{what}accuracy changes by {_change(chosen, 'right')} from {plain['right']['mean']:.2f}, the log-probability of the right label "
        f"by {_change(chosen, 'likely')}"
    )
    return judged(claim, here, holds=_gains(chosen, "right"), partly=_gains(chosen, "likely", _LEAST_CHANGE))
