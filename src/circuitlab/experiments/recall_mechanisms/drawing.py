"""The figures of the mechanisms of factual recall, from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitlab.experiments.types import Picture

__all__ = ["figures"]


def figures(results: Mapping[str, Any], subtitle: str) -> list[Picture]:
    """Maps of heads and coefficients, intercepts by layer, and the last layers."""
    return [*_maps(results, subtitle), *_layers(results, subtitle)]


def _maps(results: Mapping[str, Any], subtitle: str) -> list[Picture]:
    from circuitlab.figures import Wording, value_map  # noqa: PLC0415 - plotly

    topic, relation = results["chosen"]["topic"], results["chosen"]["relation"]
    shown = {
        "topic": (topic, "Which heads write the topic?", "logits: own country above others"),
        "relation": (relation, "Which heads write by relation?", "logits: capitals above languages, by what is asked"),
    }
    drawn = []
    for name, (about, title, units) in shown.items():
        figure = value_map(about["map"], Wording(title, subtitle, units=units), outlined=about["heads"])
        drawn.append(Picture(name, figure, "Direct logits at the last token, on the countries that choose; the chosen heads are outlined."))
    words = Wording("Which heads do MLPs amplify?", subtitle, units="coefficient in the layer's MLP")
    figure = value_map(results["coefficients"]["map"], words, outlined=topic["heads"])
    caption = "Coefficients of what each head wrote in the regression of its layer's MLP, on held-out countries; topic heads are outlined."
    return [*drawn, Picture("coefficients", figure, caption)]


def _layers(results: Mapping[str, Any], subtitle: str) -> list[Picture]:
    from circuitlab.figures import Series, Wording, category_bars, line_series  # noqa: PLC0415 - plotly

    layers, late = results["decomposition"]["layers"], results["late"]
    at = list(range(len(layers)))
    parts = {"intercept": "intercept", "intercept, language asked": "other_relation", "heads and stream": "linear"}
    lines = {name: Series.of(at, [layer[key] for layer in layers], control=key == "other_relation") for name, key in parts.items()}
    words = Wording("Where do MLPs move from the country to its capital?", subtitle, x="layer", y="logits: capital above country")
    caption = "Parts of every MLP's output, with coefficients and intercepts of other countries. Bands: 95 % over held-out countries."
    drawn = [Picture("intercepts", line_series(lines, words), caption)]
    words = Wording("Where do MLPs write the right capital?", subtitle, x="layer", y="logits: own capital above others")
    rest = {"rest of the MLP's output": Series.of(at, [layer["rest"] for layer in layers])}
    caption = "What heads, stream and intercept leave of every MLP's output. Band: 95 % over held-out countries."
    drawn.append(Picture("rest", line_series(rest, words), caption))
    bars = {f"{each['part']} times {each['factor']:g}": each["change"] for each in late["parts"]}
    earlier = {f"{each['part']} times {each['factor']:g}": each["change"] for each in late["layers"][1:]}
    words = Wording("Do the last layers hold the capital back?", subtitle, y="change of its log-probability, nats")
    groups = {"final layer": bars, **({"best of each earlier layer": earlier} if earlier else {})}
    figure = category_bars(groups, words, controls=["best of each earlier layer"])
    caption = "Log-probability of the true capital with a part scaled down, minus that without. Bars: 95 % over held-out countries."
    drawn.append(Picture("late", figure, caption))
    frequent = {f"layer {each['layer']}": each["correlation"] for each in reversed(results["frequent"]["layers"])}
    words = Wording("Do the last layers write what is frequent?", subtitle, y="correlation with log-frequency")
    caption = "Logits that a layer adds at the last token, against the model's mean prediction on passages. Bars: 95 % over countries."
    return [*drawn, Picture("frequent", category_bars({"layer": frequent}, words), caption)]
