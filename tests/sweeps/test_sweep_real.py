"""One sweep end to end: real training, a plugin that breaks, a crash, and everything mended by the same command."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from assigners import registry
from assigners.contract import Assigner, HeadInfo
from assigners.rules.center import CenterSampling
from harness.cli import main
from harness.core.device import peak_memory_mb, reset_peak_memory
from harness.records.store import ResultsStore
from harness.training.trainer import Trainer

STEPS = 3
SMALL = {
    "schedule.steps": STEPS, "schedule.batch_size": 2, "data.short_edge": 64, "data.long_edge": 64,
    "data.train_images": 4, "data.val_images": 2, "model.channels": 8, "evaluation.every": 1,
}  # fmt: skip


class Fragile(Assigner):
    """What `center` says, until it breaks."""

    broken = True

    def __init__(self, head: HeadInfo) -> None:
        super().__init__()
        self.rule = CenterSampling(head)

    def forward(self, grid, targets, predictions, step):
        if self.broken and step.index == 1:
            raise ZeroDivisionError("broken here")
        return self.rule(grid, targets, predictions, step)


@pytest.fixture
def fragile(monkeypatch):
    points = [EntryPoint("fragile", f"{__name__}:Fragile", registry.ENTRY_POINT_GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda *, group: points)
    registry._plugins.cache_clear()


def test_a_sweep_survives_what_befalls_it(tmp_path, monkeypatch, fragile):
    monkeypatch.chdir(tmp_path)
    overrides = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    words = ["sweep", "-a", "center,fragile", "--seeds", "2", "-p", "tiny", *overrides, "--device", "cpu"]
    words += ["--threads", "1", "--workers", "0"]
    store, original = ResultsStore(Path("results")), Trainer._step

    # A plug is pulled in the second run of seed 0's successor: seed 0 is through, one of its runs failed.
    def step(self, batch, index, logged):
        if self.seed == 1 and index == 2:
            raise KeyboardInterrupt
        return original(self, batch, index, logged)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        stopped = CliRunner().invoke(main, words)
    assert stopped.exit_code == 130, stopped.output
    (done,) = store.load_all()[0]
    assert (done.assigner, done.seed) == ("center", 0)
    (failed,) = (json.loads(path.read_text()) for path in Path("results/failed").iterdir())
    assert (failed["assigner"], failed["error"], failed["step"]) == ("fragile", "ZeroDivisionError: broken here", 0)
    assert "broken here" in (store.folder(failed["run_id"]).path / "error.txt").read_text()

    command = shlex.split(stopped.stderr.partition("go on with: ")[2])
    looked = json.loads(CliRunner().invoke(main, [*command[1:], "--dry-run", "--json"]).stdout)
    assert [run["state"] for run in looked["runs"]] == ["done", "failed", "interrupted", "missing"]
    assert looked["assigners"][0]["basis"] == "1 run of center"

    resumed = CliRunner().invoke(main, command[1:])
    assert resumed.exit_code == 1, resumed.output
    assert "continuing at step 2" in resumed.stdout
    assert len(store.load_all()[0]) == 2

    monkeypatch.setattr(Fragile, "broken", False)
    mended = CliRunner().invoke(main, [*command[1:], "--rerun", "failed", "--json"])
    assert mended.exit_code == 0, mended.output
    outcomes = [run["outcome"] for run in json.loads(mended.stdout)["runs"]]
    assert outcomes == ["done before", "ran", "done before", "ran"]
    assert not [*Path("results/failed").iterdir()]
    assert not (store.folder(failed["run_id"]).path / "error.txt").exists()
    records = store.load_all()[0]
    assert {(record.assigner, record.seed) for record in records} == {
        (name, seed) for name in ("center", "fragile") for seed in (0, 1)
    }
    assert len({record.protocol.hash for record in records}) == 1
    assert shlex.split(records[0].command)[:4] == ["harness", "run", "--assigner", "center"]


def test_the_memory_of_a_run_is_not_that_of_the_runs_before_it():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux can measure the peak anew")
    device = torch.device("cpu")
    block = bytearray(300 * 2**20)
    block[::4096] = b"1" * len(block[::4096])
    before = peak_memory_mb(device)
    del block
    reset_peak_memory(device)
    assert peak_memory_mb(device) < before - 200
