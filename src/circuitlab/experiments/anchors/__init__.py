"""Attention anchors: local heads that look far back where the next token is open, and tokens that later ones come back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["Anchors"]

Several = Annotated[int, msgspec.Meta(ge=3)]
Length = Annotated[int, msgspec.Meta(ge=64)]
Positive = Annotated[float, msgspec.Meta(gt=0)]

_LEAST_ANSWERS, _LEAST_DIFFERENT = 8, 0.5
_MOST_TRIALS = 0.6


class Anchors(Experiment, frozen=True, forbid_unknown_fields=True):
    """Read two signals off the attention along generated text, and force other tokens where one of them is large (WAAD and FAI).

    The model continues passages at temperature 0.7. The 30 % of heads that look nearest are *local*, the 30 % that look farthest are
    *far*. **WAAD** of a token is the mean distance (at most 10) that local heads look back from it. **FAI** of a token is the mean
    attention that far heads give it from 10 to 50 tokens later. A *peak* is a local maximum among the largest 30 % of an answer's values.

    Then the tokens with the largest and with the smallest FAI are replaced by each of the 3 likeliest tokens there, the model continues
    greedily, and the content words are compared with those that the answer had there (Jaccard overlap).

    Parameters
    ----------
    choosing, answers : int
        Answers that choose the heads, and others that are measured.
    prompt, length : int
        Tokens of a prompt and of an answer.
    temperature : float
        Of sampling the answers.
    positions, candidates, horizon : int
        Positions of each kind in each answer, tokens that are forced at each, and tokens of a roll-out.
    random_sets : int
        Random sets of heads of the receivers' layers.

    Notes
    -----
    What shuffled positions would give is computed exactly: it is the mean over all positions. *Receivers* are the 10 % of heads with the
    largest kurtosis of what tokens receive (Bogdan et al. 2025), local and far heads excluded, so that agreement is not agreement of a
    set with itself. Entropy is that of the next token's distribution after the token. Intervals are Student's, over answers.

    References
    ----------
    Li et al. (2025), Attention Illuminates LLM Reasoning, arXiv:2510.13554. Bogdan et al. (2025), Thought Anchors, arXiv:2506.19143.
    """

    name: ClassVar[str] = "anchors"
    title: ClassVar[str] = "Attention anchors"
    question: ClassVar[str] = "Does attention show where a text is planned, and which of its tokens the rest depends on?"
    cite: ClassVar[tuple[str, ...]] = ("li2025waad", "bogdan2025")
    cost: ClassVar[str] = "7 minutes"
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="The next token is more open where local heads look far back.",
            published="Qwen3-4B-Base, GSM8K: entropy .361 at WAAD peaks, .239 at shuffled positions.",
            rule="Mean entropy at WAAD peaks is higher than at shuffled positions by more than 0 (95 %, over answers).",
        ),
        Claim(
            claim="Receiver heads come back to the same tokens as far-looking heads.",
            published="60.8 % of FAI peaks coincide, 22.4 % at shuffled positions.",
            rule="The share of the receivers' FAI peaks within one token of a far heads' peak is higher than at shuffled positions by "
            "more than 0 (95 %), and by more than for every random set of heads; in part if only the first.",
        ),
        Claim(
            claim="FAI peaks follow or coincide with WAAD peaks.",
            published="52.5 % of them, 36.9 % at shuffled positions.",
            rule="The share of FAI peaks at or up to three tokens after a WAAD peak is higher than at shuffled positions by more than 0 "
            "(95 %).",
        ),
        Claim(
            claim="Other tokens change the rest of the text more at positions of large FAI.",
            published="Overlap .534 at the largest FAI, .631 at the smallest; less at the largest in 87 % of trials.",
            rule="Overlap is lower at the largest FAI by more than 0 (95 %, over answers); in part if it is lower in more than 60 % of the "
            "answers.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "The paper reads solutions of mathematical problems by a 4B model; here a model continues passages of natural text.",
        "The paper does not define peaks in what was read for this experiment; the definition here is its own.",
        "Heads that rest on the first token of the prompt look far by the paper's measure, too; they are not left out.",
        "Heads are chosen on answers other than those measured; the paper chooses them on each answer.",
        "The use of these signals in reinforcement learning is not part of this.",
    )

    choosing: Several = 4
    answers: Several = 12
    prompt: Several = 32
    length: Length = 96
    temperature: Positive = 0.7
    positions: Several = 3
    candidates: Several = 3
    horizon: Several = 20
    random_sets: Several = 5

    def gate(self, context: ExperimentContext) -> Gate:
        """Enough answers of full length that do not repeat themselves."""
        written = self._written(context)
        usable = self._usable(written)
        needed = self.choosing + _LEAST_ANSWERS
        said = (
            f"{len(usable)} of {len(written['rows'])} answers have {self.length} tokens, at least half of whose triples of tokens are "
            f"different; {needed} are needed."
        )
        return Gate(met=len(usable) >= needed, reason=said, measured={"usable": len(usable), "different": written["different"]})

    def _written(self, context: ExperimentContext) -> dict[str, Any]:
        return context.stored("answers", lambda: self._write(context))

    def _write(self, context: ExperimentContext) -> dict[str, Any]:
        """Continue the first passages, one of each kind."""
        from circuitlab.execute.text_rows import text_rows  # noqa: PLC0415 - torch

        rows = [list(row) for row in text_rows(context.model, None, self.prompt) if len(row) == self.prompt][: self.choosing + self.answers]
        runs = context.model.generate(rows, self.length, temperature=self.temperature, seed=context.seed)
        runs = runs if isinstance(runs, tuple) else (runs,)
        return {
            "rows": [[*row, *run.ids] for row, run in zip(rows, runs, strict=True)],
            "different": [round(_different(run.ids), 3) for run in runs],
        }

    def _usable(self, written: Mapping[str, Any]) -> list[list[int]]:
        full = self.prompt + self.length
        pairs = zip(written["rows"], written["different"], strict=True)
        return [row for row, different in pairs if len(row) == full and different >= _LEAST_DIFFERENT]

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Choose heads on some answers, couple the signals on the others, and roll out from forced tokens."""
        from circuitlab.experiments.anchors.coupling import coupling  # noqa: PLC0415 - torch
        from circuitlab.experiments.anchors.rollouts import content_words, perturbed  # noqa: PLC0415
        from circuitlab.experiments.anchors.tracks import Answer, choose_heads  # noqa: PLC0415
        from circuitlab.model.encode import need_tokenizer  # noqa: PLC0415

        answers = [Answer(tuple(row), self.prompt) for row in self._usable(self._written(context))]
        choosing, measured = answers[: self.choosing], answers[self.choosing :]
        model, tokenizer = context.model, need_tokenizer(context.model.tokenizer, context.model.spec.name)
        sets, distance = choose_heads(model, choosing)
        with context.share(0.2, 0.4):
            signals = context.stored("coupling", lambda: coupling(context, measured, sets, self.random_sets))

        def words(before: Sequence[int], after: Sequence[int]) -> frozenset[str]:
            texts = [str(tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in (before, [*before, *after])]
            return content_words(texts[1][len(texts[0]) :])

        sizes = (self.positions, self.candidates, self.horizon)
        with context.share(0.4, 1.0):
            changed = context.stored("rollouts", lambda: perturbed(model, measured, (sets.local, sets.far), sizes, words))
        tokens = [str(tokenizer.decode([token])) for token in measured[0].row[self.prompt :]]
        heads = {name: [str(head) for head in getattr(sets, name)] for name in ("local", "far", "receivers")}
        counts = {"choosing": len(choosing), "measured": len(measured)}
        return {"answers": counts, "heads": heads, "distance": distance.round(3).tolist(), **signals, "rollouts": changed, "tokens": tokens}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By paired differences over answers."""
        about, rolled = results["couplings"], results["rollouts"]
        receivers = about["receivers"]
        random = receivers["random"]
        beyond = _above(receivers["difference"]) and receivers["difference"]["mean"] > max(random)
        here = f"{_versus(about['entropy'])} nats; entropy of the token itself: {_versus(about['before'])}"
        first = judged(self.published[0], here, holds=_above(about["entropy"]["difference"]))
        here = f"{_versus(receivers)} ({len(random)} random sets: {min(random):+.2f} to {max(random):+.2f})"
        second = judged(self.published[1], here, holds=beyond, partly=_above(receivers["difference"]))
        third = judged(self.published[2], _versus(about["follows"]), holds=_above(about["follows"]["difference"]))
        if rolled["lower"] is None:
            return first, second, third, judged(self.published[3], f"{rolled['answers']} answers had enough positions", holds=False)
        here = (
            f"{rolled['top']['mean']:.2f} at the largest FAI, {rolled['bottom']['mean']:.2f} at the smallest; difference "
            f"{interval_words(rolled['difference'])}; lower at the largest in {rolled['lower']:.0%} of {rolled['answers']} answers"
        )
        holds, partly = _above(rolled["difference"]), rolled["lower"] > _MOST_TRIALS
        return first, second, third, judged(self.published[3], here, holds=holds, partly=partly)

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Distances of heads, patterns and tracks of one answer, couplings and roll-outs."""
        from circuitlab.experiments.anchors.drawing import drawings  # noqa: PLC0415 - plotly

        return drawings(results, subtitle)


def _above(interval: Mapping[str, Any]) -> bool:
    return interval["low"] is not None and interval["low"] > 0


def _versus(about: Mapping[str, Any]) -> str:
    if about["difference"]["mean"] is None:
        return f"{about['answers']} answers had peaks: no comparison"
    observed, shuffled = about["observed"]["mean"], about["shuffled"]["mean"]
    return f"{observed:.2f} against {shuffled:.2f} at shuffled positions, difference {interval_words(about['difference'])}"


def _different(ids: Sequence[int]) -> float:
    """Share of different triples of tokens."""
    triples = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
    return len(set(triples)) / len(triples) if triples else 0.0
