"""`harness bench benefit`: AP against cost."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from harness.bench.batches import Measurement
from harness.bench.measurements import to_line, write_lines
from harness.cli import main
from harness.comparison.board import boards
from harness.comparison.cost_benefit import Benefit, benefits, draw, front
from harness.comparison.intervals import mean_interval
from harness.drawing.charts import encoded
from harness.protocol.protocol import load_protocol
from harness.records.store import ResultsStore
from tests.support.fakes import make_record

ENVIRONMENT = {"device": "a processor", "torch": "2", "threads": 1, "commit": "abc"}


def cost(assigner, ms=10.0, mib=4.0, boxes=100, passes="forward"):
    row = Measurement(assigner, 2, boxes, 80, "800x1344", passes, ms, None, None, mib, None, 3, 0, "")
    return to_line(row, ENVIRONMENT)


def runs(**aps):
    protocol = load_protocol("tiny")
    return [
        make_record(protocol, assigner=name, seed=seed, ap=ap) for name, values in aps.items()
        for seed, ap in enumerate(values)
    ]  # fmt: skip


def point(name, ap, ms):
    return Benefit(name, mean_interval([ap]), ms, 1.0, trains=False)


def test_assigners_with_runs_and_costs_best_first():
    (board,) = boards(runs(center=(30.0, 32.0), atss=(40.0,), paa=(50.0,), tal=(None,)), {})
    lines = [cost("center"), cost("atss", ms=20.0, passes="forward+backward"), cost("paa", boxes=7), cost("tal")]
    atss, center = benefits(board, lines)
    assert (atss.name, atss.ms, atss.trains, atss.ap.mean, atss.ap.low) == ("atss", 20.0, True, 40.0, None)
    assert (center.name, center.mib, center.trains, center.ap.n) == ("center", 4.0, False, 2)


def test_the_front_holds_what_nothing_cheaper_reaches():
    points = [point("d", 45, 4), point("a", 40, 1), point("b", 38, 2), point("c", 45, 3), point("e", 46, 5)]
    assert [p.name for p in front(points, lambda p: p.ms)] == ["a", "c", "e"]


def test_equal_costs_and_single_points_are_drawn():
    for points in ([point("center", 40, 1)], [point("center", 40, 1), point("atss", 40, 1)]):
        figure = draw(points, "of what", "where")
        svg = encoded(figure, "svg").decode()
        assert all(svg.count(f">{p.name}  40.0</text>") == 2 for p in points)
        assert encoded(figure, "png").startswith(b"\x89PNG")


@pytest.fixture
def results(tmp_path):
    store = ResultsStore(tmp_path)
    for record in runs(center=(30.0, 32.0), atss=(40.0,)):
        store.save(record)
    (tmp_path / "bench").mkdir()
    return tmp_path


def call(*words):
    return CliRunner().invoke(main, ["bench", "benefit", *map(str, words)])


def test_the_verb(results):
    write_lines(results / "bench" / "assigners.csv", [cost("center"), cost("atss")])
    told = call("--results", results)
    assert told.exit_code == 0, told.output
    assert "AP on memory under tiny, 1-2 seeds" in (results / "bench" / "benefit.svg").read_text()
    assert (results / "bench" / "benefit.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("words", [["--protocol", "paper"], ["--data", "coco"], ["--size", "64x64"]])
def test_nothing_to_draw_is_told(results, words):
    write_lines(results / "bench" / "assigners.csv", [cost("center")])
    told = call("--results", results, *words)
    assert told.exit_code == 2
    assert "harness sweep" in told.output
    assert not (results / "bench" / "benefit.svg").exists()
