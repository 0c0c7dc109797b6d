"""A run from request to record, its checkpoints, a kill in the middle, and two processes instead of one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from harness.core.device import pick_device
from harness.core.errors import RunFailed, UserError
from harness.records.store import ResultsStore
from harness.runs.run import evaluate_run
from harness.training.build import attach_assigner, build_detector
from harness.training.trainer import Trainer
from tests.support.runs import STEPS, request, run, small_protocol, trace_of, write_coco


def test_a_run_leaves_a_valid_record_and_what_belongs_to_it(undisturbed):
    outcome = undisturbed("iqdet")
    record = outcome.record
    assert json.loads(outcome.path.read_text()) == record.as_json()
    assert record.assigner == "iqdet"
    assert record.options["positives"] == 12
    assert record.changed_options == {}
    assert record.protocol.hash == small_protocol().digest
    assert record.metrics.bins["centre_fill"]
    assert record.cost.assigner_parameters > 0
    assert record.progress["steps"] == STEPS
    assert "iqdet" in outcome.leaderboard.read_text()
    kept = {"lock", "metrics.jsonl", "network.safetensors", "assigner.safetensors", "samples"}
    assert {path.name for path in outcome.work_dir.iterdir()} == kept


def test_only_the_network_is_counted_and_saved(undisturbed):
    outcomes = [undisturbed(name) for name in ("center", "iqdet")]
    assert outcomes[0].record.cost.parameters == outcomes[1].record.cost.parameters
    assert outcomes[0].record.cost.assigner_parameters == 0
    names = []
    for outcome in outcomes:
        with safe_open(outcome.work_dir / "network.safetensors", "pt") as weights:
            names.append(sorted(weights.keys()))
            about = json.loads(weights.metadata()["about"])
        assert about["run_id"] == outcome.record.run_id
        assert about["classes"] == outcome.record.data.classes
    assert names[0] == names[1]


def test_changed_options_and_a_repeat(tmp_path):
    protocol = small_protocol(schedule={"steps": 1})
    asked = request(tmp_path, "center", protocol, options={"radius": "2"})
    first, second = run(asked), run(asked)
    assert first.record.options == first.record.changed_options == {"radius": 2.0}
    assert first.record.run_id == second.record.run_id
    assert second.path.name == first.path.name.replace(".json", ".2.json")
    assert first.record.metrics == second.record.metrics
    assert len(trace_of(second.work_dir)) == 1  # of this attempt alone


@pytest.mark.parametrize("name", ["center", "iqdet"])
def test_evaluating_again_gives_the_records_numbers(undisturbed, name):
    outcome = undisturbed(name)
    store = ResultsStore(outcome.path.parents[1])
    again = evaluate_run(store, outcome.record.run_id, data="shapes", device="cpu", workers=0)
    assert again == outcome.record.metrics


def test_evaluating_needs_weights_and_the_same_classes(tmp_path, undisturbed):
    record = undisturbed("center").record
    store = ResultsStore(tmp_path)
    with pytest.raises(UserError, match="no run"):
        evaluate_run(store, record.run_id, data="shapes")
    store.save(record)
    with pytest.raises(UserError, match=r"no weights at .*train it here with: harness run"):
        evaluate_run(store, record.run_id, data="shapes")
    full = ResultsStore(undisturbed("center").path.parents[1])
    with pytest.raises(UserError, match=r"has classes .*the run was trained on"):
        evaluate_run(full, record.run_id, data=f"coco:{write_coco(tmp_path / 'data')}")


def test_a_request_that_cannot_be_met_is_the_users_mistake(tmp_path):
    protocol = small_protocol(model={"backbone": "resnet5O"})
    with pytest.raises(UserError, match="near names"):
        run(request(tmp_path, "center", protocol))
    with pytest.raises(UserError, match="radius"):
        run(request(tmp_path, "center", options={"radius": -1}))
    with pytest.raises(UserError, match="did you mean 'radius'"):
        run(request(tmp_path, "center", options={"radus": 1}))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cpu"):
            pick_device("cuda")


def test_a_run_in_progress_is_left_alone(tmp_path, undisturbed):
    run_id = undisturbed("center").record.run_id
    with ResultsStore(tmp_path).lock(run_id), pytest.raises(UserError, match="in progress"):
        run(request(tmp_path, "center"))


@pytest.mark.parametrize("channels", [8, 32])
def test_one_image_alone_in_the_last_batch(tmp_path, channels):
    protocol = small_protocol(
        data={"train_images": 3, "val_images": 5},
        schedule={"batch_size": 1, "steps": 2},
        model={"channels": channels, "frozen_bn": True},
    )
    assert run(request(tmp_path, "atss", protocol)).record.metrics.AP is not None


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_running_out_of_memory_is_told_in_one_line(tmp_path, monkeypatch, error):
    def step(*_):
        raise error

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(RunFailed, match=r"out of memory on cpu at step 0; lower schedule\.batch_size"):
        run(request(tmp_path, "center"))


def test_other_errors_keep_their_traceback(tmp_path, monkeypatch):
    def step(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(RuntimeError, match="a defect"):
        run(request(tmp_path, "center"))


@pytest.mark.parametrize("voting", [False, True])
def test_what_an_assigner_declares_reaches_inference(voting):
    model = build_detector(small_protocol(), 3, 0)
    attach_assigner(model, "paa", {"score_voting": voting}, 0)
    assert model.inference.score_voting is voting
    assert model.inference.nms_iou == small_protocol().evaluation.nms_iou
