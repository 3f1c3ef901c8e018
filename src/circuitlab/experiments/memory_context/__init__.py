"""Memory against context: which head decides between a capital that the prompt claims and the one that the model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["MemoryContext"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Several = Annotated[int, msgspec.Meta(ge=2)]

_LEAST_COUNTRIES = 12
_LEAST_UNDERSTOOD = 0.5


class MemoryContext(Experiment, frozen=True, forbid_unknown_fields=True):
    """Scale one head's output, and count answers from the prompt and answers from memory (Yu et al. 2023).

    The prompt claims a wrong capital and asks for the capital: ``The capital of Poland is Rome. Q: What is the capital of Poland? A: The
    capital of Poland is``. An answer is *in context* if the most probable next token of the whole vocabulary is the claimed city,
    *memorised* if it is the true capital, and *other* otherwise. Only countries are used whose capital the model answers without the
    claim. They are split in two halves. On the first, the head that writes most towards the true capital and against the claimed one
    (logit attribution at the last token, the norm's scale held) is the memory head, and the one that writes most the other way is the
    in-context head; the factor of each is chosen there, too. Rates are then measured on the second half, whose prompts chose nothing.

    Parameters
    ----------
    prompts : int
        Claimed cities for each country.
    factors : tuple of float
        Factors by which the output of a head is multiplied at every position; 1 changes nothing.
    random_heads : int
        Random heads of the same layer as each chosen head, scaled by the same factors.

    Notes
    -----
    An interval is over countries, of a country's mean over its prompts, since prompts of one country are alike; those of rates stay
    between 0 and 1. A head's values are shared by its group under grouped-query attention, so that its output ``z`` is scaled instead:
    the same by linearity.

    References
    ----------
    Yu, Merullo and Pavlick (2023), Characterizing Mechanisms for Factual Recall in Language Models, arXiv:2310.15910.
    """

    name: ClassVar[str] = "memory_context"
    title: ClassVar[str] = "Memory against context"
    question: ClassVar[str] = "When a prompt contradicts what the model knows, does one head decide between the two answers?"
    cite: ClassVar[tuple[str, ...]] = ("yu2023",)
    cost: ClassVar[str] = "5 minutes"
    version: ClassVar[int] = 3
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Scaling one memory head (down, or below zero) makes the model answer from the prompt.",
            published="Pythia-1.4B, a15.h7: in-context answers from 26 % to 86 %.",
            rule="On countries that chose nothing, the in-context rate rises by more than 0 (95 %) and by more than for every random head "
            "of the layer; in part if only the first holds.",
        ),
        Claim(
            claim="Scaling the same head the other way makes it answer from memory.",
            published="Pythia-1.4B: memorised answers rise when the head is scaled up.",
            rule="The same for the memorised rate.",
        ),
        Claim(
            claim="The in-context head works in the opposite direction.",
            published="Pythia and GPT-2 XL: scaling it up raises in-context answers.",
            rule="The in-context rate rises when the in-context head is scaled by a factor above 1, by more than 0 (95 %) and by more than "
            "for every random head of its layer; in part if only the first holds.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "The paper's prompt ends at 'A:'; here the answer is begun ('A: The capital of ... is'), because small models answer the paper's "
        "prompt with a line break.",
        "The paper relates the answer to how often a country and a city occur in the training text; those counts are not known for "
        "this model, so nothing is said about frequency.",
        "The paper compares models of one family by size; this runs on one model at a time.",
    )

    prompts: Count = 3
    factors: tuple[float, ...] = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0)
    random_heads: Several = 5

    def gate(self, context: ExperimentContext) -> Gate:
        """Enough countries whose capital the model knows, and prompts that it answers by one of the two cities."""
        from circuitlab.experiments.memory_context.conflict import conflicts  # noqa: PLC0415 - torch

        asked = conflicts(context.model, self.prompts, context.rng("claims"))
        counts = {"known": len(asked.countries), "asked": asked.n_asked}
        if len(asked.countries) < _LEAST_COUNTRIES:
            said = f"It answers {counts['known']} of {counts['asked']} capitals without a claim, and {_LEAST_COUNTRIES} are needed."
            return Gate(met=False, reason=said, measured=counts)
        rates = asked.rates(context.model)
        understood = rates["in_context"]["mean"] + rates["memorised"]["mean"]
        said = (
            f"It answers {counts['known']} of {counts['asked']} capitals without a claim; with one, {rates['in_context']['mean']:.0%} of "
            f"its answers are the claimed city and {rates['memorised']['mean']:.0%} the true one."
        )
        return Gate(met=understood >= _LEAST_UNDERSTOOD, reason=said, measured={**counts, **rates})

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Choose the two heads on half of the countries, and scale them on the other half."""
        from circuitlab.experiments.memory_context.conflict import conflicts  # noqa: PLC0415 - torch
        from circuitlab.experiments.memory_context.scaling import choose_heads, scale_heads  # noqa: PLC0415

        halves = conflicts(context.model, self.prompts, context.rng("claims")).halves(context.rng("halves"))
        with context.share(0.0, 0.1):
            chosen = context.stored("heads", lambda: choose_heads(context.model, halves[0]))
        with context.share(0.1, 1.0):
            swept = context.stored("scaling", lambda: scale_heads(context, halves, chosen, self.factors, self.random_heads))
        countries = {name: list(half.countries) for name, half in zip(("chosen_on", "measured_on"), halves, strict=True)}
        return {"countries": countries, "heads": chosen, "scaling": swept}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By the paired change of a rate on the held-out countries."""
        memory, in_context = results["scaling"]["memory"], results["scaling"]["in_context"]
        return (
            _verdict(self.published[0], memory, "in_context", "towards_context"),
            _verdict(self.published[1], memory, "memorised", "towards_memory"),
            _verdict(self.published[2], in_context, "in_context", "up"),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """The map of what heads write, and rates over the factor for both heads."""
        from circuitlab.figures import Series, Wording, line_series, value_map  # noqa: PLC0415 - plotly

        heads, drawings = results["heads"], []
        outlined = [heads["memory"], heads["in_context"]]
        shown = value_map(
            heads["map"],
            Wording("Which heads write the claimed city, and which the true capital?", subtitle, units="logits: claimed minus true"),
            outlined=outlined,
        )
        caption = "Blue heads write the city that the prompt claims, orange ones the true capital; the two chosen heads are outlined."
        drawings.append(Picture("heads", shown, caption))
        for kind, about in results["scaling"].items():
            lines = {
                name: Series.of(about["factors"], about["rates"][key])
                for key, name in (("in_context", "claimed city"), ("memorised", "true capital"), ("other", "anything else"))
            }
            words = Wording(
                f"What happens when {about['head']} is scaled?",
                subtitle,
                x="factor of the head's output (1: unedited)",
                y="share of answers",
            )
            figure = line_series(lines, words)
            caption = f"{about['head']}, the {kind.replace('_', '-')} head, on countries that chose nothing. Bands: 95 % over countries."
            drawings.append(Picture(f"rates-{kind}", figure, caption))
        return drawings


def _verdict(claim: Claim, about: Mapping[str, Any], rate: str, which: str) -> Claim:
    chosen = about["chosen"][which]
    change, controls = chosen["change"], chosen["random"]
    before = about["rates"][rate][about["factors"].index(1.0)]
    beyond = all(change["mean"] > control for control in controls)
    here = (
        f"{about['head']} times {chosen['factor']:g}: {rate.replace('_', '-')} answers change by {interval_words(change)} from "
        f"{before['mean']:.2f}; {len(controls)} random heads of its layer: {min(controls):+.2f} to {max(controls):+.2f}"
    )
    above = change["low"] is not None and change["low"] > 0
    return judged(claim, here, holds=above and beyond, partly=above)
