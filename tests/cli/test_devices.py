"""``harness run --devices``: mistakes in a line, one program of several processes, and the run that one would make."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from harness.cli import main
from harness.protocol.protocol import load_protocol
from harness.records.store import ResultsStore
from tests.support.runs import DEADLINE, environment, request, run, trace_of, write_coco

BATCH = ("--set", "schedule.batch_size=4")
PROTOCOL = """
[data]
short_edge = 64
long_edge = 64
[model]
backbone = "test_resnet"
frozen_bn = true
channels = 8
head_depth = 1
[schedule]
lr = 0.02
batch_size = 2
steps = 40
warmup_steps = 3
[evaluation]
score_threshold = 0.0
candidates_per_level = 50
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices", "0"], "'--devices': 0 is not in the range"),
        (["--devices", "two"], "'--devices': 'two' is not a valid integer"),
        (["--devices", "3", *BATCH], "schedule.batch_size 4 cannot be shared evenly by 3 processes; --devices 2 fits"),
        (["--devices", "8", *BATCH], "--devices 4 fits"),
        (["--devices", "4", "--device", "cuda", *BATCH], "--devices 4: torch sees 2 GPUs here"),
        (["--devices", "4", *BATCH], "give at most as many, or --device cpu"),
    ],
)
def test_mistakes_take_one_line(monkeypatch, words, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    result = CliRunner().invoke(main, ["run", "-a", "atss", *words])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.parametrize("count", ["1", "2"])
def test_not_under_torchrun_as_well(monkeypatch, count):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    result = CliRunner().invoke(main, ["run", "-a", "atss", *BATCH, "--devices", count])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: torchrun has started the processes already; leave out --devices")


@pytest.mark.parametrize(("code", "message"), [(0, ""), (75, "interrupted; checkpoint: c"), (2, "error: no data")])
def test_the_processes_have_the_words_as_typed_and_their_end_is_the_end(monkeypatch, code, message):
    asked = []
    monkeypatch.setattr("harness.core.launch.launch", lambda *given: asked.append(given) or (code, message))
    words = ["--assigner", "iqdet[positives=8]", *BATCH, "--device", "cpu", "--json", "--results", "a b"]
    result = CliRunner().invoke(main, ["run", *words, "--devices", "2"])
    assert (result.exit_code, result.stdout, result.stderr.strip()) == (code, "", message)
    [(passed, count)] = asked
    assert count == 2
    assert passed[:4] == [sys.executable, "-m", "harness.cli", "run"]
    assert sorted(passed[4:]) == sorted(words)


@pytest.mark.slow  # six processes load torch
def test_stopped_and_resumed_it_is_the_run_of_one_process(tmp_path):
    data = f"coco:{write_coco(tmp_path / 'data')}"
    (tmp_path / "small.toml").write_text(PROTOCOL)
    words = ["run", "-a", "atss", "--data", data, "--protocol", "small.toml", "--device", "cpu", "--workers", "0"]
    start = [sys.executable, "-m", "harness.cli", *words, "--devices", "2"]
    own = {"env": environment(), "cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(start, **own) as stopped:
        for line in stopped.stdout:
            if line.startswith("step 1/"):
                stopped.send_signal(signal.SIGTERM)
                break
        said = stopped.communicate(timeout=DEADLINE)[1].splitlines()
    assert stopped.returncode == 75, said
    assert [line.partition(": ")[0] for line in said] == ["interrupted; checkpoint", "go on with"]
    assert said[1].endswith("--devices 2")
    going_on = subprocess.run([*start, "--resume", "--json"], **own, timeout=DEADLINE, check=False)
    assert going_on.returncode == 0, going_on.stderr
    assert "continuing at step" in going_on.stderr
    assert json.loads(going_on.stdout)["record"]["environment"]["processes"] == 2

    [two] = ResultsStore(tmp_path / "results").load_all()[0]
    assert two.command.startswith("harness run --assigner atss")
    assert two.command.endswith("--devices 2")
    one = run(request(tmp_path / "one", "atss", load_protocol(str(tmp_path / "small.toml")), data=data))
    assert one.record.run_id == two.run_id
    first, second = trace_of(one.work_dir), trace_of(tmp_path / "results" / "work" / two.run_id)
    assert [line["step"] for line in first] == [line["step"] for line in second] == list(range(40))
    for a, b in zip(first, second, strict=True):
        assert b["losses"] == pytest.approx(a["losses"], rel=1e-4, abs=1e-5)
