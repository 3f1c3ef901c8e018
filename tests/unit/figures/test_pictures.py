"""Figures as data: centred scales, titles, units, intervals, banners, and no markup from task text."""

from __future__ import annotations

import json

import numpy as np
import plotly.io
import pytest

from circuitlab import figures
from circuitlab.circuits import TopK
from circuitlab.comparison import compare_tasks
from circuitlab.comparison.nulls import overlap_null
from circuitlab.core.errors import BadParameterError, IncompatibleError, UnknownNameError
from circuitlab.scores.head_scores import HeadScores
from circuitlab.testing.fakes import fake_provenance, fake_scores

LAYERS, HEADS = 6, 4


def scores(task: str = "a", *, ready: bool = True, seed: int = 0, mlps: bool = True, n: int = 10) -> HeadScores:
    rng = np.random.default_rng(seed)
    heads = rng.normal(0, 0.05, (n, LAYERS, HEADS))
    heads[:, 2, 1] += 2.0
    heads[:, 4, 3] -= 0.7
    return fake_scores(heads, task=task, mlps=rng.normal(5, 0.1, (n, LAYERS)) if mlps else None, ready=ready)


def by_mark() -> HeadScores:
    rng = np.random.default_rng(1)
    arrays = {"heads": rng.normal(0, 1, (5, 2, LAYERS, HEADS)), "mlps": rng.normal(0, 1, (5, 2, LAYERS))}
    arrays |= {name: np.ones(5) for name in ("total", "clean", "corrupt")}
    return HeadScores.build(arrays, fake_provenance(LAYERS, HEADS), marks=["S2", "END"])


def data(figure) -> dict:
    return json.loads(plotly.io.to_json(figure, engine="json"))


def note(figure, name: str) -> str | None:
    return next((entry.text for entry in figure.layout.annotations if entry.name == name), None)


def table(**ready: bool):
    tasks = {name: scores(name, seed=i, ready=ready.get(name, True)) for i, name in enumerate("abc")}
    return compare_tasks(tasks, TopK(4), n_boot=50)


def every_figure(title: str) -> list:
    one = scores()
    return [
        figures.head_heatmap(one, title=title),
        figures.top_heads(one, title=title),
        figures.mark_heatmap(by_mark(), title=title),
        figures.fitness_table({title: one.provenance.fitness}, title=title),
        figures.overlap_matrix(table(), titles={"a": title}, title=title),
        figures.scatter_methods(one, scores(seed=3), title=title),
    ]


def test_heatmap_centres_colour_on_zero_and_takes_its_range_from_the_heads() -> None:
    figure = figures.head_heatmap(scores())
    axis = figure.layout.coloraxis
    assert axis.cmin == -axis.cmax and axis.cmid == 0
    assert axis.cmax == pytest.approx(np.abs(scores().mean()).max(), rel=1e-4)
    template = figure.layout.template.layout.colorscale.diverging
    assert len(template) % 2 == 1 and template[len(template) // 2][0] == 0.5


def test_heatmap_shows_every_mean_in_its_place_with_interval_and_n_on_hover() -> None:
    found = data(figures.head_heatmap(scores()))["data"][0]
    assert np.allclose(found["z"], scores().mean(), rtol=1e-5)
    entry = scores().nodes()[2 * HEADS + 1]
    hover = found["hovertext"][2][1]
    assert "a2.h1" in hover and f"{entry.mean:+.4g} logits" in hover and f"{entry.low:+.3g} to {entry.high:+.3g}" in hover
    assert "n = 10" in hover


def test_heatmap_axes_units_and_source() -> None:
    figure = figures.head_heatmap(scores())
    assert figure.layout.xaxis.title.text == "head" and figure.layout.yaxis.title.text == "layer"
    assert "logits" in figure.layout.coloraxis.colorbar.title.text
    assert scores().provenance.run_id() in figure.layout.meta["subtitle"]
    assert "10 prompt pairs" in figure.layout.meta["subtitle"]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # layer 0 on top


def test_dots_mark_only_heads_that_differ_from_zero() -> None:
    dots = next(trace for trace in data(figures.head_heatmap(scores()))["data"] if trace["type"] == "scatter")
    assert {(2, 1), (4, 3)} <= set(zip(dots["y"], dots["x"], strict=True))
    assert len(dots["x"]) <= 5
    single = next(trace for trace in data(figures.head_heatmap(scores(n=1)))["data"] if trace["type"] == "scatter")
    assert not single["x"]


def test_mlps_stand_beside_the_heads_with_their_values_written_in() -> None:
    traces = data(figures.head_heatmap(scores()))["data"]
    column = next(trace for trace in traces if trace.get("name") == "MLP")
    assert column["text"][0] == f"{scores().mean('mlps')[0]:+.2f}" or column["text"][0] == [f"{scores().mean('mlps')[0]:+.2f}"]
    assert min(column["x"]) > HEADS - 0.5
    assert not [trace for trace in data(figures.head_heatmap(scores(mlps=False)))["data"] if trace.get("name") == "MLP"]


@pytest.mark.parametrize("draw", [figures.head_heatmap, figures.top_heads])
def test_a_task_at_chance_carries_a_banner_and_a_sound_one_does_not(draw) -> None:
    assert note(draw(scores()), "near-chance") is None
    banner = note(draw(scores(ready=False)), "near-chance")
    assert banner is not None and banner.startswith("not ready:") and "at chance" in banner


def test_banner_title_and_plot_do_not_overlap() -> None:
    quiet, loud = figures.head_heatmap(scores()), figures.head_heatmap(scores(ready=False))
    assert loud.layout.margin.t > quiet.layout.margin.t
    assert loud.layout.height - loud.layout.margin.t == quiet.layout.height - quiet.layout.margin.t


def test_top_heads_are_ranked_coloured_by_sign_and_have_both_arms() -> None:
    figure = figures.top_heads(scores(), k=6)
    order = list(figure.layout.yaxis.categoryarray)[::-1]
    assert order[0] == "a2.h1" and order[-1] == "a4.h3" and len(order) == 6
    helps, hinders = (trace for trace in figure.data if trace.meta != "legend")
    assert helps.marker.color != hinders.marker.color
    assert all(x >= 0 for x in helps.x) and all(x < 0 for x in hinders.x)
    entry = scores().top(1)[0]
    at = list(helps.y).index("a2.h1")
    assert helps.error_x.array[at] == pytest.approx(entry.high - entry.mean, rel=1e-4)
    assert helps.error_x.arrayminus[at] == pytest.approx(entry.mean - entry.low, rel=1e-4)
    assert "logits" in figure.layout.xaxis.title.text


def test_bars_and_dots_follow_one_rule_of_significance() -> None:
    one = scores()
    dots = next(trace for trace in figures.head_heatmap(one).data if trace.type == "scatter")
    dotted = {f"a{layer}.h{head}" for layer, head in zip(dots.y, dots.x, strict=True)}
    figure = figures.top_heads(one, k=LAYERS * HEADS)
    *bars, legend = figure.data
    full = {node for trace in bars for node, opacity in zip(trace.y, trace.marker.opacity, strict=True) if opacity > 0.5}
    assert full == dotted
    alone = {str(entry.node) for entry in one.nodes() if entry.low > 0 or entry.high < 0}
    assert alone > dotted, "the made-up scores must hold a head that only an uncorrected rule would take"
    assert "false discovery rate" in legend.name
    assert [trace.meta for trace in figures.top_heads(one, k=2).data] == [None, None], "nothing is pale, so nothing is explained"


def test_maps_read_side_by_side_share_a_scale() -> None:
    assert figures.head_heatmap(scores(), limit=5.0).layout.coloraxis.cmax == 5.0
    assert figures.mark_heatmap(by_mark(), limit=5.0).layout.coloraxis.cmin == -5.0


def test_marks_share_one_centred_scale() -> None:
    figure = figures.mark_heatmap(by_mark())
    panels = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(panels) == 2 and {trace.coloraxis for trace in panels} == {"coloraxis"}
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
    assert {"S2", "END"} <= {entry.text for entry in figure.layout.annotations}
    flat = figures.mark_heatmap(by_mark(), "mlps")
    assert np.shape(flat.data[0].z) == (LAYERS, 2) and list(flat.layout.xaxis.ticktext) == ["S2", "END"]


def test_overlap_puts_observed_below_and_excess_above_the_diagonal() -> None:
    found = table()
    observed, above = data(figures.overlap_matrix(found))["data"]
    row = found.row("a", "c")
    assert observed["z"][2][0] == pytest.approx(row.jaccard["mean"], rel=1e-4)
    assert above["z"][0][2] == pytest.approx(row.jaccard["mean"] - row.null_mean, rel=1e-4)
    assert observed["z"][0][2] is None and above["z"][2][0] is None
    assert f"{row.jaccard['low']:.2f} to {row.jaccard['high']:.2f}" in observed["text"][2][0]
    assert observed["z"][1][1] == pytest.approx(found.stability["b"]["mean"], rel=1e-4)
    assert "by chance" in observed["hovertext"][2][0]


def test_overlap_marks_tasks_the_model_cannot_do() -> None:
    assert note(figures.overlap_matrix(table()), "near-chance") is None
    figure = figures.overlap_matrix(table(b=False))
    assert [label.endswith("†") for label in figure.layout.yaxis.ticktext] == [False, True, False]
    assert "†" in note(figure, "near-chance")


def test_stars_follow_the_corrected_p_value() -> None:
    from circuitlab.figures.overlap import stars

    assert [stars(q) for q in (0.0004, 0.004, 0.04, 0.4)] == ["***", "**", "*", ""]


def test_fitness_draws_chance_gate_and_both_intervals() -> None:
    flags = {"can": scores().provenance.fitness, "cannot": scores(ready=False).provenance.fitness}
    figure = figures.fitness_table(flags, units="logits")
    traces = {(trace.name, trace.xaxis): trace for trace in figure.data}
    assert list(traces["chance", "x"].x[:2]) == [0.5, 0.5] and list(traces["gate", "x"].x[:2]) == [0.75, 0.75]
    ready, weak = traces["ready", "x"], traces["not ready", "x"]
    assert list(ready.y) == [0] and list(weak.y) == [1]
    assert ready.error_x.array[0] == pytest.approx(0.05) and ready.error_x.arrayminus[0] == pytest.approx(0.1)
    assert traces["ready", "x2"].x[0] == 3.0 and "logits" in figure.layout.xaxis2.title.text
    assert "at chance" in figure.layout.yaxis.ticktext[1]


def test_scatter_counts_shared_heads_beside_chance_and_refuses_other_tasks() -> None:
    same = figures.scatter_methods(scores(), scores(), k=4)
    expected = overlap_null(*[np.isin(np.arange(24), np.argsort(-np.abs(scores().mean().ravel()))[:4]).reshape(LAYERS, HEADS)] * 2)
    chance = (np.arange(expected.probabilities.size) * expected.probabilities).sum()
    assert f"the 4 strongest of each: 4 in both, {chance:.1f} by chance" in same.layout.meta["subtitle"]
    assert "Spearman" not in same.layout.meta["subtitle"]
    assert "a2.h1" in {entry.text for entry in same.layout.annotations if entry.name == "label"}
    with pytest.raises(IncompatibleError, match="not the same heads and task"):
        figures.scatter_methods(scores("a"), scores("b"))


def test_text_of_tasks_never_becomes_markup() -> None:
    for figure in every_figure("<script>alert(1)</script> & <b>x</b>"):
        shown = plotly.io.to_json(figure.update_layout(meta=None), engine="json").replace("\\u003c", "<").replace("\\u003e", ">")
        assert "<script>" not in shown
        assert "&lt;script&gt;" in shown


def test_figures_are_the_same_in_both_themes_but_for_the_template() -> None:
    light, dark = figures.head_heatmap(scores()), figures.head_heatmap(scores(), theme="dark")
    assert figures.themed(light, "dark").to_plotly_json()["layout"]["template"] == dark.to_plotly_json()["layout"]["template"]
    assert data(figures.themed(light, "dark")) == data(dark)
    for figure in every_figure("t"):
        assert figure.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.template.layout.plot_bgcolor == "rgba(0,0,0,0)"


def test_importing_figures_registers_no_template() -> None:
    assert plotly.io.templates.default == "plotly"
    assert not [name for name in plotly.io.templates if "circuitlab" in name]


def test_bad_input_is_named() -> None:
    with pytest.raises(BadParameterError, match="no head axis"):
        figures.head_heatmap(scores(), "mlps")
    with pytest.raises(UnknownNameError, match="kv_heads"):
        figures.head_heatmap(scores(), "kv_heads")
    with pytest.raises(UnknownNameError, match="mark"):
        figures.head_heatmap(by_mark())
    with pytest.raises(BadParameterError, match="all positions"):
        figures.mark_heatmap(scores())
    with pytest.raises(BadParameterError, match="k=0"):
        figures.top_heads(scores(), 0)
    with pytest.raises(BadParameterError, match="no task"):
        figures.fitness_table({})
    with pytest.raises(UnknownNameError, match="theme"):
        figures.template("sepia")
