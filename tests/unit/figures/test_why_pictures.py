"""Pictures of attention scores by writer, and of the logit lens, as data."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import plotly.io
import pytest

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head, KVHead
from circuitlab.figures import logit_lens_heatmap, query_key_heatmap
from circuitlab.scores.logit_lens import LogitLens
from circuitlab.scores.query_key_attribution import QueryKeyAttribution

EVIL = "<script>alert(1)</script>"
WRITERS = ("embed", "a0.h0", "a0.h1", "m0", "bias")


@pytest.fixture
def why() -> QueryKeyAttribution:
    matrix = np.array([[0.1, 5.0, 0, 0, -0.2], [0, 0, 0.3, 0, 0], [0, 0, 0, 0, 0.1], [-2.0, 0, 0, 1.0, 0], [0, 0, 0, 0, 0.4]])
    place = {"tokens": (EVIL, "b", "c"), "query": 2, "key": 0, "against": None, "writers": WRITERS, "matrix": matrix}
    about = {
        "score": float(matrix.sum()),
        "weight": 0.5,
        "softcap": None,
        "position": 0.0,
        "scales": {"norm at the key": 2.0},
        "model": "m",
    }
    return QueryKeyAttribution(head=Head(1, 0), kv_head=KVHead(1, 0), **place, **about)


def lens_of(site: str, rows: tuple[str, ...], asked: tuple[str, ...] = ()) -> LogitLens:
    shape = (len(rows), 2, 2)
    values = -np.arange(1.0, 1 + np.prod(shape)).reshape(shape) / 4
    tokens = np.full(shape, " x", dtype=object)
    tokens[-1, -1, 0] = EVIL
    mine = np.linspace(-1, 0.5, len(rows) * 2).reshape(len(rows), 2, 1)[..., : len(asked)]
    ranks = np.full((len(rows), 2, len(asked)), 3)
    prompt = ("a", "b\n", "c d")
    about = {"asked": asked, "asked_ids": tuple(range(len(asked))), "values": mine, "ranks": ranks, "model": "m"}
    return LogitLens(site, prompt, (1, 2), rows, tokens, np.zeros(shape, int), values, **about)


def test_strongest_writers_stand_alone_and_all_cells_sum_to_the_score(why) -> None:
    figure = query_key_heatmap(why, k=2)
    cells = np.array(figure.data[0].z)
    assert list(figure.layout.yaxis.ticktext) == ["embed (+4.90)", "m0 (-1.00)", "3 others (+0.80)"]
    assert list(figure.layout.xaxis.ticktext) == ["embed (-1.90)", "a0.h0 (+5.00)", "3 others (+1.60)"]
    np.testing.assert_allclose(cells, [[0.1, 5.0, -0.2], [-2.0, 0, 1.0], [0, 0, 0.8]])
    assert cells.sum() == pytest.approx(why.score)
    assert figure.layout.coloraxis.cmax == 5.0 == -figure.layout.coloraxis.cmin
    assert "score +4.700, attention weight 0.500" in figure.layout.meta["subtitle"]
    whole = query_key_heatmap(why, k=5)
    np.testing.assert_allclose(np.array(whole.data[0].z), why.matrix)
    assert "others" not in str(whole.layout.xaxis.ticktext)
    with pytest.raises(BadParameterError, match="k=0 names no writer"):
        query_key_heatmap(why, k=0)


def test_notes_of_a_score_reach_the_picture_and_markup_does_not(why) -> None:
    capped = dataclasses.replace(why, softcap=50.0, position=-0.25, against="others")
    subtitle = query_key_heatmap(capped).layout.meta["subtitle"]
    assert "softcap of 50" in subtitle and "position bias of -0.250" in subtitle and "norm at the key 2" in subtitle
    assert query_key_heatmap(capped).layout.meta["title"].endswith("against the mean of the other keys")
    assert "<script" not in plotly.io.to_json(query_key_heatmap(why).update_layout(meta=None), engine="json").replace("\\u003c", "<")


def test_a_lens_is_a_map_of_positions_with_the_top_token_written_in() -> None:
    lens = lens_of("stream", ("r0.pre", "r0.post", "r1.post"), ("yes",))
    figure = logit_lens_heatmap(lens)
    drawn = figure.data[0]
    np.testing.assert_allclose(np.array(drawn.z), np.exp(lens.top_values[:, :, 0]), rtol=1e-5)
    assert drawn.text[0][0] == "\u00b7x" and list(figure.layout.xaxis.ticktext) == ["1 b\u21b5", "2 c\u00b7d"]
    assert list(figure.layout.yaxis.ticktext) == list(lens.rows) and figure.layout.yaxis.range == (2.5, -0.5)
    assert figure.layout.coloraxis.cmin == 0 and figure.layout.coloraxis.cmax == 1
    assert "'yes' -1.00, rank 3" in drawn.hovertext[0][0]
    asked = logit_lens_heatmap(lens, "yes")
    np.testing.assert_allclose(np.array(asked.data[0].z), np.exp(lens.values[:, :, 0]), rtol=1e-5)
    assert "'yes'" in asked.layout.meta["subtitle"]
    assert "<script" not in json.dumps(json.loads(plotly.io.to_json(figure, engine="json"))["data"])
    with pytest.raises(UnknownNameError, match="token of this lens 'no'"):
        logit_lens_heatmap(lens, "no")


def test_heads_are_layers_by_heads_at_one_position() -> None:
    lens = lens_of("heads", tuple(f"a{layer}.h{head}" for layer in range(11) for head in range(2)), ("yes",))
    figure = logit_lens_heatmap(lens, "yes", position=1)
    np.testing.assert_allclose(np.array(figure.data[0].z), lens.values[:, 0, 0].reshape(11, 2), rtol=1e-5)
    assert list(figure.layout.yaxis.ticktext) == [f"a{layer}" for layer in range(11)]
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax and "at 1" in figure.layout.meta["title"]
    assert "a10.h1" in figure.data[0].hovertext[10][1]
    last = logit_lens_heatmap(lens)
    np.testing.assert_allclose(np.array(last.data[0].z), lens.top_values[:, 1, 0].reshape(11, 2), rtol=1e-5)
    with pytest.raises(BadParameterError, match="Position 0 was not read"):
        logit_lens_heatmap(lens, position=0)
