"""Charts: one style, the same bytes, and one line where matplotlib is missing."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli import main
from harness.core.errors import UserError
from harness.drawing import charts
from harness.drawing.charts import colour, encoded, line, log_scale, need_matplotlib, new_figure, save, styled
from tests.support.runs import environment


@styled
def chart(title="what it shows"):
    figure = new_figure(3, 2, title, "a note")
    axes = figure.subplots()
    axes.plot([-1, 1], [-1, 1], **line(0))
    axes.plot([-1, 1], [1, -1], **line(7))
    return figure


def test_the_same_numbers_give_the_same_bytes_in_both_forms(tmp_path):
    paths = save(chart(), tmp_path / "made" / "a.chart")
    assert [path.name for path in paths] == ["a.chart.svg", "a.chart.png"]
    assert [path.read_bytes() for path in paths] == [encoded(chart(), kind) for kind in ("svg", "png")]
    svg = paths[0].read_text()
    assert "date" not in svg
    assert "\u22121" in svg  # with a true minus
    assert ElementTree.fromstring(svg).find("{http://www.w3.org/2000/svg}title").text == "what it shows"
    with Image.open(paths[1]) as image:
        assert image.size == (480, 320)
        assert image.info["Title"] == "what it shows"
        assert image.getpixel((2, 2))[:3] == (255, 255, 255)
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels == (0, 114, 178)).all(axis=-1).sum() > 100


def test_words_stand_as_they_are():
    svg = encoded(chart("$1 & <2> for 3$"), "svg").decode()
    words = [text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"$1 & <2> for 3$", "a note"} <= {*words}


def test_the_style_is_for_charts_alone_and_no_other_is_for_them():
    plain = encoded(chart(), "svg")
    with matplotlib.rc_context({"lines.marker": "x", "font.weight": "bold", "savefig.bbox": "tight"}):
        before = dict(matplotlib.rcParams)
        assert encoded(chart(), "svg") == plain
        assert dict(matplotlib.rcParams) == before


def test_series_stay_apart():
    looks = [line(series) for series in range(28)]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 28
    assert len({(look["color"], look["marker"]) for look in looks}) == 28
    assert colour(28) == colour(0)


def test_a_dashed_line_has_gaps():
    @styled
    def dashed(series):
        figure = new_figure(3, 2, "")
        figure.subplots().axhline(0, **{**line(series), "color": "#000000", "marker": ""})
        with Image.open(BytesIO(encoded(figure, "png"))) as image:
            dark = np.asarray(image.convert("L")) < 64
        row = dark[dark.sum(axis=1).argmax()]
        return int((row[1:] > row[:-1]).sum())  # how often ink begins

    assert dashed(0) == 1
    assert dashed(7) > 5


@pytest.mark.parametrize(
    ("values", "at", "shown"),
    [
        ([0.1, 2000], (), ["0.1", "1", "10", "100", "1000"]),
        ([3, 40], (), ["5", "10", "20"]),
        ([7, 5000], (7, 30, 5000), ["7", "30", "5000"]),
        ([4, 4], (), ["1", "2", "5", "10"]),
    ],
)  # fmt: skip
def test_logarithmic_scales_have_plain_numbers(values, at, shown):
    @styled
    def labels():
        axes = new_figure(4, 4, "").subplots()
        axes.plot(values, values)
        log_scale(axes, "x", values, at)
        low, high = axes.get_xlim()
        axes.figure.draw_without_rendering()
        ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        return [label.get_text() for tick, label in ticks if low <= tick <= high]

    assert labels() == shown


def test_without_matplotlib_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--png needs matplotlib, which is not installed; pip install 'assigner-zoo"):
        need_matplotlib("--png")
    with pytest.raises(UserError, match="a chart needs matplotlib"):
        chart()
    (tmp_path / "runs").mkdir()
    verbs = "leaderboard --picture", "bench picture", "bench benefit", "insight --png a.png"
    for verb in verbs:
        told = CliRunner().invoke(main, [*verb.split(), "--results", str(tmp_path)])
        assert told.exit_code == 2, told.output
        assert told.output.count("\n") == 1
        assert told.output.endswith("needs matplotlib, which is not installed; pip install 'assigner-zoo[plots]'\n")
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_matplotlib_is_loaded_for_charts_alone():
    code = (
        "import sys, harness.cli, harness.paper.figures, harness.bench.chart, harness.comparison.board_picture\n"
        "import harness.comparison.cost_benefit, harness.analysis.agreement_sheet, harness.report\n"
        "assert 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
