"""Cache policies: which heads must keep their whole cache, and whether a few numbers per head say which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Drawing, Experiment, ExperimentContext, Gate, interval_words, judged

if TYPE_CHECKING:
    from circuitlab.scores.intervals import Interval

__all__ = ["CachePolicies"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=0.45)]
Depth = Annotated[float, msgspec.Meta(ge=0, le=1)]

_LEAST_SHARE, _LEAST_ANSWERED = 1 / 3, 3
_WINDOW = 5
"""A window is a fifth of the context: RazorAttention's."""
_AS_GOOD = 0.95
_PASSAGE = 64
_CHOSEN_BY = {"razor": "induction and echo", "retrieval": "retrieval", "random": "random"}
_PLUS = " + compensation"


class CachePolicies(Experiment, frozen=True, forbid_unknown_fields=True):
    """Drop keys from the caches of some heads, exactly, and ask for needles (RazorAttention, DuoAttention, CompressKV).

    A policy is an edit of attention: the softmax runs over the keys that a key/value head keeps. With **sinks and window** a head keeps
    the first keys and a fifth of the context before each query; a **compensation token** with the mean of the dropped keys and values,
    counted as often as there are, may stand for the rest. Some key/value heads keep everything: those with the highest induction on
    random tokens and one per cent by echo (RazorAttention), those that copy needles (as DuoAttention's gates are meant to find), or
    random ones of the same layers. With **chosen tokens** every layer keeps the tokens that a few of its heads attend to most at the end
    of the prompt: semantic retrieval heads (CompressKV), or random ones. The prompt is read in full; its last token and the answer read
    the compressed cache. Heads are chosen on half of the needles, and answers are scored on the others: the mean log-probability of the
    answer's tokens, in the needle's sentence. On passages every token reads the compressed cache.

    Parameters
    ----------
    length : int
        Tokens of a haystack, about.
    depths : tuple of float
        Where needles are hidden, in turn; 0 is the beginning of the haystack.
    shares : tuple of float
        Shares of the key/value heads that keep everything, below one half, so that as many others can be drawn; the smallest is
        RazorAttention's.
    sinks : int
        First keys that the others keep.
    random_sets : int
        Random sets of heads for each policy.
    passages : int
        Passages of 64 tokens on which the loss is measured.

    Notes
    -----
    Query heads of a group share keys, so that a group has the largest score of its heads. Intervals are Student's, over needles or
    passages; differences are paired.

    References
    ----------
    Tang et al. (2024), RazorAttention, arXiv:2407.15891. Xiao et al. (2024), DuoAttention, arXiv:2410.10819. Lin et al. (2025),
    CompressKV, arXiv:2508.02401.
    """

    name: ClassVar[str] = "cache_policies"
    title: ClassVar[str] = "Cache policies by head"
    question: ClassVar[str] = "Which heads need their whole cache, and do scores of heads say which?"
    cite: ClassVar[tuple[str, ...]] = ("tang2024", "xiao2024duo", "lin2025compress")
    cost: ClassVar[str] = "5 minutes"
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Keeping the cache of heads chosen by induction and echo keeps more than random heads do.",
            published="RazorAttention, 15 % of heads: 45.5 points, 40.7 with random heads, 46.9 with the full cache.",
            rule="At the smallest share, with compensation, answers have a higher log-probability than with random heads (95 %, paired).",
        ),
        Claim(
            claim="Little is lost against the full cache.",
            published="RazorAttention: 45.5 of 46.9 points.",
            rule="At the smallest share, with compensation, 95 % or more as many of the answers' tokens come first as with the full cache.",
        ),
        Claim(
            claim="The compensation token is needed.",
            published="RazorAttention: more than 30 % lower accuracy on needles without it.",
            rule="At the smallest share, answers have a higher log-probability with it than without it (95 %, paired).",
        ),
        Claim(
            claim="Heads that retrieve must keep their cache; others can live with sinks and a window.",
            published="DuoAttention: a quarter to half of the heads in full equal the full cache on needles.",
            rule="At the largest share, without compensation, answers have a higher log-probability with the top heads by retrieval in "
            "full than with random ones (95 %, paired).",
        ),
        Claim(
            claim="Semantic retrieval heads choose the tokens of a layer better than other heads.",
            published="CompressKV is ahead of choices by all heads at equal budgets.",
            rule="At a fifth of the tokens, answers have a higher log-probability than where random heads of each layer choose "
            "(95 %, paired).",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "Contexts have some hundred tokens here, and thousands in the papers; windows are scaled to them.",
        "DuoAttention trains a gate for every key/value head; no gate is trained here, and heads go by their retrieval score.",
        "DuoAttention's streaming heads stream while the prompt is read; here prompts are read in full, as for the other policies.",
        "Budgets of layers (CompressKV), Task-KV's heterogeneous heads and LongHeads' chunks are not measured.",
        "Half of 18 needles choose heads, and nine measure.",
    )

    length: Annotated[int, msgspec.Meta(ge=64)] = 128
    depths: tuple[Depth, ...] = (0.1, 0.5, 0.9)
    shares: tuple[Share, ...] = (0.15, 0.4)
    sinks: Annotated[int, msgspec.Meta(ge=0)] = 4
    random_sets: Count = 2
    passages: Annotated[int, msgspec.Meta(ge=2)] = 8

    def gate(self, context: ExperimentContext) -> Gate:
        """A third of the needles that choose heads must be answered, and three at least.

        Models whose rotary angles depend on the length are refused: an answer cannot be told from its prompt in one pass.
        """
        if context.model.length_dependent:
            what = "Its rotary angles depend on the length of the text, so that answers cannot be scored in one pass under a smaller cache."
            return Gate(met=False, reason=what)
        scores = self._scores(context)
        asked, answered = scores["asked"], scores["answered"]
        said = f"It answers {answered} of the {asked} needles that choose heads, each hidden among about {self.length} tokens."
        met = answered >= max(_LEAST_ANSWERED, _LEAST_SHARE * asked)
        return Gate(met=met, reason=said, measured={"asked": asked, "answered": answered})

    def _halves(self, context: ExperimentContext) -> Any:
        from circuitlab.experiments.retrieval_heads.needles import split_needles  # noqa: PLC0415 - torch

        return split_needles(context.model, self.length, self.depths, context.rng("needles"))

    def _scores(self, context: ExperimentContext) -> dict[str, Any]:
        from circuitlab.experiments.cache_policies.quality import needle_scores  # noqa: PLC0415 - torch

        return context.stored("needles", lambda: needle_scores(context.model, self._halves(context).choosing))

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Choose heads on one half of the needles, and score the answers of the other half under every policy."""
        from circuitlab.execute.continuations import Continuation  # noqa: PLC0415 - torch
        from circuitlab.execute.text_rows import text_rows  # noqa: PLC0415
        from circuitlab.experiments.cache_policies.quality import choose_groups, chosen_tokens, streamed, token_quality  # noqa: PLC0415
        from circuitlab.methods.roles.repeats import Echo, Induction  # noqa: PLC0415

        model, needles, halves = context.model, self._scores(context), self._halves(context)
        repeats = context.stored("repeats", lambda: {role.name: role(rows=8)(model).value.round(5).tolist() for role in (Induction, Echo)})
        sets = choose_groups(context, {**repeats, "retrieval": needles["retrieval"]}, sorted(self.shares), self.random_sets)
        keep = (self.sinks, max(1, self.length // _WINDOW))
        with context.share(0.1, 0.6):
            answers = context.stored("answers", lambda: streamed(context, halves.said, sets, keep, answering=True), about=sets)
        rows = [Continuation.passage(row) for row in text_rows(model, None, _PASSAGE) if len(row) == _PASSAGE][: self.passages]
        short = (self.sinks, _PASSAGE // _WINDOW)
        with context.share(0.6, 0.9):
            text = context.stored("text", lambda: streamed(context, rows, sets[:1], short, answering=False), about=sets[:1])
        policies = chosen_tokens(context, needles["semantic"], 4, self.random_sets, 1 / _WINDOW)
        about = [list(map(list, policy.heads)) for policy in policies]
        with context.share(0.9, 1.0):
            tokens = context.stored("tokens", lambda: token_quality(model, halves.said, policies), about=about)
        return {"needles": needles, "repeats": repeats, "sets": sets, "answers": answers, "text": text, "tokens": tokens}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By paired differences over the held-out needles."""
        least, most, answers = results["sets"][0]["share"], results["sets"][-1]["share"], results["answers"]
        razor, without = _values(answers, least, "razor"), _values(answers, least, "razor", compensate=False)
        random = _values(answers, least, "random")
        duo, other = _values(answers, most, "retrieval", compensate=False), _values(answers, most, "random", compensate=False)
        share = _values(answers, least, "razor", which="top").mean() / max(_full(answers, "top").mean(), 1e-9)
        tokens = results["tokens"]
        kept = f"log-probability {interval_words(_interval(razor))}, {_full(answers).mean():.2f} with the full cache"
        return (
            _higher(self.published[0], razor - random, f"{kept}; above random heads by"),
            judged(self.published[1], f"{share:.0%} as many tokens come first; {kept}", holds=share >= _AS_GOOD),
            _higher(self.published[2], razor - without, f"{kept}; above no compensation by"),
            _higher(
                self.published[3], duo - other, f"log-probability {interval_words(_interval(duo))} with {most:.0%} in full; above random by"
            ),
            judged(
                self.published[4],
                f"log-probability {interval_words(tokens['semantic'])}; above random heads by {interval_words(tokens['beyond'])}",
                holds=tokens["beyond"]["low"] > 0,
            ),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Drawing]:
        """Log-probability over the size of the cache, for answers, and bars for passages."""
        from circuitlab.figures import Wording, category_bars, line_series  # noqa: PLC0415 - plotly

        answers, shares = results["answers"], [0.0, *(one["share"] for one in results["sets"])]
        lines = {
            f"{label}{_PLUS if compensate else ''}": _line(answers, shares, name, compensate=compensate)
            for name, label in _CHOSEN_BY.items()
            for compensate in (True, False)
        }
        axes = {"x": "share of the cache that is kept", "y": "log-probability per token (nats)"}
        words = Wording("What do answers lose with a smaller cache?", subtitle, axes["x"], axes["y"])
        caption = "Heads that keep everything, by what chose them. Bands: 95 % over needles that chose nothing."
        full = {"full cache": float(_full(answers).mean())}
        drawings = [Drawing("answers", line_series(lines, words, references=full), caption)]
        text, share = results["text"], results["sets"][0]["share"]
        groups = {
            name: {
                label: _interval(_full(text) - _values(text, share, which, compensate=compensate)).as_dict()
                for which, label in _CHOSEN_BY.items()
            }
            for name, compensate in (("with a compensation token", True), ("without", False))
        }
        words = Wording(f"What does text lose with {share:.0%} of heads in full?", subtitle, y="rise of the loss (nats per token)")
        caption = f"{len(text['full']['logprob'])} passages, every token of which reads the smaller cache; 95 % over passages, paired."
        return [*drawings, Drawing("passages", category_bars(groups, words), caption)]


def _line(answers: Mapping[str, Any], shares: Sequence[float], name: str, *, compensate: bool) -> Any:
    """A line over the kept share of the cache; bands only with compensation, so that they can be told apart."""
    from circuitlab.figures import Series  # noqa: PLC0415 - plotly

    sets = ["none" if share == 0 else name for share in shares]
    x = [_kept(answers, share, which, compensate=compensate) for share, which in zip(shares, sets, strict=True)]
    values = [_values(answers, share, which, compensate=compensate) for share, which in zip(shares, sets, strict=True)]
    intervals = [_interval(value).as_dict() for value in values]
    if compensate:
        return Series.of(x, intervals, control=name == "random")
    return Series(x, [one["mean"] for one in intervals], control=name == "random")


def _higher(claim: Claim, differences: Any, before: str) -> Claim:
    interval = _interval(differences)
    return judged(claim, f"{before} {interval_words(interval)}", holds=bool(interval.low > 0))


def _interval(values: Any) -> Interval:
    from circuitlab.scores.intervals import mean_interval  # noqa: PLC0415 - keeps listing light

    return mean_interval(values)


def _full(measured: Mapping[str, Any], which: str = "logprob") -> Any:
    import numpy as np  # noqa: PLC0415

    return np.array(measured["full"][which])


def _rows(measured: Mapping[str, Any], share: float, name: str, *, compensate: bool) -> list[Mapping[str, Any]]:
    return [one for one in measured["policies"] if (one["share"], one["set"], one["compensate"]) == (share, name, compensate)]


def _values(measured: Mapping[str, Any], share: float, name: str, *, compensate: bool = True, which: str = "logprob") -> Any:
    """By needle or passage, mean over the sets of this name."""
    import numpy as np  # noqa: PLC0415

    return np.mean([one[which] for one in _rows(measured, share, name, compensate=compensate)], axis=0)


def _kept(measured: Mapping[str, Any], share: float, name: str, *, compensate: bool) -> float:
    return float(_rows(measured, share, name, compensate=compensate)[0]["kept"])
