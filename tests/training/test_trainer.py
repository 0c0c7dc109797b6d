"""Training: schedule, optimiser, equal starts, equal bits, stops and non-finite numbers."""

from __future__ import annotations

import json
import os
import signal
from math import cos, pi

import pytest
import torch
from safetensors.torch import load_file

import detector.fcos
from harness.core.errors import Interrupted, RunFailed
from harness.protocol.protocol import ScheduleSection
from harness.training.build import attach_assigner, build_detector, build_optimizer, learning_rate
from harness.training.trainer import Trainer, between_steps
from tests.support.runs import STEPS, files_of, request, run, small_protocol, trace_of

NAMES = ("center", "atss", "iqdet")


def test_step_decay_and_linear_warm_up():
    schedule = ScheduleSection(lr=0.01, steps=900, warmup_steps=100, warmup_factor=0.1, decay_at=(2 / 3, 8 / 9))
    expected = {0: 0.001, 50: 0.0055, 99: 0.00991, 100: 0.01, 599: 0.01, 600: 0.001, 799: 0.001, 800: 1e-4, 899: 1e-4}
    for step, rate in expected.items():
        assert learning_rate(schedule, step) == pytest.approx(rate), step


def test_cosine_decay_and_no_warm_up():
    schedule = ScheduleSection(lr=0.2, steps=100, warmup_steps=0, decay="cosine")
    for step in (0, 1, 50, 99):
        assert learning_rate(schedule, step) == pytest.approx(0.1 * (1 + cos(pi * step / 100)))
    warm = ScheduleSection(lr=0.2, steps=100, warmup_steps=10, warmup_factor=0.5, decay="cosine")
    assert learning_rate(warm, 5) == pytest.approx(0.75 * learning_rate(schedule, 5))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay_and_the_assigner_trains_too(kind):
    protocol = small_protocol(model={"frozen_stages": 1}, schedule={"optimizer": kind, "weight_decay": 0.05})
    model = build_detector(protocol, 3, 0)
    attach_assigner(model, "iqdet", {}, 0)
    optimizer = build_optimizer(protocol.schedule, model)
    names = {id(p): n for n, p in model.named_parameters()}
    decayed, plain = [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.05, 0.0]
    assert decayed | plain == {n for n, p in model.named_parameters() if p.requires_grad}
    assert not decayed & plain
    assert "head.logits.weight" in decayed
    assert {"head.logits.bias", "head.scales", "head.class_tower.1.weight"} <= plain
    assert any(n.startswith("assigner.encoder.") for n in decayed)
    assert not any(n.startswith("backbone.body.conv1.") for n in decayed | plain)


def test_every_assigner_starts_from_the_same_detector():
    protocol = small_protocol()
    states = []
    for name in NAMES:
        torch.manual_seed(len(states))  # the global stream must not matter
        model = build_detector(protocol, 3, 5)
        attach_assigner(model, name, {}, 5)
        states.append(model.network_state())
    for other in states[1:]:
        assert list(states[0]) == list(other)
        assert all(torch.equal(value, other[key]) for key, value in states[0].items())
    different = build_detector(protocol, 3, 6).network_state()
    assert not torch.equal(different["head.logits.weight"], states[0]["head.logits.weight"])


@pytest.fixture
def spy(monkeypatch):
    """Every step's batch and the network before it."""
    steps = []
    original = Trainer._step

    def step(self, batch, index, logged):
        steps.append((batch, {k: v.clone() for k, v in self.model.network_state().items()}))
        return original(self, batch, index, logged)

    monkeypatch.setattr(Trainer, "_step", step)
    return steps


def test_every_assigner_sees_the_same_images_in_the_same_order(tmp_path, spy):
    protocol = small_protocol(schedule={"steps": 3}, data={"scale_jitter": (0.8, 1.2), "color_jitter": 0.3})
    for name in NAMES:
        run(request(tmp_path, name, protocol))
    assert len(spy) == 9
    assert all(torch.equal(v, spy[3][1][k]) for k, v in spy[0][1].items())
    for index in range(3):
        first = spy[index][0]
        for other, _ in (spy[3 + index], spy[6 + index]):
            assert first.indices == other.indices
            assert torch.equal(first.images, other.images)
            for a, b in zip(first.targets, other.targets, strict=True):
                assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits(tmp_path, undisturbed, name):
    first, second = undisturbed(name), run(request(tmp_path, name))
    assert files_of(first) == files_of(second)
    assert first.record.metrics == second.record.metrics


def test_another_seed_is_another_run(tmp_path, undisturbed):
    first, other = undisturbed("center"), run(request(tmp_path, "center", seed=1))
    assert other.record.run_id != first.record.run_id
    assert files_of(other)[0] != files_of(first)[0]


def test_the_trace_tells_every_step(undisturbed):
    outcome = undisturbed("iqdet")
    lines = trace_of(outcome.work_dir)
    assert [line["step"] for line in lines] == list(range(STEPS))
    schedule = small_protocol().schedule
    for line in lines:
        assert line["lr"] == learning_rate(schedule, line["step"])
        assert {"class", "box", "quality", "iq"} <= line["losses"].keys()
        assert {"positives_per_box", "iou_of_positives"} <= line["statistics"].keys()
    assert lines[-1]["losses"] == outcome.record.progress["losses"]


def test_evaluating_on_the_way_changes_nothing_but_the_curve(tmp_path, undisturbed):
    plain = undisturbed("iqdet")
    watched = run(request(tmp_path, "iqdet", small_protocol(evaluation={"every": 4})))
    assert list(watched.record.progress["curve"]) == ["4"]  # the last step is the record's own
    assert watched.record.progress["curve"]["4"].keys() >= {"AP", "AP50"}
    assert plain.record.progress["curve"] == {}
    assert files_of(plain)[0] == files_of(watched)[0]
    weights = [load_file(outcome.work_dir / "network.safetensors") for outcome in (plain, watched)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_the_average_is_what_is_evaluated(tmp_path, undisturbed):
    averaged, plain = undisturbed("center"), run(request(tmp_path, "center", small_protocol(schedule={"ema": 0.0})))
    assert files_of(plain)[0] == files_of(averaged)[0]  # the average does not steer the training
    weights = [load_file(outcome.work_dir / "network.safetensors") for outcome in (plain, averaged)]
    assert weights[0].keys() == weights[1].keys()
    assert not torch.equal(weights[0]["head.logits.weight"], weights[1]["head.logits.weight"])


@pytest.fixture
def poisoned(monkeypatch):
    """Make one loss non-finite from a given step on; returns the parameters at that moment."""
    state = {"at": 6, "calls": 0, "before": None, "factor": float("nan"), "gradient_only": False}
    original = detector.fcos.detection_losses

    def losses(settings, grid, targets, predictions, *rest):
        result, statistics = original(settings, grid, targets, predictions, *rest)
        if state["calls"] >= state["at"]:
            if state["gradient_only"]:
                predictions.logits.register_hook(lambda gradient: gradient * state["factor"])
            else:
                result["box"] = result["box"] * state["factor"]
        state["calls"] += 1
        return result, statistics

    monkeypatch.setattr(detector.fcos, "detection_losses", losses)
    original_step = Trainer._step

    def step(self, batch, index, logged):
        state["trainer"] = self
        if index == state["at"]:
            state["images"] = [self.name_of(i) for i in batch.indices]
            state["before"] = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        return original_step(self, batch, index, logged)

    monkeypatch.setattr(Trainer, "_step", step)
    return state


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("factor", "gradient_only"), [(float("nan"), False), (float("inf"), False), (float("nan"), True)]
)
def test_a_non_finite_loss_stops_the_run_and_reaches_no_parameter(tmp_path, poisoned, optimizer, factor, gradient_only):
    poisoned |= {"factor": factor, "gradient_only": gradient_only}
    protocol = small_protocol(schedule={"optimizer": optimizer, "clip_norm": 0.0})
    with pytest.raises(RunFailed, match=r"non-finite loss or gradient at step 6 .*box") as failure:
        run(request(tmp_path, "center", protocol, checkpoint_seconds=0.0))
    for name in poisoned["images"]:
        assert name in str(failure.value)
    trainer = poisoned["trainer"]
    assert all(torch.equal(p, poisoned["before"][n]) for n, p in trainer.model.named_parameters())
    assert all(torch.isfinite(v).all() for v in trainer.evaluated.state_dict().values())
    assert not (tmp_path / "runs").exists()
    work = tmp_path / "work" / trainer.run_id
    assert json.loads((work / "checkpoint" / "state.json").read_text())["step"] == 6
    assert [line["step"] for line in trace_of(work)] == list(range(6))


def test_a_non_finite_loss_on_the_last_step_leaves_no_record(tmp_path, poisoned):
    poisoned["at"] = STEPS - 1
    with pytest.raises(RunFailed, match=f"step {STEPS - 1}"):
        run(request(tmp_path))
    assert not (tmp_path / "runs").exists()


def test_a_failed_run_goes_on_from_its_last_good_step(tmp_path, undisturbed, poisoned):
    with pytest.raises(RunFailed):
        run(request(tmp_path, "iqdet", checkpoint_seconds=0.0))
    poisoned["at"] = 10**9
    assert files_of(run(request(tmp_path, "iqdet", resume=True))) == files_of(undisturbed("iqdet"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_is_taken_between_steps_and_the_run_goes_on_later(tmp_path, undisturbed, monkeypatch, number):
    original = Trainer._step

    def step(self, batch, index, logged):
        if index == 4:
            os.kill(os.getpid(), number)
        return original(self, batch, index, logged)

    ours = signal.signal(number, signal.default_int_handler)  # a test may run where SIGHUP is ignored
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_step", step)
            with pytest.raises(Interrupted) as stopped:
                run(request(tmp_path, "iqdet", command="harness run -a iqdet"))
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, ours)
    assert stopped.value.code == (130 if number == signal.SIGINT else 75)
    assert stopped.value.command == "harness run -a iqdet --resume"
    assert json.loads((stopped.value.path / "state.json").read_text())["step"] == 5
    resumed, clean = run(request(tmp_path, "iqdet", resume=True)), undisturbed("iqdet")
    assert files_of(resumed) == files_of(clean)
    assert resumed.record.metrics == clean.record.metrics


def test_a_second_signal_stops_at_once_and_helpers_ignore_it():
    with between_steps(True) as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with between_steps(False) as stopped:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert not stopped()


def test_what_is_asked_twice_by_others_is_asked_once():
    """torchrun passes on what its whole group has had; ``nohup`` has said that it is not to be heard."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with between_steps(True) as stopped:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopped()
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            assert stopped() == 75
    finally:
        signal.signal(signal.SIGHUP, before)


def test_frozen_parts_stay_as_they_were(tmp_path, spy):
    protocol = small_protocol(model={"frozen_stages": 3, "frozen_bn": True}, schedule={"steps": 3})
    run(request(tmp_path, "center", protocol))
    first, last = spy[0][1], spy[-1][1]
    changed = {k.split(".")[2] for k in first if k.startswith("backbone.body.") and not torch.equal(first[k], last[k])}
    assert changed
    assert not changed & {"conv1", "bn1", "layer1"}
