"""A run that has nothing to learn from in its first steps stops, and says whether objects or positives are missing."""

from __future__ import annotations

import json

import pytest

from harness.core.errors import RunFailed
from harness.data import splits
from harness.training import beginning, trainer
from harness.training.beginning import WATCHED, count, expect_something_to_learn, unseen
from harness.training.trainer import Trainer
from tests.support.runs import STEPS, files_of, request, run, small_protocol, trace_of, write_coco

PROTOCOL = small_protocol(data={"train_images": None, "val_images": None})
NO_POSITIVE = (
    r"^the first {steps} steps had {objects} objects and no positive sample, so nothing is learnt; likely boxes in "
    r"other units than pixels, or too small at a short edge of 64 px; look at .* with: harness data coco:"
)


def coco(root, boxes):
    """A COCO folder whose training boxes are replaced, or none."""
    path = write_coco(root) / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [{**each, "bbox": boxes} for each in content["annotations"]] if boxes else []
    path.write_text(json.dumps(content))
    return f"coco:{root}"


@pytest.fixture
def tiny_boxes(tmp_path):
    """Between the locations of the finest level, so that none lies inside."""
    return coco(tmp_path / "data", [9, 9, 2, 2])


@pytest.mark.parametrize("name", ["center", "atss", "free_anchor", "auto_assign", "sim_ota"])
def test_objects_without_a_positive_stop_the_run_at_its_last_step(tmp_path, tiny_boxes, name):
    with pytest.raises(RunFailed, match=NO_POSITIVE.format(steps=STEPS, objects=r"\d+")):
        run(request(tmp_path, name, PROTOCOL, data=tiny_boxes))
    (work,) = (tmp_path / "work").iterdir()
    assert len(trace_of(work)) == STEPS
    assert not (work / "trained.json").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["center", "free_anchor", "auto_assign"])
def test_images_without_an_object_are_told_apart(tmp_path, monkeypatch, name):
    monkeypatch.setattr(splits, "_examine", lambda *_: None)  # else the data itself is refused; see test_splits
    protocol = PROTOCOL.model_copy(update={"schedule": PROTOCOL.schedule.model_copy(update={"steps": 1})})
    with pytest.raises(RunFailed, match=r"^the first step had no object, so nothing is learnt; likely the annotations"):
        run(request(tmp_path, name, protocol, data=coco(tmp_path / "data", None)))


def test_the_first_steps_decide_and_no_later_one(tmp_path, tiny_boxes, monkeypatch):
    monkeypatch.setattr(trainer, "WATCHED", 3)
    with pytest.raises(RunFailed, match=NO_POSITIVE.format(steps=3, objects=r"\d+")):
        run(request(tmp_path, "center", PROTOCOL, data=tiny_boxes))
    (work,) = (tmp_path / "work").iterdir()
    assert len(trace_of(work)) == 3


def test_what_was_seen_before_a_stop_counts_after_it(tmp_path, tiny_boxes):
    """Objects of steps before and after; and of a checkpoint of an older version nothing is concluded."""
    with pytest.raises(RunFailed) as whole:
        run(request(tmp_path / "whole", "center", PROTOCOL, data=tiny_boxes))
    original = Trainer._step

    def step(self, batch, index, logged):
        if index == 5:
            raise RunFailed("power cut")
        return original(self, batch, index, logged)

    asked = request(tmp_path, "center", PROTOCOL, data=tiny_boxes, checkpoint_seconds=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(RunFailed, match="power cut"):
            run(asked)
    resumed = request(tmp_path, "center", PROTOCOL, data=tiny_boxes, resume=True)
    with pytest.raises(RunFailed) as second:
        run(resumed)
    assert str(second.value) == str(whole.value)
    (state,) = tmp_path.glob("work/*/checkpoint/state.json")
    content = json.loads(state.read_text())
    assert content["step"] == 5
    assert content["beginning"]["objects"] > content["beginning"]["positives"] == 0
    del content["beginning"]
    state.write_text(json.dumps(content))
    assert run(resumed).record.progress["statistics"]["positives_per_box"] == 0


def test_watching_changes_no_bit(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(Trainer, "_watch", lambda *_: None)
    assert files_of(run(request(tmp_path, "iqdet"))) == files_of(undisturbed("iqdet"))


def test_positives_in_any_step_are_enough():
    seen = unseen()
    for positives in (0.0, 3.0, 0.0):
        count(seen, {"positives_per_box": positives}, {"positives_per_box": 2.0}, frozenset())
    assert seen == {"objects": 6.0, "positives": 3.0}
    expect_something_to_learn(seen, WATCHED, 800, "shapes")


@pytest.mark.parametrize(
    ("own", "replaced", "stops"),
    [
        ({}, frozenset(), True),
        ({"spread": 4.0}, frozenset(), True),  # the shared box term has no sample, whatever it counts
        ({"spread": 0.0}, frozenset({"box"}), True),
        ({"spread": 4.0}, frozenset({"box"}), False),
        ({}, frozenset({"box"}), False),  # nothing is known of what it learns from
        ({}, frozenset({"class"}), True),
    ],
)
def test_an_assigner_with_a_box_loss_of_its_own_needs_no_positive_sample(own, replaced, stops):
    seen = unseen()
    shared = {"positives_per_box": 5.0, "iou_of_positives": 0.0}
    count(seen, {"positives_per_box": 0.0}, {**shared, **own}, replaced)
    if stops:
        with pytest.raises(RunFailed, match=r"5 objects and no positive sample, .*harness data 'coco:my data'$"):
            expect_something_to_learn(seen, 100, 800, "coco:my data")
    else:
        expect_something_to_learn(seen, 100, 800, "coco:my data")


def test_a_hundred_steps_are_watched():
    assert beginning.WATCHED == trainer.WATCHED == 100
