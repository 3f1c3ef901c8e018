"""Pages of one figure: no network, scripts that cannot be broken out of, theme by media query."""

from __future__ import annotations

import json
import re

import plotly.graph_objects as go

from circuitlab.figures.frame import Frame, finish
from circuitlab.figures.page import figure_json, figure_page, inline_json, inline_script, plot_block, plot_script


def picture(title: str = "A title") -> go.Figure:
    return finish(go.Figure(go.Bar(x=[1.0], y=["</script><b>"])), Frame(title, "Where from", 300, 200), "light")


def test_page_loads_only_the_plotly_beside_it() -> None:
    page = figure_page(picture(), "p")
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["plotly.min.js"]
    assert "prefers-color-scheme" in page


def test_inlined_data_cannot_end_its_script() -> None:
    page = figure_page(picture("</script><img src=x onerror=alert(1)>"), "p")
    assert "</script><" not in page.replace("</script>\n", "\n").replace("</script><script", "")
    assert "<img" not in page
    assert json.loads(inline_json({"a": "</script>"})) == {"a": "</script>"}
    assert "</script" not in inline_json({"a": "</script>"})
    assert inline_script('x = "</script>"').count("</script") == 1


def test_title_is_left_out_where_the_page_prints_it() -> None:
    full, bare = (
        json.loads(re.search(r'application/json" id="data-p">(.*?)</script>', plot_block(picture(), "p", titled=titled), re.S)[1])
        for titled in (True, False)
    )
    assert [note["name"] for note in full["layout"]["annotations"]] == ["title", "subtitle"]
    assert bare["layout"]["annotations"] == []
    saved = full["layout"]["height"] - bare["layout"]["height"]
    assert saved == full["layout"]["margin"]["t"] - bare["layout"]["margin"]["t"] > 20
    assert "template" not in bare["layout"] and "width" not in bare["layout"]


def test_figure_json_is_a_whole_figure() -> None:
    again = go.Figure(json.loads(figure_json(picture())))
    assert again.layout.template.layout.font.family
    assert figure_json(picture()) == figure_json(picture())


def test_buttons_have_a_band_of_their_own_above_everything() -> None:
    figure = picture()
    plain = json.loads(re.search(r'application/json" id="data-p">(.*?)</script>', plot_block(figure, "p", titled=True), re.S)[1])
    assert plain["layout"]["margin"]["t"] == figure.layout.margin.t + 28 and plain["layout"]["height"] == figure.layout.height + 28
    assert figure.layout.template.layout.modebar.orientation == "h", "two buttons beside each other fit the band"


def test_a_plot_that_scrolls_says_so() -> None:
    block = plot_block(picture(), "p", titled=False)
    hint, wide = block.index('<p class="cl-hint" hidden>'), block.index('<div class="cl-wide">')
    assert hint < wide < block.index('id="plot-p"')
    assert "scrollWidth" in plot_script() and "previousElementSibling.hidden" in plot_script()
