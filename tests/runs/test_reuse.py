"""Runs that differ in their evaluation alone train once."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from harness.core.errors import UserError
from harness.records.store import ResultsStore
from harness.runs.run import evaluate_run, run
from tests.support.runs import request, small_protocol


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_run_that_is_evaluated_otherwise_trains_once(tmp_path, ema):
    average = {"schedule": {"ema": ema}}
    first = run(request(tmp_path, "iqdet", small_protocol(**average)))
    second = run(request(tmp_path, "iqdet", small_protocol(**average, evaluation={"test_flip": True})))
    assert second.record.run_id != first.record.run_id
    assert second.record.progress["trained_as"] == first.record.run_id
    for name in ("network.safetensors", "assigner.safetensors"):
        mine, twins = load_file(second.work_dir / name), load_file(first.work_dir / name)
        assert mine.keys() == twins.keys()
        assert all(torch.equal(mine[key], twins[key]) for key in mine)
    assert (second.record.equal, second.record.declares) == (first.record.equal, first.record.declares)
    for key in ("train_s", "step_ms", "assigner_parameters"):
        assert second.record.cost[key] == first.record.cost[key]
    told = {key: value for key, value in second.record.progress.items() if key != "trained_as"}
    assert told == first.record.progress
    traces = [(one.work_dir / "metrics.jsonl").read_text() for one in (first, second)]
    assert traces[0] == traces[1]
    # The metrics are those of these weights under the second protocol, and no copy.
    again = evaluate_run(ResultsStore(tmp_path), second.record.run_id, data="shapes", device="cpu", workers=0)
    assert again == second.record.metrics
    details = json.loads((tmp_path / "details" / f"{second.record.run_id}.json").read_text())
    assert details["trace"]["step"]


def test_what_differs_in_training_or_has_no_weights_here_trains(tmp_path):
    first = run(request(tmp_path, "center", small_protocol()))
    for assigner, protocol in (
        ("atss", small_protocol(evaluation={"nms_iou": 0.5})),
        ("center", small_protocol(evaluation={"every": 1})),
    ):
        assert "trained_as" not in run(request(tmp_path, assigner, protocol)).record.progress
    (first.work_dir / "network.safetensors").unlink()
    assert (
        "trained_as"
        not in run(request(tmp_path, "center", small_protocol(evaluation={"nms_iou": 0.4}))).record.progress
    )


def test_restart_trains_and_damaged_weights_are_told(tmp_path):
    first = run(request(tmp_path, "center", small_protocol()))
    trained = run(request(tmp_path, "center", small_protocol(evaluation={"nms_iou": 0.5}), restart=True))
    assert "trained_as" not in trained.record.progress
    for left in (first, trained):
        (left.work_dir / "network.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"network\.safetensors cannot be read"):
        run(request(tmp_path, "center", small_protocol(evaluation={"nms_iou": 0.4})))


def test_weights_from_before_an_option_are_used(tmp_path):
    """A record that does not know an option was trained with its default."""
    first = run(request(tmp_path, "atss", small_protocol()))
    (path,) = ResultsStore(tmp_path).record_files(first.record.run_id)
    content = json.loads(path.read_text())
    del content["options"]["fallback_max"]
    path.write_text(json.dumps(content))
    flipped = small_protocol(evaluation={"test_flip": True})
    assert run(request(tmp_path, "atss", flipped)).record.progress["trained_as"] == first.record.run_id
    other = request(tmp_path, "atss", flipped, options={"fallback_max": True})
    assert "trained_as" not in run(other).record.progress
