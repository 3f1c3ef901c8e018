"""Verdicts on what was published of factual recall, from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitlab.experiments.types import Claim, interval_words, judged

__all__ = ["verdicts"]


def verdicts(published: Sequence[Claim], results: Mapping[str, Any]) -> tuple[Claim, ...]:
    """One for each claim, in order."""
    heads, late = results["heads"], results["late"]
    names = {kind: ", ".join(results["chosen"][kind]["heads"]) for kind in ("topic", "relation")}
    return (
        _topic(published[0], heads, names["topic"]),
        _beyond(published[1], heads["lost"], f"without {names['topic']} the capital loses {{}} logits over the other capitals"),
        _beyond(published[2], heads["writes_relation"], f"{names['relation']} together write {{}} logits of capitals by relation"),
        _coefficients(published[3], results),
        _intercept(published[4], results["decomposition"]),
        _scaled(published[5], late),
        _frequent(published[6], results["frequent"]["layers"]),
    )


def _above(interval: Mapping[str, Any]) -> bool:
    return interval["low"] is not None and interval["low"] > 0


def _range(values: Sequence[float]) -> str:
    return f"{len(values)} random sets {min(values):+.2f} to {max(values):+.2f}"


def _more(about: Mapping[str, Any]) -> bool:
    return bool(about["chosen"]["mean"] > max(about["random"]))


def _beyond(claim: Claim, about: Mapping[str, Any], words: str) -> Claim:
    here = f"{words.format(interval_words(about['chosen']))}; {_range(about['random'])}"
    return judged(claim, here, holds=_above(about["chosen"]) and _more(about), partly=_above(about["chosen"]))


def _topic(claim: Claim, heads: Mapping[str, Any], names: str) -> Claim:
    writes, attends = heads["writes_topic"], heads["attends"]
    here = (
        f"{names} together write the country by {interval_words(writes['chosen'])} logits above other countries "
        f"({_range(writes['random'])}) and give its token a mean weight of {interval_words(attends['chosen'])} "
        f"({_range(attends['random'])})"
    )
    return judged(claim, here, holds=_above(writes["chosen"]) and _more(writes) and _more(attends), partly=_above(writes["chosen"]))


def _coefficients(claim: Claim, results: Mapping[str, Any]) -> Claim:
    about, layers = results["coefficients"], results["decomposition"]["layers"]
    explained = [layers[int(name[1:].split(".")[0])]["explained"] for name in about["own"]]
    own = ", ".join(f"{name} {value:+.2f}" for name, value in about["own"].items())
    here = (
        f"coefficients {own}; above the other heads of their layers by {interval_words(about['chosen'])}; {_range(about['random'])}; "
        f"fitted on other countries, the regression explains {min(explained):.0%} to {max(explained):.0%} of these MLPs' variance"
    )
    counts = min(explained) > 0 and sum(about["own"].values()) > 0 and _above(about["chosen"])
    return judged(claim, here, holds=counts and _more(about), partly=counts)


def _intercept(claim: Claim, about: Mapping[str, Any]) -> Claim:
    layer = about["layers"][about["layer"]]
    here = (
        f"the intercept of m{about['layer']} writes {interval_words(layer['intercept'])} logits of the capital above the country; "
        f"{interval_words(layer['other_relation'])} where the language is asked for; paired difference "
        f"{interval_words(layer['difference'])}; what is left of its output writes the own capital above the others by "
        f"{interval_words(layer['rest'])}"
    )
    return judged(claim, here, holds=_above(layer["intercept"]) and _above(layer["difference"]), partly=_above(layer["intercept"]))


def _scaled(claim: Claim, late: Mapping[str, Any]) -> Claim:
    final, *before = late["layers"]
    others = ", ".join(f"{each['part']} times {each['factor']:g}: {interval_words(each['change'])}" for each in before)
    here = (
        f"{final['part']} times {final['factor']:g}: {interval_words(final['change'])} nats from {late['before']['mean']:.2f}; earlier "
        f"layers: {others or 'there are none'}; the loss of natural text changes by {interval_words(late['cost'])} nats"
    )
    more = all(final["change"]["mean"] > each["change"]["mean"] for each in before)
    return judged(claim, here, holds=_above(final["change"]) and more, partly=_above(final["change"]))


def _frequent(claim: Claim, layers: Sequence[Mapping[str, Any]]) -> Claim:
    final, *before = layers
    others = ", ".join(f"layer {each['layer']} {each['correlation']['mean']:.2f}" for each in before)
    here = f"correlation {interval_words(final['correlation'])} in layer {final['layer']}; {others or 'no earlier layer'}"
    above = _above(final["correlation"])
    return judged(claim, here, holds=above and all(_above(each["difference"]) for each in before), partly=above)
