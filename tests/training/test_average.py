"""The average of the weights: its decay, its numbers, its resumption, and that a short run is not spoilt by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from assigners.contract import Step
from detector import ImageBatch
from harness.core.errors import RunFailed, UserError
from harness.protocol.protocol import ScheduleSection, load_protocol, protocol_of
from harness.training.build import ema_decay
from harness.training.trainer import Trainer
from tests.support.runs import STEPS, files_of, request, run, small_protocol


def averaged(decay, *, ramp, **changes):
    return small_protocol(schedule={"ema": decay, "ema_ramp": ramp, **changes})


def test_the_decay_rises_to_its_value_and_stays():
    schedule = ScheduleSection(ema=0.9, ema_ramp=True)
    for updates, decay in {0: 0.1, 1: 2 / 11, 10: 11 / 20, 80: 0.9, 79: 80 / 89, 81: 0.9, 10**6: 0.9}.items():
        assert ema_decay(schedule, updates) == pytest.approx(decay), updates
    assert {ema_decay(ScheduleSection(ema=0.9), updates) for updates in (0, 1, 50, 1000)} == {0.9}


@pytest.fixture
def history(monkeypatch):
    """The network's parameters and buffers of floats after every step."""
    states = []
    original = Trainer._step

    def step(self, *arguments):
        pending = original(self, *arguments)
        states.append(
            {k: v.double().numpy().copy() for k, v in self.model.network_state().items() if v.is_floating_point()}
        )
        return pending

    monkeypatch.setattr(Trainer, "_step", step)
    return states


# A decay that the ramp reaches after four updates, one that it never does in so few, and none.
@pytest.mark.parametrize(("decay", "ramp"), [(0.35, True), (0.998, True), (0.7, False)])
def test_the_average_of_a_few_steps_is_that_of_its_definition(tmp_path, history, decay, ramp):
    outcome = run(request(tmp_path, protocol=averaged(decay, ramp=ramp)))
    assert len(history) == STEPS
    found = load_file(outcome.work_dir / "network.safetensors")
    expected = history[0]  # the first network is the first average
    for t, state in enumerate(history[1:], start=1):
        d = min(decay, (1 + t) / (10 + t)) if ramp else decay
        expected = {name: d * expected[name] + (1 - d) * value for name, value in state.items()}
    moved = {name for name in expected if np.abs(history[-1][name] - expected[name]).max() > 1e-4}
    assert {"head.logits.weight", "backbone.body.bn1.running_var"} <= moved  # or the test would tell nothing
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_stopped_run_goes_on_with_the_decay_of_its_step(tmp_path, undisturbed, monkeypatch):
    protocol = averaged(0.998, ramp=True)
    original = Trainer._step

    def step(self, batch, index, logged):
        if index == 5:
            raise RunFailed("power cut")
        return original(self, batch, index, logged)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(RunFailed):
            run(request(tmp_path, "iqdet", protocol, checkpoint_seconds=0.0))
    resumed, clean = run(request(tmp_path, "iqdet", protocol, resume=True)), undisturbed("iqdet", protocol)
    assert files_of(resumed) == files_of(clean)
    assert resumed.record.metrics == clean.record.metrics


def test_new_protocols_have_the_ramp_and_old_ones_stay():
    new = load_protocol("tiny", ("schedule.ema=0.998",))
    assert new.schedule.ema_ramp
    assert new.content()["schedule"]["ema_ramp"] is True
    assert protocol_of(new.content(), "new").digest == new.digest
    old = load_protocol("tiny", ("schedule.ema=0.998", "schedule.ema_ramp=false"))
    assert "ema_ramp" not in old.content()["schedule"]
    assert not protocol_of(old.content(), "old").schedule.ema_ramp
    assert "ema_ramp" not in load_protocol("tiny").content()["schedule"]
    assert load_protocol("tiny", ("schedule.ema=0",)).digest == load_protocol("tiny").digest


def test_a_ramp_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"ema_ramp is of an average, and ema is 0; set schedule\.ema") as caught:
        load_protocol("tiny", ("schedule.ema_ramp=true",))
    assert "\n" not in str(caught.value)


@pytest.fixture
def last_step(monkeypatch):
    """The trainer and the batch of the last step."""
    kept = {}
    original = Trainer._step

    def step(self, batch, index, logged):
        kept.update(trainer=self, batch=batch)
        return original(self, batch, index, logged)

    monkeypatch.setattr(Trainer, "_step", step)
    return kept


def loss_of(model, batch, steps):
    """All losses of a batch, with running statistics, as in evaluation."""
    model.train().backbone.eval()
    with torch.inference_mode():
        losses = model(ImageBatch(batch.images, tuple(batch.sizes)), batch.targets, Step(0, steps, 1.0))
    return float(sum(losses.values()))


# A few seconds of training, of which enough is left to see.
SHORT = (
    "schedule.steps=40",
    "schedule.batch_size=4",
    "data.train_images=24",
    "data.short_edge=64",
    "data.long_edge=64",
)


def test_a_short_run_is_not_spoilt_by_its_average(tmp_path, last_step):
    losses = {}
    for ramp in (True, False):
        overrides = ("schedule.ema=0.998", f"schedule.ema_ramp={str(ramp).lower()}", "data.val_images=1", *SHORT)
        protocol = load_protocol("tiny", overrides)
        run(request(tmp_path, protocol=protocol))
        trainer = last_step["trainer"]
        pair = (
            loss_of(model, last_step["batch"], protocol.schedule.steps) for model in (trainer.evaluated, trainer.model)
        )
        losses[ramp] = next(pair), next(pair)
    assert losses[True][1] == losses[False][1]  # the same training
    # Measured: as good to 1 %, and 1.6 times as bad without the ramp.
    assert losses[True][0] < 1.15 * losses[True][1]
    assert losses[False][0] > 1.3 * losses[False][1]
