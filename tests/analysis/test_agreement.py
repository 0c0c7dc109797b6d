"""`harness insight`: measures against hand-made assignments, and the verb on a real, small run."""

from __future__ import annotations

import json
import shlex
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from assigners.contract import Samples, Targets
from assigners.grid import Grid
from detector.loss import detection_losses
from harness.analysis.agreement import STEP, Insight, Subject, ask, choose_subjects, freeze
from harness.analysis.agreement_sheet import draw
from harness.analysis.measures import (
    Positives,
    ambiguous,
    footprint,
    level_shares,
    outside,
    overlaps,
    per_box,
    positives_of,
    quality,
    rank_correlation,
    strata,
)
from harness.cli import main
from harness.cli.insight import split_specs
from harness.core.errors import UserError
from harness.drawing.charts import RULE, encoded
from harness.drawing.images import heat_colour
from harness.protocol.protocol import load_protocol
from harness.records.identity import data_hash
from harness.training.build import attach_assigner, build_detector, resolve_assigner
from tests.support.fakes import MemorySet, make_record, objects
from tests.support.runs import small_protocol, write_coco

GRID = Grid.build([(8, 8), (4, 4)], [8, 16])  # 64 x 64 px
BOXES = [[0.0, 0.0, 32.0, 32.0], [16.0, 16.0, 48.0, 48.0], [2.0, 2.0, 60.0, 20.0]]


def targets(*per_image):
    """A batch of images with these boxes."""
    boxes = [torch.tensor(rows, dtype=torch.float32).reshape(-1, 4) for rows in per_image]
    labels = [torch.zeros(len(rows), dtype=torch.long) for rows in boxes]
    return Targets.collate(boxes, labels, GRID, sizes=[(64, 64)] * len(boxes))


ONE = targets(BOXES)


def hard(*pairs):
    """Positives (box, location) on the grid, and a dummy row."""
    box, location = (
        (torch.tensor([*column, 0]) for column in zip(*pairs, strict=True)) if pairs else [torch.zeros(1).long()] * 2
    )
    ok = torch.ones(len(box), dtype=torch.bool)
    ok[-1] = False
    return Samples.at_locations(GRID, location, box, ok)


def loose(*rows, positive=None):
    """Positives (box, level, column, row) at float places."""
    box, level, column, row = (torch.tensor(each) for each in zip(*rows, strict=True))
    ok = torch.ones(len(box), dtype=torch.bool)
    positive = ok if positive is None else torch.tensor(positive)
    weight = positive.float()
    return Samples(
        gt=box, level=level, uv=torch.stack((column, row), dim=1).float(), ok=ok, positive=positive, label=weight,
        class_weight=weight, box_weight=weight, quality_weight=weight,
    )  # fmt: skip


def prints(*samples, batch=ONE):
    return [footprint(GRID, batch, each) for each in samples]


def jaccards(*samples, batch=ONE, rows=None):
    """By mass and by cells ``[A, A]``."""
    chosen = np.ones(batch.num_boxes, bool) if rows is None else np.array(rows)
    return [each.jaccard(chosen) for each in overlaps(prints(*samples, batch=batch), batch.num_boxes)]


# Footprints


def test_positives_on_the_grid_have_their_mass_on_one_cell_and_dummies_none():
    (found,) = prints(hard((0, 9), (0, 10), (2, 9)))
    assert found.box.tolist() == [0, 0, 2]
    assert (found.place % GRID.num_locations).tolist() == [9, 10, 9]
    assert found.mass.tolist() == [1, 1, 1]


def test_a_place_taken_twice_counts_twice():
    (found,) = prints(hard((0, 9), (0, 9), (0, 10)))
    assert found.mass.tolist() == [2, 1]


def test_float_positives_are_spread_by_their_bilinear_weights():
    (found,) = prints(loose((1, 0, 2.25, 3.5), (1, 1, 1.0, 2.0), (0, 0, 7.0, 7.0)))
    size = GRID.num_locations
    own = {int(place - size): mass for place, mass in zip(found.place, found.mass, strict=True) if place >= size}
    assert own == {26: 0.375, 27: 0.125, 34: 0.375, 35: 0.125, 64 + 2 * 4 + 1: 1.0}
    assert found.mass[found.box == 0].tolist() == [1.0]  # no neighbour beyond the border


def test_samples_that_are_no_positives_have_no_mass():
    (found,) = prints(loose((0, 0, 1.5, 1.5), (0, 0, 4.0, 4.0), positive=[False, True]))
    assert found.mass.tolist() == [1.0]


def test_images_do_not_share_cells():
    batch = targets(BOXES[:1], [], BOXES[:2])
    (found,) = prints(hard((0, 9), (1, 9), (2, 9)), batch=batch)
    assert (found.cell // GRID.num_locations).tolist() == [0, 2, 2]
    assert ambiguous(found) == {"cells": 2, "share": 0.5}


# Agreement


def test_agreement_of_sets_by_hand():
    one, two = hard((0, 1), (0, 2), (1, 5)), hard((0, 2), (0, 3), (1, 5), (2, 7))
    mass, cells = jaccards(one, two)
    assert cells[0, 1] == pytest.approx(2 / 5)
    assert mass[0, 1] == pytest.approx((0.5 + 1 + 0) / (1.5 + 1 + 1))
    mass, cells = jaccards(one, two, rows=[True, False, False])
    assert cells[0, 1] == mass[0, 1] == pytest.approx(1 / 3)


def test_agreement_of_masses_by_hand():
    one, two = hard((0, 1), (0, 1), (0, 1), (0, 2)), hard((0, 1), (0, 2))
    mass, cells = jaccards(one, two)
    assert cells[0, 1] == 1  # the same cells
    assert mass[0, 1] == pytest.approx((0.5 + 0.25) / (0.75 + 0.5))
    between, on = loose((0, 0, 1.5, 0.0)), loose((0, 0, 1.0, 0.0))
    mass, cells = jaccards(between, on)
    assert (mass[0, 1], cells[0, 1]) == (pytest.approx(1 / 3), 0.5)


def test_where_nobody_has_a_positive_agreement_is_not_defined():
    mass, cells = jaccards(hard((0, 1)), hard(), rows=[False, True, True])
    assert np.isnan(mass).all()
    assert np.isnan(cells).all()
    mass, _ = jaccards(hard((0, 1)), hard())
    assert mass[0].tolist() == [1, 0]
    assert np.isnan(mass[1, 1])


places = st.lists(st.integers(0, GRID.num_locations - 1), min_size=4, max_size=4, unique=True)


@given(st.tuples(places, places), st.tuples(places, places))
def test_with_equal_counts_on_cells_of_their_own_mass_is_the_jaccard_index_of_sets(first, second):
    sets = [{(box, place) for box in (0, 1) for place in each[box]} for each in (first, second)]
    mass, cells = jaccards(*(hard(*sorted(each)) for each in sets))
    plain = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert cells[0, 1] == pytest.approx(plain)
    by_box = []
    for box in (0, 1):
        rows = [number == box for number in range(3)]
        one, other = jaccards(*(hard(*sorted(each)) for each in sets), rows=rows)
        assert one[0, 1] == pytest.approx(other[0, 1])
        by_box.append(one[0, 1])
    assert min(by_box) - 1e-12 <= mass[0, 1] <= max(by_box) + 1e-12


rows = st.tuples(st.integers(0, 2), st.integers(0, 1), st.floats(0, 3, width=32), st.floats(0, 3, width=32))
draws = st.lists(rows, min_size=1, max_size=8)


@given(draws, draws)
def test_agreement_is_symmetric_within_0_and_1_and_whole_with_oneself(first, second):
    for matrix in jaccards(loose(*first), loose(*second), loose(*reversed(first))):
        np.testing.assert_allclose(matrix, matrix.T)
        assert ((matrix > -1e-12) & (matrix < 1 + 1e-12)).all()
        np.testing.assert_allclose(np.diag(matrix), 1)
        assert matrix[0, 2] == pytest.approx(1)  # the order of the samples says nothing


@given(draws, draws)
def test_agreement_is_what_a_dense_table_gives(first, second):
    def dense(each):
        table = np.zeros((3, GRID.num_locations))
        for box, level, column, row in each:
            height, width = GRID.shapes[level]
            for y in range(height):
                for x in range(width):
                    share = max(0, 1 - abs(column - x)) * max(0, 1 - abs(row - y))
                    table[box, GRID.starts[level] + y * width + x] += share
        return table / np.maximum(table.sum(axis=1, keepdims=True), 1e-30)

    a, b = dense(first), dense(second)
    mass, _ = jaccards(loose(*first), loose(*second))
    assert mass[0, 1] == pytest.approx(np.minimum(a, b).sum() / np.maximum(a, b).sum(), abs=1e-5)


# Measures of one assignment


def made(box, level=None, offset=None, label=None, class_weight=None, iou=None):
    count = len(box)
    numbers = [np.array(v, float) if v is not None else np.ones(count) for v in (label, class_weight, iou)]
    offset = np.zeros((count, 2)) if offset is None else np.array(offset, float).reshape(-1, 2)
    return Positives(np.array(box, int), np.array(level or [0] * count, int), offset, *numbers)


def test_counts_per_box():
    positives = made([0, 0, 0, 2])
    assert per_box(positives, np.ones(4, bool)) == {"boxes": 4, "positives": 1.0, "without": 0.5}
    assert per_box(positives, np.array([True, False, True, False])) == {"boxes": 2, "positives": 2.0, "without": 0.0}
    assert per_box(positives, np.zeros(4, bool)) == {"boxes": 0, "positives": None, "without": None}
    assert per_box(made([]), np.ones(2, bool)) == {"boxes": 2, "positives": 0.0, "without": 1.0}


def test_cells_that_are_read_for_two_boxes():
    apart, touching = loose((0, 0, 1.5, 1.0), (1, 0, 3.5, 1.0)), loose((0, 0, 1.5, 1.0), (1, 0, 2.5, 1.0))
    assert [ambiguous(each) for each in prints(apart, touching)] == [
        {"cells": 4, "share": 0.0}, {"cells": 3, "share": pytest.approx(1 / 3)},
    ]  # fmt: skip
    assert ambiguous(prints(hard((0, 9), (0, 9)))[0]) == {"cells": 1, "share": 0.0}  # twice by one box is not two boxes
    assert ambiguous(prints(hard())[0]) == {"cells": 0, "share": None}


def test_positives_outside_their_box_and_its_centre_half():
    inside = made([0] * 4, offset=[[0, 0], [0.5, -0.5], [0.6, 0], [0, -1.5]])
    assert outside(inside) == {"box": 0.25, "centre": 0.5}
    assert outside(made([])) == {"box": None, "centre": None}


def test_weight_by_level():
    assert level_shares(made([0, 0, 1], level=[0, 2, 2], class_weight=[1, 2, 1]), 4) == [0.25, 0, 0.75, 0]
    assert level_shares(made([]), 4) is None
    assert level_shares(made([0, 0], level=[0, 2], class_weight=[0.0, 0.0]), 4) == [0.5, 0, 0.5, 0]  # class replaced


def test_labels_and_ious():
    soft = made([0] * 4, label=[0.1, 0.2, 0.3, 0.9], iou=[0.2, 0.3, 0.6, 0.5])
    assert quality(soft) == {
        "iou": pytest.approx(0.4),
        "label": pytest.approx(0.375),
        "rank_correlation": pytest.approx(0.8),
    }
    assert quality(made([0, 1], iou=[0.2, 0.4]))["rank_correlation"] is None  # hard labels
    assert quality(made([])) == {"iou": None, "label": None, "rank_correlation": None}
    assert quality(made([0], iou=[np.nan]))["iou"] is None


def test_rank_correlation_with_ties_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.integers(0, 6, (2, 40)).astype(float)
        assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert rank_correlation(np.arange(5.0), -(np.arange(5.0) ** 3)) == pytest.approx(-1)


def test_bins_by_hand():
    boxes = np.array([[0, 0, 10, 20], [5, 5, 69, 69], [0, 0, 30, 90.0]])
    attributes = {"centre_fill": np.array([0.0, 0.9, 1.0]), "hue": np.ones(3)}
    edges = {"eccentricity": (0, 1), "centre_fill": (0.0, 0.5, 1.0)}
    bins = strata(boxes, np.array([1023.0, 1024.0, 9216.0]), attributes, edges)
    assert list(bins) == ["size", "side", "aspect", "centre_fill"]
    rows = {name: {key: np.flatnonzero(value).tolist() for key, value in each.items() if value.any()}
            for name, each in bins.items()}  # fmt: skip
    assert rows == {
        "size": {"small": [0], "medium": [1], "large": [2]},
        "side": {"[8, 16)": [0], "[32, 64)": [2], "[64, 128)": [1]},
        "aspect": {"[1, 1.5)": [1], "[2, 3)": [0], "[3, inf)": [2]},
        "centre_fill": {"[0, 0.5)": [0], "[0.5, 1]": [1, 2]},
    }


# One frozen batch


class Scenes(MemorySet):
    """Noise with objects, each image of its own size."""

    def __init__(self, annotations, sizes, **more):
        super().__init__(annotations, **more)
        self.sizes = sizes

    def size(self, index):
        return self.sizes[index]

    def load(self, index):
        return np.random.default_rng(index).integers(0, 255, (*self.sizes[index], 3), dtype=np.uint8)


def scenes():
    first = objects([[8, 8, 40, 40], [60, 60, 60.4, 63], [16, 16, 32, 32], [40, 40, 60, 60]], [0, 1, 1, 0],
                    crowd=[False, False, False, True], eccentricity=[0.1, 0.2, 0.3, 0.4], hue=[1, 2, 3, 4])  # fmt: skip
    third = objects([[10, 20, 90, 120]], [1], eccentricity=[0.5])
    return Scenes(
        [first, objects(eccentricity=[]), third, first], [(64, 64), (64, 48), (128, 128), (64, 64)], ids=[7, 3, 9, 1]
    )


def model_with(name, **options):
    model = build_detector(small_protocol(), 2, 0).eval()
    attach_assigner(model, name, resolve_assigner(name, options).options, 0)
    return model


def test_a_batch_keeps_what_the_data_set_says_of_each_box():
    frozen = freeze(model_with("center"), scenes(), 3, small_protocol())
    assert frozen.image_ids == (7, 3, 9)
    assert frozen.targets.image_id.tolist() == [7, 3, 9]
    assert frozen.targets.counts == (2, 0, 1)  # neither the crowd nor the sliver
    assert frozen.targets.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(frozen.targets.boxes.numpy()[2], [5, 10, 45, 60])  # pixels of the input
    np.testing.assert_allclose(frozen.area, [32 * 32, 16 * 16, 80 * 100])  # of the original
    assert set(frozen.attributes) == {"eccentricity"}  # hue is not known of every image
    np.testing.assert_allclose(frozen.attributes["eccentricity"], [0.1, 0.3, 0.5], rtol=1e-6)
    assert len(frozen.targets.ignore) == 1


def test_a_batch_without_a_box_is_refused():
    empty = Scenes([objects(), objects([[8, 8, 40, 40]])], [(64, 64)] * 2)
    with pytest.raises(UserError, match="no box in the first 1 images"):
        freeze(model_with("center"), empty, 1, small_protocol())


@pytest.mark.parametrize("name", ["atss", "iqdet"])
def test_ious_and_counts_are_those_that_training_logs(name):
    model = model_with(name)
    frozen = freeze(model, scenes(), 4, small_protocol())
    subject = Subject(name, model.assigner.options, {}, of_run=True)
    assignment, parameters = ask(model, frozen, subject, model.assigner)
    assert parameters == ("own" if name == "iqdet" else "none")
    positives = positives_of(frozen.grid, frozen.targets, assignment.samples, frozen.predictions.distances)
    with torch.no_grad():
        _, logged = detection_losses(
            model.loss_settings, frozen.grid, frozen.targets, frozen.predictions, assignment,
            model.assigner.declares.replaces,
        )  # fmt: skip
    total, count = logged["iou_of_positives"]
    assert len(positives.box) == int(count) > 0
    assert positives.iou.mean() == pytest.approx(float(total / count), abs=1e-6)
    # The centre of the first box, in half sides: the reach of a positive inside is at most 1.
    assert np.abs(positives.offset).max() <= 1


def test_only_what_fits_is_lent():
    model = model_with("iqdet")
    frozen, own = freeze(model, scenes(), 2, small_protocol()), model.assigner
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(1.0)

    def asked(name, **options):
        spec = resolve_assigner(name, options)
        _, parameters = ask(model, frozen, Subject(name, spec.options, spec.changed, of_run=False), own)
        return parameters, model.assigner.state_dict()

    shared, state = asked("qd")
    assert shared == "shared"
    assert all(torch.equal(value, own.state_dict()[key]) for key, value in state.items())
    untrained, state = asked("uniform", hidden=5)
    assert untrained == "untrained"
    assert any(value.shape != own.state_dict()[key].shape for key, value in state.items())
    assert asked("atss")[0] == "none"


def test_the_runs_own_assigner_has_the_options_of_the_run():
    options = resolve_assigner("center", {"radius": 2.0}).options
    record = make_record(load_protocol("tiny"), options=options)
    own, atss = choose_subjects(record, [("center", {}), ("atss", {"topk": "5"})])
    assert (own.of_run, own.options["radius"], own.name) == (True, 2.0, "center[radius=2.0]")
    assert (atss.of_run, atss.name, atss.changed) == (False, "atss[topk=5]", {"topk": 5})
    assert not choose_subjects(record, [("center", {"radius": "1.5"})])[0].of_run
    with pytest.raises(UserError, match="atss is asked for twice"):
        choose_subjects(record, [("atss", {}), ("atss", {"topk": "9"})])


# The verb


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def insight(*words):
        return CliRunner().invoke(main, ["insight", *(str(word) for word in words)])

    return insight


def store_of(outcome):
    return outcome.path.parent.parent


def test_every_assigner_is_asked_about_the_newest_run(call, undisturbed):
    outcome = undisturbed("iqdet")
    record, results = outcome.record, store_of(outcome)
    result = call("--results", results, "--json", "--images", 4, "--png", "agreement.png")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    path = results / "insight" / f"{record.protocol.hash}-{data_hash(record.data)}.json"
    assert json.loads(path.read_text()) == report
    assert f"wrote {path}" in result.stderr
    rows = {row["name"]: row for row in report["assigners"]}
    assert {"center", "atss", "paa", "iqdet", "qd", "uniform", "uniform_center", "fixed_qd"} <= set(rows)
    parameters = {name: rows[name]["parameters"] for name in ("atss", "iqdet", "qd", "uniform", "fixed_qd")}
    assert parameters == {"atss": "none", "iqdet": "own", "qd": "shared", "uniform": "shared", "fixed_qd": "none"}
    assert (report["run_id"], report["assigner"], len(report["image_ids"])) == (record.run_id, "iqdet", 4)
    assert report["data"]["split"] == record.data.val.split
    assert report["boxes"] == record.data.val.boxes
    assert "iqdet" in report["command"]
    assert "/" not in report["command"]
    for row in report["assigners"]:
        assert row["positives"] == pytest.approx(row["per_box"]["positives"] * report["boxes"])
        for bins in row["by"].values():
            counted = [told for told in bins.values() if told["boxes"]]
            assert sum(told["boxes"] for told in counted) == report["boxes"]
            assert sum(told["boxes"] * told["positives"] for told in counted) == pytest.approx(row["positives"])
        assert sum(row["levels"]) == pytest.approx(1)
    assert set(rows["atss"]["by"]) == {"size", "side", "aspect", "eccentricity", "centre_fill"}
    assert rows["iqdet"]["quality"]["rank_correlation"] is not None
    assert rows["atss"]["replaces"] == []
    assert rows["free_anchor"]["replaces"] == ["box", "class"]
    replacing = "free_anchor, auto_assign, mdod"
    assert f"losses of their own in place of shared ones: {replacing}; their positives are" in result.stderr
    for told in (report["agreement"]["all"]["mass"], report["agreement"]["all"]["cells"]):
        matrix = np.array(told, float)
        np.testing.assert_allclose(matrix, matrix.T)
        np.testing.assert_allclose(np.diag(matrix), 1)
    with Image.open("agreement.png") as picture:
        assert picture.width > 54 * len(rows)


def test_the_command_of_the_file_makes_the_file_again(call, undisturbed):
    outcome = undisturbed("iqdet")
    words = ("--results", store_of(outcome), "--images", 2, "--output", "one.json")
    result = call("--run", "iqdet", "-a", "qd[positives=5,inbox=negative],atss", *words)
    assert result.exit_code == 0, result.output
    report = json.loads(Path("one.json").read_text())
    assert [row["name"] for row in report["assigners"]] == ["qd[inbox=negative,positives=5]", "atss"]
    assert report["assigners"][0]["changed_options"] == {"inbox": "negative", "positives": 5}
    assert report["assigners"][0]["options"]["roi"] == 7
    again = CliRunner().invoke(
        main, [*_words(report["command"]), "--results", str(store_of(outcome)), "--output", "two.json"]
    )
    assert again.exit_code == 0, again.output
    assert Path("two.json").read_bytes() == Path("one.json").read_bytes()
    for name in ("positives (% without) by", "agreement x 100", "qd[inbox=negative,positives=5]", "shared"):
        assert name in result.stdout


def _words(command):
    program, *words = shlex.split(command)
    assert program == "harness"
    return words


def test_another_run_lends_nothing_and_other_data_are_another_file(call, undisturbed, tmp_path):
    outcome = undisturbed("center")
    result = call("--run", "center", "-a", "iqdet,center", "--results", store_of(outcome), "--output", "x.json")
    assert result.exit_code == 0, result.output
    report = json.loads(Path("x.json").read_text())
    assert [row["parameters"] for row in report["assigners"]] == ["untrained", "none"]
    assert "untrained parameters of their own: iqdet" in result.stdout
    folder = write_coco(tmp_path / "two-classes")
    refused = call("--run", "center", "--results", store_of(outcome), "--data", f"coco:{folder}")
    assert refused.exit_code == 2
    assert "has 2 classes" in refused.stderr
    assert not (store_of(outcome) / "insight").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-a", "atts"), "did you mean 'atss'"),
        (("-a", "atss,,paa"), "empty place"),
        (("-a", "atss[topk=3"), "bracket is not closed"),
        (("--png", "x.jpg"), "must end in .png"),
        (("--images", "0"), "--images"),
        (("--run", "x"), "no run 'x'"),
        ((), "no run under"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(call, words, message):
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(Path().rglob("*.json"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [("atss", ["atss"]), ("a, b[x=1,y=2],c", ["a", "b[x=1,y=2]", "c"]), ("a[x=1],b", ["a[x=1]", "b"])],
)
def test_commas_in_brackets_do_not_part_names(text, parts):
    assert split_specs(text) == parts


def test_the_picture_shows_what_is_not_defined_in_grey():
    names = tuple({"name": f"a rather long name {number}"} for number in range(8))

    def picture(**values):
        parts = {size: {"boxes": 3, "mass": [[value] * 8] * 8, "cells": []} for size, value in values.items()}
        parts["large"] = {"boxes": 0, "mass": [[None] * 8] * 8, "cells": []}
        return draw(Insight((8,), 3, (0,), names, parts), "a title")

    one, two = picture(all=0.5), picture(all=0.5, small=None)
    assert two.get_figwidth() > one.get_figwidth()  # a size without boxes has no map
    assert two.get_figheight() == one.get_figheight()
    (shown,) = one.axes[0].images
    assert [*shown.to_rgba(0.5, bytes=True)[:3]] == pytest.approx(heat_colour(0.5), abs=1)
    assert {text.get_text() for text in two.axes[1].texts} == {"-"}
    grey = []
    for each in (one, two):
        with Image.open(BytesIO(encoded(each, "png"))) as png:
            pixels = np.asarray(png.convert("RGB"))
        grey.append(int((pixels == ImageColor.getrgb(RULE)).all(axis=-1).sum()))
    assert grey[1] > grey[0] + 8 * 8 * 40 * 40  # cells of 67 px, each with a dash


def test_the_step_is_the_end_of_training():
    assert (STEP.progress, STEP.index) == (1.0, 0)
