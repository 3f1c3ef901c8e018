"""The figures of the toy memories, from their plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitlab.experiments.types import Picture
from circuitlab.figures import Series, Wording, line_series, value_grid

__all__ = ["drawings"]


def drawings(results: Mapping[str, Any], subtitle: str) -> list[Picture]:
    """Weights of the first seed, losses, retrieval and knees."""
    middle = str(results["heads"][2])
    weights = results["regression"][middle]["first_seed"]
    width = len(weights["ov"][0])
    inputs = [*(f"x{i + 1}" for i in range(width - 1)), "y"]
    figures = []
    order = sorted(range(len(weights["ov"])), key=lambda head: weights["ov"][head][-1])
    for number, which in ((order[-1], "positive"), (order[0], "negative")):
        head = weights["kq"][number]
        words = Wording(
            f"What does head {number + 1} of {middle} match?", subtitle, x="entry of the query", y="entry of the example", units="KQ weight"
        )
        figure = value_grid([row[:-1] for row in head], (inputs, inputs[:-1]), words)
        caption = f"KQ weights of head {number + 1} after training, first seed: the head of the most {which} output."
        figures.append(Picture(f"kq-{which}", figure, caption))
    words = Wording("What do the heads write?", subtitle, x="entry of the example", y="head", units="OV weight")
    written = value_grid(weights["ov"], ([str(i + 1) for i in range(len(weights["ov"]))], inputs), words)
    figures.append(Picture("ov", written, "OV weights after training, first seed: of the target only, of both signs."))
    figures.append(Picture("loss", _losses(results, subtitle), "Mean squared error of the training contexts, mean over seeds."))
    figures += [_retrieval(results["memory"], subtitle), _knees(results["memory"], subtitle)]
    return figures


def _losses(results: Mapping[str, Any], subtitle: str) -> Any:
    runs = results["regression"]
    lines = {}
    for heads in results["heads"]:
        loss = runs[str(heads)]["loss"]
        lines[f"{heads} head{'s' if heads > 1 else ''}"] = Series(loss["steps"], loss["mean"])
    reference = runs[str(results["heads"][1])]["after"]
    floor = {"gradient step": reference["debiased_risk"]["mean"], "ridge": reference["ridge_risk"]["mean"]}
    words = Wording("How well does attention learn regression?", subtitle, x="steps of training", y="mean squared error")
    return line_series(lines, words, references=floor)


def _retrieval(memory: Mapping[str, Any], subtitle: str) -> Picture:
    lines = {}
    for width in memory["random"]["widths"]:
        pairs, curve = memory["random"]["pairs"][str(width)], memory["random"]["curves"][str(width)]
        lines[f"keys of {width}"] = Series([n / width for n in pairs], curve)
    words = Wording("When does a memory forget?", subtitle, x="pairs stored, per dimension of the keys", y="share retrieved")
    figure = line_series(lines, words, references={"half": 0.5}, logarithmic=True)
    caption = "Share of values that are nearest to what their key reads. If capacity is proportional to the width, the curves coincide."
    return Picture("retrieval", figure, caption)


def _knees(memory: Mapping[str, Any], subtitle: str) -> Picture:
    names = {"retrieval": "half are retrieved", "noise": "interference as large as the value", "error_free": "worst case as large"}
    widths = memory["random"]["widths"]
    lines = {name: Series.of(widths, memory["random"]["knees"][key]) for key, name in names.items()}
    lines["half retrieved, keys of 16 dimensions"] = Series.of(widths, memory["same_rank"]["knees"]["retrieval"], control=True)
    words = Wording("How does capacity grow with the width of keys?", subtitle, x="width of the keys", y="pairs at the knee")
    return Picture("knees", line_series(lines, words), "Pairs at the knee. Bands: 95 % over seeds.")
