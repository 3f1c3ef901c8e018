"""Cache policies: which heads must keep their whole cache, and whether a few numbers per head say which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

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
_WITH = {"razor": "induction and echo", "retrieval": "retrieval", "random": "random"}
_WITHOUT = {"gates": "gates", "retrieval": "retrieval", "razor": "induction and echo", "random_gates": "random"}
_BY_TOKEN = {
    "semantic-heads": ("semantic heads choose tokens", {"chosen": "semantic heads", "chosen_random": "random heads of the layer"}),
    "far-heads": ("far heads keep everything", {"far_tokens": "far heads in full", "far_random": "random heads of the layer in full"}),
    "chunks": ("queries choose chunks", {"chunks": "chunks that fit", "chunks_random": "random chunks"}),
}


class CachePolicies(Experiment, frozen=True, forbid_unknown_fields=True):
    """Drop keys from the caches of heads, exactly, and ask for needles (RazorAttention, DuoAttention, CompressKV, Task-KV, LongHeads).

    A policy is an edit of attention: the softmax runs over the keys that a key/value head keeps. With **sinks and window** a head keeps
    the first keys and a fifth of the context before each query; a **compensation token** with the mean of the dropped keys and values,
    counted as often as there are, may stand for the rest. Some key/value heads keep everything: those with the highest induction on
    random tokens and one per cent by echo (RazorAttention); those with the largest gates, trained on passkeys of random words
    (DuoAttention); those that copy needles; or random ones of the same layers. With **chosen tokens** every layer keeps the tokens that a
    few of its heads attend to most at the end of the prompt: semantic retrieval heads (CompressKV), or random ones. With **far heads** the
    key/value heads whose mean output is furthest from their layer's keep everything, and the others the tokens that they attend to most
    (Task-KV). With **chunks** every query reads the first and last chunk of the prompt, and those whose representations fit it best
    (LongHeads). The prompt is read in full; its last token and the answer read the compressed cache. Heads are chosen on half of the
    needles, and answers are scored on the others: the mean log-probability of the answer's tokens, in the needle's sentence. On passages
    every token reads the compressed cache.

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
    passkeys : int
        Prompts with passkeys that train gates.
    gate_steps : int
        Steps of training; from 100 on, gates that nothing holds back reach 0.
    budgets : tuple of float
        Shares of the cache that policies by token keep; the smallest is judged, and of far heads the smallest that they fit into.
    chunk : int
        Tokens of a chunk.

    Notes
    -----
    Query heads of a group share keys, so that a group has the largest score of its heads. Intervals are Student's, over needles or
    passages; differences are paired.

    References
    ----------
    Tang et al. (2024), RazorAttention, arXiv:2407.15891. Xiao et al. (2024), DuoAttention, arXiv:2410.10819. Lin et al. (2025),
    CompressKV, arXiv:2508.02401. He et al. (2025), Task-KV, arXiv:2501.15113. Lu et al. (2024), LongHeads, arXiv:2402.10685.
    """

    name: ClassVar[str] = "cache_policies"
    title: ClassVar[str] = "Cache policies by head"
    question: ClassVar[str] = "Which heads need their whole cache, and do scores of heads say which?"
    cite: ClassVar[tuple[str, ...]] = ("tang2024", "xiao2024duo", "lin2025compress", "he2025taskkv", "lu2024longheads")
    cost: ClassVar[str] = "6 minutes"
    version: ClassVar[int] = 2
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
            claim="The heads with the largest trained gates must keep their cache; others can live with sinks and a window.",
            published="DuoAttention: a quarter to half of the heads in full equal the full cache on needles.",
            rule="At the largest share, without compensation, answers have a higher log-probability with the heads of the largest gates in "
            "full than with random ones (95 %, paired).",
        ),
        Claim(
            claim="Trained gates choose better than scores of attention.",
            published="DuoAttention: gates are ahead of heads chosen by their attention, at the same budget.",
            rule="At the largest share, without compensation, answers have a higher log-probability with the heads of the largest gates in "
            "full than with as many by retrieval (95 %, paired).",
        ),
        Claim(
            claim="Semantic retrieval heads choose the tokens of a layer better than other heads.",
            published="CompressKV is ahead of choices by all heads at equal budgets.",
            rule="At the smallest budget, answers have a higher log-probability than where random heads of each layer choose "
            "(95 %, paired).",
        ),
        Claim(
            claim="Heads far from the mean of their layer need their whole cache more than others.",
            published="Task-KV, 40 % of the cache: 7.94 on Llama-2-7B, 7.80 and less with other policies.",
            rule="At the smallest budget that they fit into, answers have a higher log-probability than where random heads of the layer "
            "keep everything (95 %, paired).",
        ),
        Claim(
            claim="To the other heads, chosen tokens of the middle are worth more than a compensation token, and that more than none.",
            published="Task-KV's ablation has this order.",
            rule="At that budget, with as many keys of each head, both differences are above 0 (95 %, paired); in part if one is.",
        ),
        Claim(
            claim="Chunks chosen by each head hold what an answer needs.",
            published="LongHeads: 100 % of passkeys at 128 thousand tokens, with 4 thousand of them read.",
            rule="At the smallest budget, answers have a higher log-probability than with random chunks (95 %, paired).",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "Contexts have some hundred tokens here, and thousands in the papers; windows are scaled to them.",
        "Gates are trained in a few steps on short prompts with two passkeys, and reading the prompt is not gated: DuoAttention takes 2000 "
        "steps, ten passkeys, and streams while it reads. Its windows and sinks are shared by all policies here.",
        "Far heads are told apart by the largest distance of a key/value head's query heads, each in its own space, as the paper does; the "
        "nearest head, which the paper adds, keeps everything only where a layer has four key/value heads or more.",
        "Queries and keys of chunks are those before rotation, and the positions of kept keys are not moved together: no context exceeds "
        "what the model was trained on.",
        "Tokens and chunks are chosen on the unedited model. LongHeads saves attention and not memory. Budgets of layers (CompressKV) are "
        "not measured.",
        "Tokens are chosen by the last eight queries, as by CompressKV; where a chat template ends the prompt, few of them belong to the "
        "question.",
        "Half of 18 needles choose heads, and nine measure. Where a layer has few key/value heads, random sets hardly differ.",
    )

    length: Annotated[int, msgspec.Meta(ge=64)] = 128
    depths: tuple[Depth, ...] = (0.1, 0.5, 0.9)
    shares: tuple[Share, ...] = (0.15, 0.4)
    sinks: Annotated[int, msgspec.Meta(ge=0)] = 4
    random_sets: Count = 2
    passages: Annotated[int, msgspec.Meta(ge=2)] = 8
    passkeys: Count = 16
    gate_steps: Count = 120
    budgets: tuple[Annotated[float, msgspec.Meta(gt=0, lt=1)], ...] = (0.2, 0.4, 0.6)
    chunk: Count = 8

    def gate(self, context: ExperimentContext) -> Gate:
        """A third of the needles that choose heads must be answered, and three at least.

        Models whose rotary angles depend on the length are refused: an answer cannot be told from its prompt in one pass. So are models
        without a functional forward, which says which keys a query sees, or without queries, keys and values of one width.
        """
        if context.model.length_dependent:
            what = "Its rotary angles depend on the length of the text, so that answers cannot be scored in one pass under a smaller cache."
            return Gate(met=False, reason=what)
        if lack := self._lacks(context):
            return Gate(met=False, reason=lack)
        scores = self._scores(context)
        asked, answered = scores["asked"], scores["answered"]
        said = f"It answers {answered} of the {asked} needles that choose heads, each hidden among about {self.length} tokens."
        met = answered >= max(_LEAST_ANSWERED, _LEAST_SHARE * asked)
        return Gate(met=met, reason=said, measured={"asked": asked, "answered": answered})

    def _lacks(self, context: ExperimentContext) -> str:
        """What the model lacks that a policy needs; empty if nothing."""
        from circuitlab.core.errors import ModelError  # noqa: PLC0415
        from circuitlab.model.sites import Site  # noqa: PLC0415

        model = context.model
        if lacking := sorted(site.value for site in (Site.PATTERN, Site.Z, Site.Q, Site.K, Site.V) if site not in model.sites):
            return f"It lacks {', '.join(lacking)}, which policies read or edit."
        if model.width(Site.Q) != model.width(Site.V):
            return f"Its queries have {model.width(Site.Q)} dimensions and its values {model.width(Site.V)}: chunks have no representation."
        try:
            model.decoder  # noqa: B018 - built and checked on first use
        except ModelError as error:
            return f"It cannot be run key by key: {error.what}"
        return ""

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
        from circuitlab.experiments.cache_policies.gates import passkeys, train_gates  # noqa: PLC0415
        from circuitlab.experiments.cache_policies.quality import choose_groups, streamed, token_policies, token_quality  # noqa: PLC0415
        from circuitlab.methods.roles.repeats import Echo, Induction  # noqa: PLC0415

        model, needles, halves = context.model, self._scores(context), self._halves(context)
        repeats = context.stored("repeats", lambda: {role.name: role(rows=8)(model).value.round(5).tolist() for role in (Induction, Echo)})
        keep = (self.sinks, max(1, self.length // _WINDOW))

        def trained() -> dict[str, Any]:
            rows = passkeys(model, self.length, self.passkeys, context.rng("passkeys"))
            return train_gates(model, rows, keep, self.gate_steps, context.rng("order of passkeys"))

        with context.share(0.1, 0.4):
            gates = context.stored("gates", trained)
        scores = {**repeats, "retrieval": needles["retrieval"], "gates": gates["gates"]}
        sets = choose_groups(context, scores, sorted(self.shares), self.random_sets)
        with context.share(0.4, 0.6):
            answers = context.stored("answers", lambda: streamed(context, halves.said, sets, keep, answering=True), about=sets)
        rows = [Continuation.passage(row) for row in text_rows(model, None, _PASSAGE) if len(row) == _PASSAGE][: self.passages]
        short = (self.sinks, _PASSAGE // _WINDOW)
        with context.share(0.6, 0.9):
            text = context.stored("text", lambda: streamed(context, rows, sets[:1], short, answering=False), about=sets[:1])
        sizes = (self.sinks, self.chunk, min(one.end for one in halves.said))
        policies = token_policies(context, needles["semantic"], sorted(self.budgets), self.random_sets, sizes)
        with context.share(0.9, 1.0):
            tokens = context.stored("tokens", lambda: {"policies": token_quality(model, halves.said, policies)})["policies"]
        chosen_by = {"needles": needles, "repeats": repeats, "gates": gates}
        return {**chosen_by, "sets": sets, "answers": answers, "text": text, "tokens": tokens}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By paired differences over the held-out needles."""
        least, most, answers = results["sets"][0]["share"], results["sets"][-1]["share"], results["answers"]
        razor, without = _values(answers, least, "razor"), _values(answers, least, "razor", compensate=False)
        random = _values(answers, least, "random")
        sets = ("gates", "random_gates", "retrieval")
        gates, other, retrieval = (_values(answers, most, name, compensate=False) for name in sets)
        share = _values(answers, least, "razor", which="top").mean() / max(_full(answers, "top").mean(), 1e-9)
        kept = f"log-probability {interval_words(_interval(razor))}, {_full(answers).mean():.2f} with the full cache"
        gated = f"log-probability {interval_words(_interval(gates))} with {most:.0%} in full"
        return (
            _higher(self.published[0], razor - random, f"{kept}; above random heads by"),
            judged(self.published[1], f"{share:.0%} as many tokens come first; {kept}", holds=share >= _AS_GOOD),
            _higher(self.published[2], razor - without, f"{kept}; above no compensation by"),
            _higher(self.published[3], gates - other, f"{gated}; above random by"),
            _higher(self.published[4], gates - retrieval, f"{gated}; above retrieval by"),
            *_by_token(self.published[5:], results["tokens"]),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Log-probability over the size of the cache, the gates, and bars for passages."""
        from circuitlab.figures import Wording, value_map  # noqa: PLC0415 - plotly

        words = Wording("Which key/value heads do passkeys need?", subtitle, units="gate, 0 to 1 (1 before training)")
        gates = value_map(results["gates"]["gates"], words, shared=True)
        caption = "Trained gates by layer and key/value head: the share of attention to all keys that the answers need."
        shown = Picture("gates", gates, caption)
        return [*_answer_lines(results, subtitle), shown, *_token_lines(results, subtitle), _bars(results, subtitle)]


def _by_token(claims: Sequence[Claim], tokens: Sequence[Mapping[str, Any]]) -> tuple[Claim, ...]:
    """Verdicts on semantic heads, far heads, what is left to the others, and chunks."""
    least = min(one["share"] for one in tokens)
    chosen, chunks = _token(tokens, "chosen", least), _token(tokens, "chunks", least)
    first = _higher(claims[0], chosen - _token(tokens, "chosen_random", least), f"{_said(chosen)} with {least:.0%}; above random heads by")
    last = _higher(claims[3], chunks - _token(tokens, "chunks_random", least), f"{_said(chunks)} with {least:.0%}; above random chunks by")
    shares = [one["share"] for one in tokens if one["set"] == "far_tokens"]
    if not shares:
        why = "a layer has a single key/value head, or no budget has room for a whole head"
        return (first, *(msgspec.structs.replace(claim, here=why) for claim in claims[1:3]), last)
    far, mean, none, random = (_token(tokens, f"far_{name}", min(shares)) for name in ("tokens", "mean", "none", "random"))
    middle, token = _interval(far - mean), _interval(mean - none)
    here = f"chosen tokens above a compensation token by {interval_words(middle)}, that above none by {interval_words(token)}"
    above = [bool(interval.low > 0) for interval in (middle, token)]
    return (
        first,
        _higher(claims[1], far - random, f"{_said(far)} with {min(shares):.0%}; above random heads by"),
        judged(claims[2], here, holds=all(above), partly=any(above)),
        last,
    )


def _said(values: Any) -> str:
    return f"log-probability {interval_words(_interval(values))}"


def _token(tokens: Sequence[Mapping[str, Any]], name: str, share: float) -> Any:
    """By needle, mean over the sets of this name."""
    import numpy as np  # noqa: PLC0415

    return np.mean([one["logprob"] for one in tokens if (one["set"], one["share"]) == (name, share)], axis=0)


_AXES = {"x": "share of the cache that is kept", "y": "log-probability per token (nats)"}


def _answer_lines(results: Mapping[str, Any], subtitle: str) -> list[Picture]:
    """With a compensation token, and without."""
    from circuitlab.figures import Wording, line_series  # noqa: PLC0415 - plotly

    answers, shares = results["answers"], [0.0, *(one["share"] for one in results["sets"])]
    full, drawings = {"full cache": float(_full(answers).mean())}, []
    for name, labels, compensate in (("with a compensation token", _WITH, True), ("without compensation", _WITHOUT, False)):
        lines = {label: _line(answers, shares, chosen, compensate=compensate) for chosen, label in labels.items()}
        words = Wording(f"What do answers lose with a smaller cache {name}?", subtitle, **_AXES)
        caption = f"Heads that keep everything, by what chose them, {name}. Bands: 95 % over needles that chose nothing."
        drawings.append(Picture("answers" if compensate else "answers-without", line_series(lines, words, references=full), caption))
    return drawings


def _token_lines(results: Mapping[str, Any], subtitle: str) -> list[Picture]:
    """One figure for each policy by token that was measured, with its control."""
    from circuitlab.figures import Series, Wording, line_series  # noqa: PLC0415 - plotly

    tokens, drawings = results["tokens"], []
    full = {"full cache": float(_full(results["answers"]).mean())}
    for file, (what, labels) in _BY_TOKEN.items():
        lines = {}
        for name, label in labels.items():
            shares = sorted({one["share"] for one in tokens if one["set"] == name})
            kept = [next(one["kept"] for one in tokens if (one["set"], one["share"]) == (name, share)) for share in shares]
            intervals = [_interval(_token(tokens, name, share)).as_dict() for share in shares]
            lines[label] = Series.of(kept, intervals, control="random" in name)
        if any(line.x for line in lines.values()):
            words = Wording(f"What do answers lose where {what}?", subtitle, **_AXES)
            caption = "Bands: 95 % over needles that chose nothing; of random draws the mean."
            drawings.append(Picture(file, line_series(lines, words, references=full), caption))
    return drawings


def _bars(results: Mapping[str, Any], subtitle: str) -> Picture:
    from circuitlab.figures import Wording, category_bars  # noqa: PLC0415 - plotly

    text, share = results["text"], results["sets"][0]["share"]
    labels = {"razor": "induction and echo", "retrieval": "retrieval", "gates": "gates", "random": "random"}
    groups = {
        name: {
            label: _interval(_full(text) - _values(text, share, which, compensate=compensate)).as_dict() for which, label in labels.items()
        }
        for name, compensate in (("with a compensation token", True), ("without", False))
    }
    words = Wording(f"What does text lose with {share:.0%} of heads in full?", subtitle, y="rise of the loss (nats per token)")
    caption = f"{len(text['full']['logprob'])} passages, every token of which reads the smaller cache; 95 % over passages, paired."
    return Picture("passages", category_bars(groups, words), caption)


def _line(answers: Mapping[str, Any], shares: Sequence[float], name: str, *, compensate: bool) -> Any:
    """A line over the kept share of the cache."""
    from circuitlab.figures import Series  # noqa: PLC0415 - plotly

    sets = ["none" if share == 0 else name for share in shares]
    x = [_kept(answers, share, which, compensate=compensate) for share, which in zip(shares, sets, strict=True)]
    values = [_values(answers, share, which, compensate=compensate) for share, which in zip(shares, sets, strict=True)]
    return Series.of(x, [_interval(value).as_dict() for value in values], control=name.startswith("random"))


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
