"""Real runs of the engine, as small as they can be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.protocol.protocol import Protocol
from harness.runs.run import RunRequest, run

STEPS = 8
DEADLINE = 300  # s to wait for a child process before the test fails; a bound, not a measurement
REPOSITORY = Path(__file__).resolve().parents[2]

SECTIONS: dict[str, dict[str, Any]] = {
    "data": {"train_images": 6, "val_images": 4, "short_edge": 64, "long_edge": 64},
    "model": {"backbone": "test_resnet", "channels": 8, "head_depth": 1},
    "schedule": {
        "optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.05, "batch_size": 2, "steps": STEPS,
        "warmup_steps": 3, "decay": "cosine", "clip_norm": 10.0, "ema": 0.5,
    },
    "evaluation": {"batch_size": 4, "score_threshold": 0.0, "candidates_per_level": 50},
}  # fmt: skip


def small_protocol(**changes: dict[str, Any]) -> Protocol:
    """The smallest run that trains and evaluates; `changes` update sections."""
    sections = {name: {**section, **changes.get(name, {})} for name, section in SECTIONS.items()}
    return Protocol.model_validate(
        {"name": "small-test", **sections, **{k: changes[k] for k in changes.keys() - sections}}
    )


def unshared_protocol() -> Protocol:
    """Without batch statistics, which no two processes share, and with SGD: AdamW hides gradients of a wrong scale."""
    return small_protocol(
        data={"train_images": None, "val_images": None},
        model={"frozen_bn": True},
        schedule={"steps": 6, "batch_size": 2, "optimizer": "sgd", "lr": 0.02, "clip_norm": 0.0},
    )


def toml_of(protocol: Protocol) -> str:
    """The file of a protocol, without its name."""
    lines = []
    for section, values in protocol.content().items():
        lines += [
            f"[{section}]",
            *(f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None),
        ]
    return "\n".join(lines)


def request(results: Path, assigner: str = "center", protocol: Protocol | None = None, **changes: Any) -> RunRequest:
    """A run on the embedded shapes on one thread, without checkpoints but the last."""
    given: dict[str, Any] = {
        "options": {}, "data": "shapes", "device": "cpu", "threads": 1, "workers": 0, "checkpoint_seconds": 1e9,
        "command": "harness run",
    }  # fmt: skip
    return RunRequest(assigner, protocol=protocol or small_protocol(), results=results, **{**given, **changes})


def write_coco(root: Path, images: int = 6) -> Path:
    """A COCO folder in which every third image has boxes: of two processes, one is often without any."""
    rng = np.random.default_rng(0)
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    for split in ("train", "val"):
        content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": categories}
        (root / split).mkdir(parents=True, exist_ok=True)
        for index in range(images):
            name = f"{index}.png"
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / split / name)
            content["images"].append({"id": index + 1, "file_name": name, "width": 64, "height": 64})
            for number in range(3 if index % 3 == 0 else 0):
                content["annotations"].append({
                    "id": 10 * index + number + 1, "image_id": index + 1, "category_id": 1 + number % 2,
                    "bbox": [4 + 8 * number, 6, 30, 20 + 10 * number], "area": 600, "iscrowd": 0,
                })  # fmt: skip
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def files_of(outcome: Any) -> tuple[bytes, bytes]:
    """What two equal runs have in common to the bit: the trace and the evaluated weights."""
    work = outcome.work_dir
    return (work / "metrics.jsonl").read_bytes(), (work / "network.safetensors").read_bytes()


def trace_of(work: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics file."""
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]


def environment(**more: str) -> dict[str, str]:
    """Of a child process: one thread, and the packages from here whether they are installed or not."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def together(folder: Path, text: str, *words: str, deadline: float = DEADLINE, code: int = 0) -> str:
    """Run a script as two processes in a folder, and what they say besides their output."""
    script = folder / "shared.py"
    script.write_text(text)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    group = subprocess.Popen(
        [*start, str(script), *words], env=environment(), text=True, cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, errors = group.communicate(timeout=deadline)
    finally:
        group.terminate()  # torchrun ends its processes with itself; where it has ended this does nothing
    assert group.returncode == code, errors[-3000:]
    return errors


__all__ = [
    "DEADLINE", "STEPS", "environment", "files_of", "request", "run", "small_protocol", "together", "toml_of",
    "trace_of",
    "unshared_protocol", "write_coco",
]  # fmt: skip
