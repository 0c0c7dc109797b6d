"""Drawings: what they hold, what they escape, and that their labels stay apart."""

import math
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.drawing.svg import Scale, element, length, mark, number
from harness.report import charts
from harness.report.charts import Area, Curve, Estimate, Point, label_places, spread_out
from tests.report.stores import HOSTILE

places = st.floats(0, 500)
PLOT = Area(0, 0, 700, 400)


def drawn(markup):
    """The drawing, read back as XML: what is not well-formed raises."""
    return ElementTree.fromstring(markup)


def texts(markup):
    return [node.text for node in drawn(markup).iter() if node.text]


# ---- pieces ---------------------------------------------------------------------------------------------------------


def test_everything_from_data_is_escaped():
    made = element("text", HOSTILE, data_entry=HOSTILE, class_="x", stroke_width=1.50)
    assert drawn(made).text == HOSTILE
    assert drawn(made).attrib == {"data-entry": HOSTILE, "class": "x", "stroke-width": "1.5"}
    assert "<script" not in made
    assert "<img" not in made


@pytest.mark.parametrize(
    ("value", "digits", "words"),
    [
        (-1.25, 1, "\u22121.2"),
        (-0.01, 1, "0.0"),
        (0.0, 1, "0.0"),
        (1200.0, 0, "1200"),
        (0.25, None, "0.25"),
        (40.0, None, "40"),
    ],
)
def test_numbers_have_a_true_minus_and_no_negative_nought(value, digits, words):
    assert number(value, digits) == words


@given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e3), st.integers(2, 6))
def test_ticks_lie_within_the_scale_and_are_about_as_many_as_wanted(low, span, wanted):
    scale = Scale(low, low + span, 0, 100)
    ticks = scale.ticks(wanted)
    assert all(low - 1e-6 * span <= tick <= low + 1.000001 * span for tick in ticks)
    assert ticks == sorted(ticks)
    assert wanted / 2 - 1 <= len(ticks) <= 2 * wanted + 1


def test_a_logarithmic_scale_puts_factors_at_equal_distances():
    scale = Scale(0.1, 10, 0, 100, log=True)
    assert [round(scale(value), 6) for value in (0.1, 1, 10)] == [0, 50, 100]
    assert scale.ticks() == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10])
    assert len(Scale(0.31, 0.37, 0, 100, log=True).ticks()) > 1


def test_28_series_differ_in_mark():
    assert len({str(mark(series, 0, 0)) for series in range(28)}) == 28


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_a_whisker_too_wide_is_cut_with_an_arrow_head_and_the_means_stay_apart():
    near, wide = Estimate(40.0, 39.0, 41.0, (40.0,)), Estimate(42.0, 0.0, 84.0, (41.0, 43.0))
    scale = charts.cell_scale([near, wide])
    assert scale(42.0) - scale(40.0) > 20
    assert "L" in drawn(charts.interval(wide, scale, 0, "wide")).findall("path")[0].attrib["d"]
    assert "L" not in drawn(charts.interval(near, scale, 0, "near")).findall("path")[0].attrib["d"]


def test_a_single_seed_is_hollow_and_without_whisker():
    scale = charts.cell_scale([Estimate(40.0, None, None, (40.0,))])
    made = drawn(charts.interval(Estimate(40.0, None, None, (40.0,)), scale, 0, "one"))
    assert not made.findall("path")
    assert "hollow" in next(node for node in made.iter() if "mark" in node.attrib.get("class", "")).attrib["class"]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_every_seed_is_on_the_scale(values):
    mean = math.fsum(values) / len(values)
    scale = charts.cell_scale([Estimate(mean, None, None, tuple(values))])
    assert all(-1e-6 <= scale(value) <= charts.CELL_WIDTH for value in (mean, *values))


# ---- labels ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(places, st.floats(0, 400)), min_size=1, max_size=14))
def test_labels_of_points_overlap_nothing_and_stay_in_the_plot(points):
    names = [f"assigner_{index}" for index in range(len(points))]
    found = label_places(names, points, PLOT)
    for index, area in enumerate(found):
        assert not any(area.overlap(other) > 0 for other in found[:index])
        assert PLOT.left <= area.left
        assert area.right <= PLOT.right
        assert PLOT.top <= area.top
        assert area.bottom <= PLOT.bottom
        assert area.right - area.left >= length(names[index])
        assert not any(area.overlap(Area(x - 7, y - 7, x + 7, y + 7)) > 0 for x, y in points)


@given(st.lists(places, max_size=20), st.floats(1, 20))
def test_spread_out_keeps_order_and_gap_and_leaves_alone_what_is_apart(wanted, gap):
    found = spread_out(wanted, gap, 0, 500)
    ordered = [place for _, place in sorted(zip(wanted, found, strict=True))]
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(ordered))
    if gap * len(wanted) <= 500:
        assert all(-1e-6 <= place <= 500 + 1e-6 for place in found)
    if all(b - a > gap for a, b in pairwise(sorted(wanted))):
        assert found == pytest.approx(wanted)


# ---- whole charts ---------------------------------------------------------------------------------------------------


def test_scatter_names_every_point_and_joins_the_frontier_alone():
    points = [
        Point("cheap", 0, 100, 90, 110, Estimate(40.0)),
        Point("worse", 1, 150, 150, 150, Estimate(39.0)),
        Point("best", 2, 200, 190, 230, Estimate(50.0, 45.0, 55.0, (49.0, 51.0))),
    ]
    made = charts.scatter(points, "ms", "AP")
    assert {"cheap", "worse", "best"} <= set(texts(made))
    (path,) = [node.attrib["d"] for node in drawn(made).iter("path") if node.attrib["class"] == "frontier"]
    assert path.count("V") == 1  # one step: from `cheap` to `best`


def test_scatter_of_equal_points_is_drawn():
    same = [Point(name, 0, 5, 5, 5, Estimate(0.0)) for name in "ab"]
    assert {"a", "b"} <= set(texts(charts.scatter(same, "ms", "AP")))


def test_curves_leave_out_what_a_scale_cannot_hold():
    lines = [
        Curve("a", 0, [1, 2, 3], [1.0, None, 0.1]),
        Curve("b", 1, [1, 2], [0.0, math.inf]),
        Curve(HOSTILE, 2, [1, 2], [0.5, 0.5]),
    ]
    made = charts.curves(lines, "loss", log=True)
    shown = {node.attrib["data-entry"] for node in drawn(made).iter() if "data-entry" in node.attrib}
    assert shown == {"a", HOSTILE}


def test_curves_without_a_value_raise():
    with pytest.raises(ValueError, match="nothing to draw"):
        charts.curves([Curve("a", 0, [1], [None])], "loss", log=False)


def test_long_names_stay_within_the_drawing_and_their_whole_in_the_tooltip():
    names = [f"assigner[{'an_option' * 9}={end}]" for end in (1, 2)]
    lines = [Curve(name, place, [1, 2], [1.0, 0.5]) for place, name in enumerate(names)]
    points = [Point(name, place, 5 + place, 5, 9, Estimate(40.0)) for place, name in enumerate(names)]
    for made in (charts.curves(lines, "loss", log=True), charts.scatter(points, "ms", "AP")):
        width = float(drawn(made).attrib["width"])
        labels = [node for node in drawn(made).iter("text") if node.attrib["class"] == "label"]
        assert len({node.text for node in labels}) == 2
        assert all(float(node.attrib["x"]) + length(node.text) <= width for node in labels)
        assert all(any(name in text for text in texts(made)) for name in names)
