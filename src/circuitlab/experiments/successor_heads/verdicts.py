"""Verdicts on what was published of successor heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from circuitlab.experiments.types import Claim, interval_words, judged

__all__ = ["verdicts"]

_HALF, _LEVEL, _TWICE = 0.5, 0.05, 2.0
_OF_THE_HEAD = {2, 5, 6, 7, 8}
"""Claims that presuppose a successor head; the others are about scores, or about what the first MLP writes."""


def verdicts(published: Sequence[Claim], results: Mapping[str, Any]) -> tuple[Claim, ...]:
    """Every claim with what was measured, in the order of `SuccessorHeads.published`."""
    scores, features, text = results["scores"], results["features"], results["text"]
    claims = (
        _score(published[0], scores),
        _lead(published[1], scores),
        _bias(published[2], results["bias"]),
        _spaces(published[3], features["spaces"]),
        _probe(published[4], features["probe"]),
        _saes(published[5], features["saes"]),
        _arithmetic(published[6], features["arithmetic"]),
        _counted(published[7], text),
        _natural(published[8], text),
    )
    if scores["score"] > _HALF:
        return claims
    return tuple(_unasked(claim, scores) if number in _OF_THE_HEAD else claim for number, claim in enumerate(claims))


def _unasked(claim: Claim, scores: Mapping[str, Any]) -> Claim:
    """What was measured of the best head, without a verdict: it is no successor head."""
    here = f"no head is a successor head; of {scores['head']}, the best: {claim.here}"
    return msgspec.structs.replace(claim, here=here, verdict="cannot be asked")


def _above(interval: Mapping[str, Any] | None, limit: float) -> bool:
    return interval is not None and interval["low"] is not None and interval["low"] > limit


def _score(claim: Claim, scores: Mapping[str, Any]) -> Claim:
    beyond = scores["q"] is not None and scores["q"] < _LEVEL
    here = (
        f"{scores['head']} scores {scores['score']:.2f} over {scores['pairs']['pooled']} pairs (chance {scores['chance']['pooled']:.2f}, "
        f"q {scores['q']:.5f}); {interval_words(scores['items'])} of items in one spelling; {scores['above_half']} heads are above 0.5"
    )
    return judged(claim, here, holds=beyond and scores["score"] > _HALF, partly=beyond)


def _lead(claim: Claim, scores: Mapping[str, Any]) -> Claim:
    here = (
        f"{scores['head']} {scores['score']:.2f}, runner-up {scores['second']} {scores['second_score']:.2f}; right for "
        f"{interval_words(scores['lead'])} more of the items in one spelling"
    )
    holds = scores["score"] > 0 and scores["score"] >= _TWICE * scores["second_score"]
    return judged(claim, here, holds=holds, partly=_above(scores["lead"], 0.0))


def _bias(claim: Claim, bias: Mapping[str, Any]) -> Claim:
    if not bias["lists"]:
        return judged(claim, "no list has enough single tokens in a row", holds=False)
    above, controls = _above(bias["bias"], 0.0), bias["random"]
    here = (
        f"later minus earlier targets {interval_words(bias['bias'])} of the matrix's spread over {bias['sources']} sources; "
        f"{len(controls)} random heads of its layer: {min(controls):+.2f} to {max(controls):+.2f}"
    )
    return judged(claim, here, holds=above and bias["bias"]["mean"] > max(controls), partly=above)


def _spaces(claim: Claim, spaces: Mapping[str, Any]) -> Claim:
    if spaces["right"] is None:
        return judged(claim, "no two lists have an index in common", holds=False)
    here = (
        f"{interval_words(spaces['right'])} of {spaces['cells']} held-out items; with indices dealt out anew {spaces['permuted']:.2f}; "
        f"any item of the right list {spaces['chance']:.2f}"
    )
    return judged(claim, here, holds=_above(spaces["right"], _HALF), partly=_above(spaces["right"], spaces["permuted"]))


def _probe(claim: Claim, probe: Mapping[str, Any]) -> Claim:
    here = (
        f"{interval_words(probe['right'])} of {probe['items']} items (commonest residue {probe['commonest']:.2f}, probe of dealt-out "
        f"residues {probe['permuted']:.2f}); {probe['on_training']:.2f} of the {probe['trained_on']} numbers that it was trained on"
    )
    return judged(claim, here, holds=_above(probe["right"], _HALF), partly=_above(probe["right"], probe["commonest"]))


def _saes(claim: Claim, saes: Mapping[str, Any]) -> Claim:
    beyond = _above(saes["excess"], 0.0)
    here = (
        f"{interval_words(saes['modal'])} of a residue's items over {saes['saes']} autoencoders, with residues dealt out anew "
        f"{saes['permuted']:.2f} (difference {interval_words(saes['excess'])}); cosine with the probe's row {saes['cosine'] or 0.0:.2f}"
    )
    return judged(claim, here, holds=beyond and saes["modal"]["mean"] > _HALF, partly=beyond)


def _arithmetic(claim: Claim, arithmetic: Mapping[str, Any]) -> Claim:
    held = {name: _above(one["right"], max(one["chance"], one["permuted"])) for name, one in arithmetic.items()}
    parts = [
        f"{name.replace('_', ' ')} {interval_words(one['right'])} (chance {one['chance']:.2f}, dealt-out residues {one['permuted']:.2f})"
        for name, one in arithmetic.items()
    ]
    return judged(claim, "; ".join(parts) or "no list", holds=held.get("months", False), partly=held.get("number_words", False))


def _counted(claim: Claim, text: Mapping[str, Any]) -> Claim:
    kinds = [name for name in ("digits", "number words") if name in text]
    if "digits" not in text:
        return judged(claim, "no numbered list could be written with single tokens", holds=False)
    parts = [f"{name}: {text[name]['won']} of {text[name]['positions']}, {interval_words(text[name]['wins'])}" for name in kinds]
    digits = text["digits"]
    beyond = digits["wins"]["mean"] > max(digits["random_wins"])
    here = f"{'; '.join(parts)}; random heads with digits at most {max(digits['random_wins']):.2f}"
    return judged(
        claim, here, holds=beyond and _above(digits["wins"], _HALF), partly=beyond and _above(digits["wins"], 1 / digits["heads"])
    )


def _natural(claim: Claim, text: Mapping[str, Any]) -> Claim:
    if "passages" not in text:
        return judged(claim, "no passage goes on with a list", holds=False)
    about = text["passages"]
    controls, above = about["random_differences"], _above(about["difference"], 0.0)
    here = (
        f"{about['positions']} positions in {about['rows']} passages: {interval_words(about['difference'])} logits more than elsewhere; "
        f"random heads {min(controls):+.2f} to {max(controls):+.2f}; it wins {about['wins']['mean']:.1%} of them and "
        f"{about['elsewhere']:.1%} of other positions"
    )
    return judged(claim, here, holds=above and about["difference"]["mean"] > max(controls), partly=above)
