"""What every assigner's training computes stays to the last bit: losses and weights of three steps.

Bits depend on torch and on the processor, so that the stored ones are held only where they were made; elsewhere the
test says so. `python -m tests.repository.test_traces_stay` writes those of this machine, on a commit that is right.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import assigners
from harness.cli import main

STORED = Path(__file__).parent / "traces.json"
PROTOCOL = """
[data]
train_images = 6
val_images = 2
short_edge = 64
long_edge = 64
[model]
backbone = "test_resnet"
channels = 8
head_depth = 1
[schedule]
optimizer = "adamw"
lr = 3e-3
weight_decay = 0.05
batch_size = 2
steps = 3
warmup_steps = 2
decay = "cosine"
clip_norm = 10.0
ema = 0.5
"""


def here() -> dict[str, str]:
    """What bits depend on."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line), "unknown")
    return {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability(), "processor": model}


def traced(name: str, folder: Path) -> dict[str, Any]:
    """Losses of each step and the digest of all weights after the last, the assigner's own included."""
    protocol = folder / "trace.toml"
    protocol.write_text(PROTOCOL)
    words = ["run", "-a", name, "--protocol", str(protocol), "--results", str(folder), "--device", "cpu",
             "--threads", "1", "--workers", "0"]  # fmt: skip
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    (trace,) = folder.glob("work/*/metrics.jsonl")
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    digest = hashlib.sha256()
    for file in sorted(trace.parent.glob("*.safetensors")):
        content = file.read_bytes()
        digest.update(content[8 + int.from_bytes(content[:8], "little") :])  # the header names the run
    losses = {loss: [line["losses"][loss].hex() for line in lines] for loss in lines[0]["losses"]}
    return {"losses": losses, "weights": digest.hexdigest()}


@pytest.mark.parametrize("name", [entry.name for entry in assigners.registry.catalogue()])
def test_three_steps_stay_bit_for_bit(name, tmp_path):
    stored = json.loads(STORED.read_text())
    if stored["made on"] != here():
        pytest.skip(f"traces were made on {stored['made on']}, and bits depend on that; this is {here()}")
    assert traced(name, tmp_path) == stored["traces"][name]


def write() -> None:
    """Store the traces of this machine."""
    traces = {}
    for entry in assigners.registry.catalogue():
        with tempfile.TemporaryDirectory() as folder:
            traces[entry.name] = traced(entry.name, Path(folder))
    STORED.write_text(json.dumps({"made on": here(), "traces": traces}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()
