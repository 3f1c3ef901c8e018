"""Names of points stay apart, inside the plot and off the points, at every width a page may draw."""

from __future__ import annotations

import itertools

import numpy as np
import plotly.graph_objects as go
import pytest

from circuitlab import figures
from circuitlab.figures.labels import Canvas, name_points
from circuitlab.testing.fakes import fake_scores


def boxes(figure: go.Figure, canvas: Canvas, width: float) -> dict[str, tuple[float, float, float, float]]:
    """Where each name stands, in pixels; a letter of size 11 takes about six."""
    found = {}
    for note in figure.layout.annotations:
        if note.name == "label":
            x = (note.x - canvas.x[0]) / (canvas.x[1] - canvas.x[0]) * width + note.ax
            y = (canvas.y[1] - note.y) / (canvas.y[1] - canvas.y[0]) * canvas.height + note.ay
            found[note.text] = (x - 3 * len(note.text), x + 3 * len(note.text), y - 7, y + 7)
    return found


def meet(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    return one[0] < two[1] and two[0] < one[1] and one[2] < two[3] and two[2] < one[3]


@pytest.mark.parametrize("spread", [1.0, 0.05])
def test_names_keep_apart_at_every_width(spread: float) -> None:
    at = np.random.default_rng(0).normal(0.5, 0.15 * spread, (9, 2))
    canvas, figure = Canvas((0.0, 1.0), (0.0, 1.0), (340.0, 400.0, 460.0), 400.0), go.Figure()
    names = [f"a{i}.h{i + 3}" for i in range(9)]
    assert name_points(figure, names, at, at, canvas) == []
    for width in np.linspace(340, 460, 13):
        found = boxes(figure, canvas, float(width))
        assert set(found) == set(names)
        assert all(box[0] >= 0 and box[1] <= width and box[2] >= 0 and box[3] <= 400 for box in found.values())
        assert not [pair for pair in itertools.combinations(found, 2) if meet(found[pair[0]], found[pair[1]])], width


def test_names_stand_off_the_points_where_there_is_room() -> None:
    at = np.array([[0.5, 0.5], [0.56, 0.5], [0.5, 0.55]])
    canvas, figure = Canvas((0.0, 1.0), (0.0, 1.0), (400.0,), 400.0), go.Figure()
    name_points(figure, ["a1.h1", "a2.h2", "a3.h3"], at, at, canvas)
    for low, high, top, bottom in boxes(figure, canvas, 400.0).values():
        assert not [(x, y) for x, y in at * 400 if low < x < high and top < 400 - y < bottom]


def test_a_name_without_room_is_left_to_hovering() -> None:
    at = np.full((6, 2), 0.5)
    assert name_points(go.Figure(), ["a name as long as this"] * 6, at, at, Canvas((0.0, 1.0), (0.0, 1.0), (150.0,), 40.0)) != []


def test_names_of_the_scatter_of_two_methods_keep_apart() -> None:
    heads = np.random.default_rng(1).normal(0, 0.05, (8, 6, 4))
    heads[:, 3:5] += np.linspace(0.9, 1.0, 8).reshape(2, 4)  # eight heads in a small corner
    one, two = fake_scores(heads), fake_scores(heads + 0.01)
    figure = figures.scatter_methods(one, two)
    canvas = Canvas(tuple(figure.layout.xaxis.range), tuple(figure.layout.yaxis.range), (460.0,), 400.0)
    found = boxes(figure, canvas, 460.0)
    assert len(found) == 8 and not [pair for pair in itertools.combinations(found.values(), 2) if meet(*pair)]
