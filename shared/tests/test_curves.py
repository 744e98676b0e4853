"""Curves: drawn where the numbers are, inside the frame, whatever was logged."""

import xml.etree.ElementTree as ElementTree

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.show.report import curve_svg, series


def coordinates(svg: str) -> dict[str, list[tuple[float, float]]]:
    """The points of each polyline and polygon, by class."""
    root = ElementTree.fromstring(svg)
    shapes = {}
    for element in root:
        if "points" in element.attrib:
            pairs = [pair.split(",") for pair in element.get("points").split()]
            shapes[element.get("class")] = [(float(x), float(y)) for x, y in pairs]
    return shapes


def test_series_leaves_out_what_is_missing_or_not_finite():
    rows = [{"step": 3, "a": 1}, {"step": 1, "a": 2.5}, {"step": 2}, {"step": 4, "a": None}, {"step": 5}]
    assert series(rows, "a") == [(1, 2.5), (3, 1.0)]
    assert series(rows, "gone") == []


def test_a_straight_line_is_drawn_straight():
    line = coordinates(curve_svg([(step, 2.0 * step) for step in range(11)], "a"))["line"]
    assert len(line) == 11
    slopes = np.diff([y for _, y in line]) / np.diff([x for x, _ in line])
    assert (slopes < 0).all()  # up is less in SVG
    assert np.ptp(slopes) < 0.02


def test_an_exponential_is_straight_on_the_log_scale():
    svg = curve_svg([(step, 10.0 ** (-step / 2)) for step in range(11)], "a")
    assert "log scale" in svg
    slopes = np.diff([y for _, y in coordinates(svg)["line"]])
    assert np.ptp(slopes) < 0.2


def test_a_long_curve_is_its_mean_within_the_band_of_its_extremes():
    values = np.random.default_rng(0).normal(size=5000) + 10
    shapes = coordinates(curve_svg(list(enumerate(values)), "a"))
    assert len(shapes["line"]) == 160
    upper, lower = shapes["band"][:160], shapes["band"][160:][::-1]
    for (x, y), (x_up, y_up), (x_low, y_low) in zip(shapes["line"], upper, lower, strict=True):
        assert x == x_up == x_low
        assert y_up < y < y_low


FINITE = st.floats(-1e30, 1e30, allow_subnormal=False)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**7), FINITE), min_size=1, max_size=400))
def test_any_curve_stays_inside_its_frame(points):
    svg = curve_svg(sorted(points), 'any <name> & "more"')
    assert "nan" not in svg
    assert "inf" not in svg
    for shape in coordinates(svg).values():
        assert all(57 <= x <= 549 and 11 <= y <= 201 for x, y in shape)
    labels = [element.text for element in ElementTree.fromstring(svg) if element.tag == "text"]
    assert 2 <= len(labels) <= 24


def test_nothing_logged_is_said():
    assert "nothing was logged" in curve_svg([], "a")
