"""Lines over a setting: what the axes say."""

from __future__ import annotations

from circuitlab.figures import Series, Wording, line_series


def test_a_logarithmic_axis_names_every_setting() -> None:
    figure = line_series({"rate": Series([0.02, 0.1, 0.5], [0.1, 0.2, 0.3])}, Wording("Rate"), logarithmic=True)
    assert list(figure.layout.xaxis.ticktext) == ["0.02", "0.1", "0.5"]
    assert list(figure.layout.xaxis.tickvals) == [0.02, 0.1, 0.5]
