"""`harness inspect`: what it shows agrees with the assigner, and its reasons are the real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from assigners.contract import Assigner, Assignment, Samples, Step
from assigners.parts.negatives import negatives_outside_ignore as negatives
from harness.cli import main
from harness.inspection.counterfactuals import explain
from harness.inspection.one_image import assign, box_rows, find_image, look, mixtures, quality_map
from harness.training.build import attach_assigner, build_detector, resolve_assigner
from tests.support.fakes import MemorySet, objects
from tests.support.runs import small_protocol, write_coco

SIDE = 64  # px; images here are not resized


class Scene(MemorySet):
    """One grey image with given objects."""

    def __init__(self, boxes, labels=None, side=SIDE, **more):
        super().__init__([objects(boxes, labels, **more)])
        self.side = side

    def size(self, index):
        return self.side, self.side

    def load(self, index):
        return np.random.default_rng(0).integers(90, 110, (self.side, self.side, 3), dtype=np.uint8)


def prepared(scene, name="center", protocol=None, **options):
    """A model with its assigner, the view of the scene, its step and its assignment."""
    protocol = protocol or small_protocol()
    model = build_detector(protocol, len(scene.classes), 0).eval()
    attach_assigner(model, name, resolve_assigner(name, options).options, 0)
    view = look(model, scene, 0, protocol)
    step = Step(seed=0)
    return model, view, step, assign(model, view, step, range(view.targets.num_boxes))


def answer(scene, box, name="center", **options):
    model, view, step, drawn = prepared(scene, name, **options)
    return explain(model, view, step, drawn, box)


BIG, NESTED, TINY = (8, 8, 40, 40), (16, 16, 32, 32), (49.5, 49.5, 51, 51)


def test_boxes_keep_the_numbers_of_the_data_set():
    boxes = [BIG, (60, 60, 60.5, 63), NESTED, (40, 40, 60, 60), TINY]
    scene = Scene(boxes, [0, 1, 1, 0, 1], crowd=[False, False, False, True, False])
    _, view, _, drawn = prepared(scene)
    assert view.rows == (0, 2, 4)
    assert view.targets.labels.tolist() == [0, 1, 1]
    rows = box_rows(view, drawn)
    assert [row["fate"] for row in rows] == ["assigned", "too small", "assigned", "ignored", "assigned"]
    assert [row["class"] for row in rows] == ["a", "b", "b", "a", "b"]
    assert [tuple(row["corners"]) for row in rows] == [tuple(map(float, box)) for box in boxes]


def test_the_samples_are_those_that_training_would_have():
    model, view, step, drawn = prepared(Scene([BIG, NESTED, (30, 20, 60, 50)]), "atss")
    samples = model.assigner(view.grid, view.targets, None, step).samples
    assert samples.positive.sum() == drawn.positive.sum() > 0
    xy = view.grid.pixels(samples.level, samples.uv)[samples.ok]
    np.testing.assert_array_equal(drawn.xy, xy.numpy())
    np.testing.assert_array_equal(drawn.box, samples.gt[samples.ok].numpy())
    for row in box_rows(view, drawn):
        assert sum(row["positives"]) == (samples.positive & (samples.gt == row["box"])).sum()


def test_predictions_of_the_view_are_those_of_evaluation():
    _, view, _, drawn = prepared(Scene([BIG]))
    own = drawn.of(0)
    nearest = [int(((view.grid.points - torch.tensor(xy)).abs().sum(dim=1)).argmin()) for xy in drawn.xy[own]]
    box, truth = view.predictions.boxes[0, nearest], torch.tensor(BIG, dtype=torch.float32)
    both = (torch.minimum(box[:, 2:], truth[2:]) - torch.maximum(box[:, :2], truth[:2])).clamp(min=0).prod(dim=1)
    areas = (box[:, 2:] - box[:, :2]).prod(dim=1) + 32 * 32
    np.testing.assert_allclose(drawn.iou[own], (both / (areas - both)).detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", ["center", "atss", "iqdet"])
def test_leaving_nobody_out_changes_nothing_and_noise_stays_with_its_box(name):
    model, view, step, drawn = prepared(Scene([(2, 2, 20, 20), (30, 30, 60, 60)]), name)
    again = assign(model, view, step, [0, 1])
    np.testing.assert_array_equal(again.xy, drawn.xy)
    # The boxes are apart: the other's absence moves nothing, but a product of matrices rounds otherwise for one row.
    alone = assign(model, view, step, [1])
    np.testing.assert_array_equal(alone.level[alone.of(1)], drawn.level[drawn.of(1)])
    np.testing.assert_allclose(alone.xy[alone.of(1)], drawn.xy[drawn.of(1)], rtol=0, atol=1e-3)
    assert not len(alone.of(0))


def test_a_nested_box_takes_the_places_of_the_larger_one():
    found = answer(Scene([BIG, NESTED], [0, 1]), 0)
    assert (found.verdict, sum(found.now), found.taken_by) == ("taken", 0, ((1, 4),))
    assert sum(found.alone) == len(found.lost) == found.freed == 4
    assert found.without == (1,)
    assert "alone in the image it would have 4" in found.text
    assert "box 1 (b, smaller, IoU 0.25) has 4 of them" in found.text


def test_every_duplicate_in_the_way_is_named():
    found = answer(Scene([NESTED, NESTED, NESTED]), 2)
    assert found.verdict == "taken"
    assert set(found.without) == {0, 1}
    assert "of the same size, IoU 1.00" in found.text
    assert "without boxes" in found.text


def test_too_many_rivals_are_not_counted_to_the_end():
    found = answer(Scene([NESTED] * 20), 19)
    assert (found.verdict, found.without, found.freed) == ("taken", (), 0)
    assert "more than 16 other boxes" in found.text


def test_a_box_between_the_locations_learns_what_size_it_needs():
    found = answer(Scene([BIG, TINY]), 1)
    assert (found.verdict, sum(found.inside), sum(found.alone)) == ("no location", 0, 0)
    assert "no location of any level lies inside" in found.text
    factor, count = found.grown
    assert count > 0
    half = 0.75 * factor
    points = 4 + 8 * np.arange(8)
    assert (np.abs(points - 50.25) < half).any()  # the enlarged box reaches a location
    assert f"{factor:g} times as large" in found.text


def test_a_rule_that_leaves_the_locations_out_is_told_from_a_rival():
    thin = (23, 4, 25, 44)  # between the columns of P3; coarser levels are not for its reach
    found = answer(Scene([thin]), 0)
    assert (found.verdict, found.inside[:3], sum(found.alone)) == ("rule", (0, 3, 0), 0)
    assert "its own rule" in found.text
    assert found.taken_by == found.without == ()


def test_a_box_that_lost_some_of_its_places_says_to_whom():
    found = answer(Scene([(8, 8, 40, 40), (24, 8, 48, 32)]), 0)
    assert found.verdict == "positive"
    assert 0 < sum(found.now) < sum(found.alone)
    assert found.taken_by == ((1, sum(found.alone) - sum(found.now)),)
    assert len(found.lost) == sum(found.alone) - sum(found.now)


def test_a_box_without_rivals_is_the_same_alone():
    found = answer(Scene([(2, 2, 20, 20), (30, 30, 60, 60)]), 1)
    assert (found.verdict, found.now, found.taken_by, found.lost) == ("positive", found.alone, (), ())
    assert "the same as alone" in found.text


def test_objects_that_never_reach_the_assigner_say_why():
    scene = Scene([(10, 10, 10.6, 30), BIG], crowd=[False, True])
    small, crowd = answer(scene, 0), answer(scene, 1)
    assert (small.verdict, crowd.verdict) == ("too small", "ignored")
    assert "0.60 x 20.00 px" in small.text
    dropped = answer(scene, 1, protocol=small_protocol(data={"crowd": "drop"}))
    assert "data.crowd = drop" in dropped.text


@pytest.mark.parametrize(
    ("difficult", "verdict", "told"),
    [
        ("train", "positive", "the same as alone"),
        ("ignore", "ignored", "a difficult object: no object to learn, and the locations inside are no negatives"),
        ("drop", "difficult", "data.difficult = drop"),
    ],
)
def test_a_difficult_object_is_what_the_protocol_says(difficult, verdict, told):
    scene = Scene([BIG])
    scene.annotations(0).difficult[:] = True
    found = answer(scene, 0, protocol=small_protocol(data={"difficult": difficult}))
    assert found.verdict == verdict
    assert told in found.text


def test_sizes_are_those_after_resizing():
    scene = Scene([(0, 0, 1.5, 100), (20, 20, 120, 120)], side=128)
    _, view, _, drawn = prepared(scene)
    assert view.scale == (0.5, 0.5)
    rows = box_rows(view, drawn)
    assert rows[0]["fate"] == "too small"
    assert (rows[1]["size"], rows[1]["input_size"]) == ([100, 100], [50, 50])


class Jealous(Assigner):
    """A rule of another package: the last box of an image takes one location, provided that no other is there."""

    def __init__(self, head):
        super().__init__()

    def forward(self, grid, targets, predictions, step):
        count = targets.num_boxes
        location = torch.arange(count)
        ok = torch.full((count,), count == 1)
        return Assignment(Samples.at_locations(grid, location, torch.arange(count), ok), negatives(grid, targets))


def test_any_assigner_can_be_asked_even_where_nobody_holds_a_place():
    model, view, step, _ = prepared(Scene([(2, 2, 20, 20), (30, 30, 60, 60), (35, 35, 55, 55)]))
    model.attach(Jealous(model.head_info))
    drawn = assign(model, view, step, range(3))
    found = explain(model, view, step, drawn, 1)
    assert (found.verdict, found.taken_by, found.freed) == ("taken", (), 1)
    assert found.without == (2, 0)  # the one that overlaps it first


def test_the_quality_map_is_the_mixture_at_the_pixels():
    model, view, _, _ = prepared(Scene([BIG]), "iqdet")
    mixture, usable = mixtures(model, view)
    made = quality_map(view, mixture, usable)
    assert made.shape == (SIDE, SIDE)
    assert made[:8].max() == made[:, 40:].max() == 0  # nothing outside the box
    d = torch.tensor([[(20.5 - 24) / 16, (30.5 - 24) / 16]])
    expected = max(float(mixture[torch.tensor(0), torch.tensor(level)].density(d)) for level in range(4))
    assert made[30, 20] == pytest.approx(min(expected, 1), rel=1e-5)
    assert quality_map(view, mixture, torch.zeros_like(usable)).max() == 0


def test_images_are_found_by_name_stem_or_number():
    images = Scene([BIG])
    images.name = lambda index: "train/000012.jpg"
    for wanted in ("train/000012.jpg", "000012.jpg", "000012", "0"):
        assert find_image(images, wanted) == 0


# The command itself


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sections = small_protocol().content()
    lines = [f"[{name}]" + "".join(f"\n{key} = {json.dumps(value)}" for key, value in section.items()
             if value is not None) for name, section in sections.items()]  # fmt: skip
    Path("small.toml").write_text("\n".join(lines))

    def inspect(*words):
        return CliRunner().invoke(main, ["inspect", *(str(word) for word in words)])

    return inspect


SMALL = ("--protocol", "small.toml")


def test_an_assigner_is_drawn_and_tabulated_from_nothing(call):
    result = call("-a", "atss", *SMALL, "--image", 1)
    assert result.exit_code == 0, result.output
    assert "atss on shapes/000001, an untrained detector" in result.stdout
    with Image.open("inspect.png") as picture:
        assert picture.width > 900
    as_json = call("-a", "atss", *SMALL, "--image", 1, "--json", "--output", "again.png")
    report = json.loads(as_json.stdout)
    assert (report["assigner"], report["run_id"], report["image"]) == ("atss", None, "shapes/000001")
    assert (report["input_height"], report["strides"][0], report["mixture"]) == (64, 8, None)
    positives = [sample["box"] for sample in report["samples"] if sample["positive"]]
    assert [positives.count(row["box"]) for row in report["boxes"]] == [
        sum(row["positives"]) for row in report["boxes"]
    ]
    assert Path("again.png").read_bytes() == Path("inspect.png").read_bytes()


def test_samples_of_a_likelihood_are_called_what_they_are(call):
    result = call("-a", "free_anchor", *SMALL, "--box", 0, "--json")
    assert result.exit_code == 0, result.output
    assert (
        "its own losses stand for the shared box and class loss: shown are the locations that it names" in result.stderr
    )
    assert all(sum(row["positives"]) == 1 for row in json.loads(result.stdout)["boxes"])
    assert "its own losses" not in call("-a", "atss", *SMALL).stdout


def test_the_seed_moves_the_draws_and_options_reach_the_assigner(call):
    def samples(*words):
        result = call("-a", "iqdet[positives=5]", *SMALL, "--json", *words)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    one, same, other = samples(), samples(), samples("--seed", 1)
    assert one["samples"] == same["samples"] != other["samples"]
    assert all(sum(row["positives"]) == 5 for row in one["boxes"])
    assert one["options"]["positives"] == 5


def test_iqdet_shows_what_its_run_has_learnt(call, undisturbed):
    outcome = undisturbed("iqdet")
    results = outcome.path.parent.parent
    run_id = outcome.record.run_id
    learnt = load_file(outcome.work_dir / "assigner.safetensors")
    assert set(learnt)
    assert not set(learnt) & set(load_file(outcome.work_dir / "network.safetensors"))
    result = call("--run", run_id, "--box", 0, "--json", "--results", results)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["assigner"], report["run_id"]) == ("iqdet", run_id)
    assert "untrained" not in report["detector"]
    boxes, levels = len(report["boxes"]), len(report["strides"])
    assert len(report["mixture"]) == boxes * levels
    assert report["explanation"]["box"] == 0
    fresh = json.loads(call("-a", "iqdet", *SMALL, "--json").stdout)
    assert fresh["mixture"][0]["mu"] != report["mixture"][0]["mu"]
    with Image.open("inspect.png") as picture:
        assert picture.width > 1200  # the quality distribution stands beside the samples


def test_another_assigner_can_be_asked_about_a_trained_detector(call, undisturbed):
    outcome = undisturbed("center")
    words = ("--run", outcome.record.run_id, "--results", outcome.path.parent.parent, "--json")
    own, other = (json.loads(call(*words, *more).stdout) for more in ((), ("-a", "iqdet")))
    assert (own["assigner"], own["mixture"]) == ("center", None)
    assert "parameters untrained" in other["detector"]
    assert other["mixture"]


def test_a_run_that_kept_no_parameters_of_its_assigner_says_so(call, undisturbed, tmp_path):
    outcome = undisturbed("iqdet")
    copy = shutil.copytree(outcome.path.parent.parent, tmp_path / "copy")
    next(copy.glob("work/*/assigner.safetensors")).unlink()
    result = call("--run", "iqdet", "--results", copy)
    assert result.exit_code == 2
    assert "no parameters of its assigner" in result.stderr
    assert not Path("inspect.png").exists()


def test_a_run_without_parameters_of_the_assigner_has_no_file_for_them(undisturbed):
    assert not (undisturbed("center").work_dir / "assigner.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--assigner"),
        (("-a", "atts"), "did you mean 'atss'"),
        (("-a", "atss[kk=3]", *SMALL), "no option 'kk'"),
        (("-a", "atss", "--option", "k"), "key=value"),
        (("-a", "atss", "--data", "voc:nowhere"), "nowhere"),
        (("-a", "atss", *SMALL, "--image", "99999"), "from 0 to 5"),
        (("-a", "atss", *SMALL, "--image", "cat"), "no image 'cat'"),
        (("-a", "atss", *SMALL, "--box", "50"), "no box 50"),
        (("-a", "atss", *SMALL, "--split", "test"), "no split 'test'"),
        (("-a", "atss", "--output", "x.jpg"), "must end in .png"),
        (("-a", "atss", "--protocol", "tinny"), "did you mean 'tiny'"),
        (("--run", "x"), "no run 'x'"),
        (("--run", "x", "--set", "data.short_edge=64"), "--protocol"),
        (("-a", "atss", *SMALL, "--output", "small.toml/x.png"), "cannot write"),
    ],
)
def test_a_mistake_is_one_line_and_draws_nothing(call, words, message):
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(Path().glob("*.png"))


def test_real_images_are_inspected(call, data_root):
    folder = data_root / "bccd"
    if not folder.is_dir():
        pytest.skip(f"no BCCD at {folder}")
    result = call("-a", "atss", "--data", f"voc:{folder}", "--set", "model.backbone=test_resnet", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert sum(sum(row.get("positives", [])) for row in report["boxes"]) > 0
    assert report["input_height"] <= report["height"]


def test_data_of_other_classes_than_the_runs_are_refused(call, undisturbed, tmp_path):
    outcome = undisturbed("center")
    folder = write_coco(tmp_path / "two-classes")
    where = ("--run", "center", "--results", outcome.path.parent.parent)
    result = call(*where, "--data", f"coco:{folder}")
    assert result.exit_code == 2
    assert "has 2 classes" in result.stderr
    assert "trained on 10" in result.stderr
