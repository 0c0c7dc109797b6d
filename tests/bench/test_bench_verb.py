"""`harness bench`: what is measured, how it is written down, and what is said where something cannot be measured."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from assigners import HeadInfo, create
from assigners.contract import Assigner
from assigners.ops.boxes import aligned_iou, ltrb
from assigners.registry import AssignerSpec
from harness.bench import batches as module
from harness.bench.batches import BOXES, CLASSES, IMAGES, Bench, Cell, Limits, Measurement, assigner_call, choose_cells
from harness.bench.chart import draw, series
from harness.bench.dense.rules import RULES
from harness.bench.markdown import summary
from harness.bench.measure import in_turns, peak_bytes
from harness.bench.measurements import columns, merge, read_lines, to_line, write_lines
from harness.bench.scene import STEP, make_scene
from harness.bench.step import StepRequest, measure_share
from harness.cli import main
from harness.core.errors import UserError
from harness.drawing import charts
from harness.drawing.charts import encoded
from tests.support.runs import small_protocol

CPU, SIZE = torch.device("cpu"), (64, 96)
TINY = ["--size", "64x96", "--boxes", "3", "--classes", "2"]
ENVIRONMENT = {"device": "a processor", "torch": "2", "threads": 1, "commit": "abc"}
CELL = Cell(boxes=3, images=2, classes=2)


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def subject(name, **options):
    return AssignerSpec(name, options, {})


def bench(rules=None, **limits):
    return Bench(rules or {}, CPU, Limits(**{"seconds": 0.0, **limits}), SIZE)


def measured(made, name, cell=CELL):
    return made.row(cell, made.scene(cell), subject(name))


def row(assigner="atss", boxes=30, images=2, classes=80, ms=10.0, ratio=2.0, mib=4.0):
    dense = None if ratio is None else ratio * ms
    return Measurement(assigner, images, boxes, classes, "800x1344", "forward", ms, dense, ratio, mib, 50.0, 3, 1, "")


# --- what is measured --------------------------------------------------------------------------------------------


def test_one_axis_at_a_time():
    found = choose_cells(None, None, None)
    assert len(found) == len(BOXES) + len(IMAGES) + len(CLASSES) - 2
    assert {cell.boxes for cell in found if (cell.images, cell.classes) == (2, 80)} == {7, 30, 100, 500}
    assert Cell(5000, 1, 80) in found  # a crowd comes in one image
    assert {cell.images for cell in found if (cell.boxes, cell.classes) == (30, 80)} == set(IMAGES)
    assert {cell.classes for cell in found if (cell.boxes, cell.images) == (30, 2)} == set(CLASSES)


def test_all_combinations_of_what_is_given():
    assert choose_cells((7, 9), (1, 3), None) == [Cell(7, 1, 80), Cell(7, 3, 80), Cell(9, 1, 80), Cell(9, 3, 80)]


def test_a_scene_is_the_same_every_time_and_its_detector_has_learnt_something():
    a, b = (make_scene(2, 9, 4, size=(256, 320), channels=3) for _ in range(2))
    assert torch.equal(a.targets.boxes, b.targets.boxes)
    assert torch.equal(a.predictions.logits, b.predictions.logits)
    assert torch.equal(a.predictions.features[4], b.predictions.features[4])
    assert a.targets.counts == (9, 9)
    assert a.head == HeadInfo(4, 3)
    boxes = a.targets.boxes[a.targets.image == 0]
    inside = ltrb(a.grid.points[:, None], boxes).amin(dim=-1) > 0
    best = torch.where(inside, aligned_iou(a.predictions.boxes[0][:, None], boxes), 0).amax(dim=1)
    assert 0.4 < float(best[inside.any(dim=1)].mean()) < 0.8
    assert (a.predictions.distances > 0).all()


def test_every_image_of_a_scene_is_as_much_work():
    """Or the cost per image of large batches is that of other boxes."""
    targets = make_scene(5, 9, 4, size=(256, 320), channels=1).targets
    sides = (targets.boxes[:, 2:] - targets.boxes[:, :2]).view(5, 9, 2)
    torch.testing.assert_close(sides, sides[:1].expand_as(sides), rtol=0, atol=1e-4)
    first = targets.boxes.view(5, 9, 4)
    assert torch.equal(first[4], first[0])
    assert all(not torch.equal(first[k], first[0]) for k in (1, 2, 3))
    assert torch.allclose(first[3], torch.tensor([320, 256, 320, 256]) - first[0][:, [2, 3, 0, 1]])


def test_peak_memory_counts_what_lives_at_once():
    def temporaries():
        first = torch.ones(1000, 250)
        second = first * 2
        del first
        return second + 1

    assert peak_bytes(temporaries, CPU) == pytest.approx(2_000_000, abs=100)
    assert peak_bytes(lambda: torch.ones(1000, 1000).sum(), CPU) == pytest.approx(4_000_000, abs=100)
    leaf = torch.ones(1000, 250, requires_grad=True)
    assert peak_bytes(lambda: torch.autograd.grad((leaf.exp() * 2).sum(), leaf), CPU) >= 2_000_000


def test_both_are_called_in_turns():
    order = []
    first, second = in_turns(lambda: order.append("a"), lambda: order.append("b"), 0.0, CPU, least=2)
    assert "".join(order) == "aaab" * 2
    assert (first.calls, second.calls) == (6, 2)
    alone, nobody = in_turns(lambda: order.append("a"), None, 0.0, CPU)
    assert (alone.calls, nobody) == (3, None)


def test_a_call_runs_backward_where_the_assigner_has_losses():
    scene = make_scene(1, 3, 2, size=SIZE, channels=4)
    for name, passes in (("atss", "forward"), ("paa", "forward"), ("iqdet", "forward+backward")):
        made, told = assigner_call(create(name, scene.head), scene)
        assert told == passes
        answer = made()
        assert isinstance(answer, tuple) == (passes != "forward")
        if isinstance(answer, tuple):
            assert all(gradient is not None for gradient in answer[1][-3:])  # those of the parameters


# --- a row -------------------------------------------------------------------------------------------------------


def test_a_row_beside_its_dense_version():
    rules = RULES
    found = measured(bench(rules), "atss")
    assert (found.assigner, found.images, found.boxes, found.classes, found.size) == ("atss", 2, 3, 2, "64x96")
    assert found.ratio == pytest.approx(found.dense_ms / found.ms)
    assert found.mib > 0
    assert found.dense_mib > 0
    assert (found.calls, found.dense_calls, found.note, found.passes) == (3, 1, "", "forward")


def test_a_row_without_a_dense_version():
    found = measured(bench(), "iqdet")
    assert (found.dense_ms, found.ratio, found.dense_mib, found.dense_calls) == (None, None, None, 0)
    assert (found.note, found.passes) == ("no dense version", "forward+backward")
    assert found.ms > 0


def test_a_dense_version_that_would_need_too_much_memory_is_not_run():
    rules = RULES
    called = []
    rules = {"dsla": replace(rules["dsla"], answer=lambda picture: called.append(picture))}
    found = measured(bench(rules, dense_mib=0.001), "dsla")
    assert not called
    assert found.dense_mib == pytest.approx(rules["dsla"].peak_bytes(3, 129, 2) / 2**20)
    assert found.note == f"dense: out of memory ({found.dense_mib:.0f} MiB)"
    assert found.ms > 0
    assert (found.dense_ms, found.ratio) == (None, None)


def test_a_dense_version_that_would_take_too_long_is_not_run():
    made = bench(RULES, dense_seconds=0.0)
    assert measured(made, "atss").dense_ms > 0  # nothing is known of its speed yet
    later = measured(made, "atss", Cell(6, 2, 2))
    assert later.dense_ms is None
    assert later.note.startswith("dense: not run (about ")


def test_an_assigner_out_of_memory_is_a_row(monkeypatch):
    class Greedy(Assigner):
        def forward(self, grid, targets, predictions, step):
            raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(module, "create", lambda name, head, **options: Greedy())
    found = measured(bench(), "greedy")
    assert (found.ms, found.mib, found.note) == (None, None, "out of memory")


def test_a_fault_of_an_assigner_is_not_hidden(monkeypatch):
    class Broken(Assigner):
        def forward(self, grid, targets, predictions, step):
            raise RuntimeError("a fault")

    monkeypatch.setattr(module, "create", lambda name, head, **options: Broken())
    with pytest.raises(RuntimeError, match="a fault"):
        measured(bench(), "broken")


# --- the file ----------------------------------------------------------------------------------------------------


def test_a_new_row_takes_the_place_of_an_old_one(tmp_path):
    path = tmp_path / "bench" / "assigners.csv"
    assert read_lines(path) == []
    old = [to_line(each, ENVIRONMENT) for each in (row(boxes=100), row(boxes=7), row("paa"))]
    write_lines(path, merge([], old))
    new = [to_line(replace(row(boxes=7), ms=1234.5678), ENVIRONMENT)]
    write_lines(path, merge(read_lines(path), new))
    lines = read_lines(path)
    assert [(line["assigner"], line["boxes"]) for line in lines] == [("atss", "7"), ("atss", "100"), ("paa", "30")]
    assert [line["ms"] for line in lines] == ["1235", "10", "10"]
    elsewhere = to_line(row(boxes=7), {**ENVIRONMENT, "device": "another"})
    assert len(merge(lines, [elsewhere])) == 4


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\xff", ",".join(columns(Measurement)) + "\n" + "1," * 30])
def test_a_foreign_file_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "assigners.csv"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"assigners\.csv.*move it away"):
        read_lines(path)


def test_what_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "bench").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_lines(tmp_path / "bench" / "assigners.csv", [])


# --- the summary -------------------------------------------------------------------------------------------------


def test_the_summary_has_a_line_per_assigner_cheapest_first():
    known = (
        row("dear", boxes=100, ms=234.5, ratio=1.25), row("cheap", boxes=100, ms=2.0, ratio=None),
        row("cheap", boxes=30, images=1, ms=3.0), row("cheap", boxes=30, images=16, ms=32.0),
        row("cheap", boxes=5000, images=1, mib=77.7), row("cheap", boxes=30, classes=1, ms=999.0),
    )  # fmt: skip
    made = lines(*known, replace(row("own", boxes=7), passes="forward+backward"))
    told, gap, heads, _, *rows = summary(made).splitlines()
    assert (told, gap) == ("a processor, 1 thread, torch 2: 2 images of 800x1344 px, 80 classes", "")
    cells = [[cell.strip() for cell in each.strip("|").split("|")] for each in (heads, *rows)]
    assert {len(each) for each in cells} == {11}
    assert [each[0] for each in cells[1:]] == ["`cheap`", "`dear`", "`own` *"]
    assert cells[1][1:] == ["-", "2", "-", "-", "-", "-", "-", "77.7", "3", "2"]
    assert cells[2][1:] == ["-", "234", "-", "-", "1.25", "-", "-", "-", "-", "-"]


def test_the_summary_keeps_machines_apart(tmp_path):
    elsewhere = to_line(row(boxes=7), {**ENVIRONMENT, "device": "another", "threads": 4})
    write_lines(tmp_path / "bench" / "assigners.csv", [*lines(row(boxes=7)), elsewhere])
    told = call("bench", "summary", "--results", tmp_path)
    assert told.exit_code == 0
    assert "another, 4 threads" in told.stdout
    assert told.stdout.count("| `atss` |") == 2


def test_nothing_measured_is_told_in_one_line(tmp_path):
    told = call("bench", "summary", "--results", tmp_path)
    assert told.exit_code == 2
    assert "`harness bench assigners` makes them" in told.output


# --- the picture -------------------------------------------------------------------------------------------------


def lines(*rows):
    return [to_line(each, ENVIRONMENT) for each in rows]


def test_points_along_an_axis_are_per_image():
    told = lines(
        row(boxes=7, ms=4.0), row(), row(boxes=5000, images=1, ms=50.0), row(images=8, ms=16.0), row(classes=1)
    )
    assert series(told, "atss", "ms", "boxes") == [(7, 2), (30, 5), (5000, 50)]
    assert series(told, "atss", "ms", "images") == [(2, 5), (8, 2)]
    assert series(told, "atss", "ratio", "classes") == [(1, 2), (80, 2)]
    assert series(told, "paa", "ms", "boxes") == []


def test_the_picture_names_every_assigner():
    told = lines(row(), row(boxes=100), row("paa"), row("iqdet", ratio=None), replace(row("tal"), ms=None, mib=None))
    svg = encoded(draw(told, "a title"), "svg").decode()
    assert all(f">{name}</text>" in svg for name in ("atss", "paa", "iqdet", "tal", "a title"))


def test_names_are_in_the_order_of_their_lines():
    told = lines(row(ms=1.0), row("paa", ms=3.0), row("tal", ms=2.0), replace(row("iqdet"), ms=None))
    *panels, key = draw(told, "a title").axes
    assert [text.get_text() for text in key.get_legend().get_texts()] == ["paa", "tal", "atss", "iqdet"]
    first = [line for line in panels[0].lines if len(line.get_xdata())]
    assert [line.get_ydata().tolist() for line in first] == [[1.5], [1.0], [0.5]]
    assert len({line.get_color() for line in first}) == 3


def test_the_picture_is_drawn_again_without_measuring(tmp_path):
    path = tmp_path / "bench" / "assigners.csv"
    elsewhere = [to_line(row(name), {**ENVIRONMENT, "device": "another"}) for name in ("lla", "ota")]
    write_lines(path, [*lines(row(), row("paa"), row("tal")), *elsewhere])
    before = path.read_bytes()
    told = call("bench", "picture", "--results", tmp_path)
    assert told.exit_code == 0, told.output
    svg = (tmp_path / "bench" / "assigners.svg").read_text()
    assert ">tal</text>" in svg
    assert ">lla</text>" not in svg  # of the machine with fewer rows
    assert path.read_bytes() == before
    told = call("bench", "picture", "--results", tmp_path, "--size", "8x8")
    assert told.exit_code == 2
    assert "no measurement of 8x8 px; `harness bench assigners` makes them" in told.stderr


def test_without_matplotlib_only_the_picture_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    told = call("bench", "assigners", "center", *TINY, "--results", tmp_path)
    assert told.exit_code == 2
    assert told.stderr.count("\n") == 1
    assert "pip install 'assigner-zoo[plots]', or measure without it: --no-picture" in told.stderr
    assert not (tmp_path / "bench").exists()
    told = call("bench", "assigners", "center", *TINY, "--results", tmp_path, "--no-picture")
    assert told.exit_code == 0, told.output
    assert [path.name for path in (tmp_path / "bench").iterdir()] == ["assigners.csv"]


# --- a share of a step -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stand_in"), [("center", "center"), ("iqdet", "iqdet"), ("auto_assign", "center")])
def test_share_of_a_step(name, stand_in):
    request = StepRequest(subject(name), small_protocol(), 2, 3, 4, (64, 64), 0.0)
    share = measure_share(request, CPU)
    assert (share.assigner, share.stand_in, share.backbone, share.size) == (name, stand_in, "test_resnet", "64x64")
    assert share.calls == 3
    assert share.share == pytest.approx((share.step_ms - share.ready_ms) / share.step_ms)
    assert share.share < 1


# --- the verb ----------------------------------------------------------------------------------------------------


def test_assigners(tmp_path):
    told = call("bench", "assigners", "center", "atss[topk=4]", "free_anchor", *TINY, "--results", tmp_path)
    assert told.exit_code == 0, told.output
    assert "atss[topk=4]" in told.output
    with (tmp_path / "bench" / "assigners.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [line["assigner"] for line in rows] == ["atss[topk=4]", "center", "free_anchor"]
    assert {line["passes"] for line in rows} == {"forward", "forward+backward"}
    assert {(line["threads"], line["boxes"], line["images"]) for line in rows} == {("1", "3", "2")}
    assert all(float(line["ratio"]) > 0 for line in rows)
    assert (tmp_path / "bench" / "assigners.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "bench" / "assigners.svg").read_text()
    again = call("bench", "assigners", "paa", *TINY, "--no-dense", "--results", tmp_path, "--json")
    report = json.loads(again.stdout)
    assert [line["assigner"] for line in report["rows"]] == ["paa"]
    assert report["rows"][0]["ratio"] is None
    assert len(read_lines(tmp_path / "bench" / "assigners.csv")) == 4


def test_step(tmp_path):
    words = ["--size", "64x64", "--boxes", "2", "--classes", "2", "--seconds", "0", "--results", tmp_path, "--json"]
    changed = ["--protocol", "tiny", "--set", "model.channels=8"]
    told = call("bench", "step", "-a", "atss[topk=3]", *changed, *words)
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["assigner"] == "atss[topk=3]"
    with (tmp_path / "bench" / "step.csv").open() as file:
        assert [line["backbone"] for line in csv.DictReader(file)] == ["test_resnet"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["assigners", "atsss"], "did you mean 'atss'"),
        (["assigners", "atss[topk=0]"], "topk is 0"),
        (["assigners", "atss[tpk=1]"], "no option 'tpk'"),
        (["assigners", "--boxes", "7,x"], "no list of whole numbers"),
        (["assigners", "--images", "0"], "no list of whole numbers"),
        (["assigners", "--size", "800"], "no HEIGHTxWIDTH"),
        (["step", "-a", "atss", "--backbone", "resnet1"], "unknown backbone"),
        (["step", "-a", "atss", "--protocol", "tinny"], "unknown protocol"),
        (["step"], "Missing option"),
    ],
)
def test_mistakes_are_told_in_one_line(words, expected, tmp_path):
    told = call("bench", *words, "--results", tmp_path)
    assert told.exit_code == 2, told.output
    assert expected in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1


def test_steps_are_past_every_warm_up():
    assert STEP.progress > 0.5
