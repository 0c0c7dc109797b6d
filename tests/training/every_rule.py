"""What one process and two train alike: any rule on the same few batches, on the CPU, by the product's own loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from harness.core.distributed import Processes, processes
from harness.core.progress import Reporter
from harness.data.loader import Batch
from harness.protocol.protocol import Protocol
from harness.training.build import attach_assigner, build_detector, resolve_assigner
from harness.training.trainer import Trainer
from tests.support.runs import small_protocol

STEPS, IMAGES, SIDE, CLASSES = 20, 4, 64, 3
# Boxes of each image, in turns: some steps have boxes on one process alone, some on none.
BOXES = ((2, 1, 3, 2), (1, 2, 0, 0), (0, 0, 3, 1), (0, 0, 0, 0), (2, 0, 0, 1))
PLACES = ((6.0, 9.0, 38.0, 41.0), (25.0, 13.0, 60.0, 52.0), (11.0, 30.0, 30.0, 57.0))
CROWD = (40.0, 2.0, 62.0, 20.0)
RATE = 0.01  # halved, it moves every loss by 1e-2 and more
# At the rate of the others its losses, of 15 to 25, grow a difference of the last bit threefold a step, also in one
# process that has the images of each batch in another order.
RATES = {"mdod": 0.001}


def protocol(rule: str) -> Protocol:
    """Without batch statistics, which processes on a CPU do not share, and with SGD: AdamW hides a wrong scale."""
    return small_protocol(
        model={"frozen_bn": True},
        schedule={
            "steps": STEPS,
            "batch_size": IMAGES,
            "optimizer": "sgd",
            "lr": RATES.get(rule, RATE),
            "clip_norm": 0.0,
            "ema": 0.0,
        },
    )


def batches(rank: int, world: int) -> Iterator[Batch]:
    """This process's share of every step: noise, boxes somewhere, a crowd region now and then."""
    noise = torch.Generator().manual_seed(5)
    share = range(rank * IMAGES // world, (rank + 1) * IMAGES // world)
    for step in range(STEPS):
        pixels = torch.randint(0, 256, (IMAGES, 3, SIDE, SIDE), dtype=torch.uint8, generator=noise)
        moves = torch.rand(IMAGES, len(PLACES), 4, generator=noise) * 6 - 3
        targets = []
        for image, count in enumerate(BOXES[step % len(BOXES)]):
            boxes = (torch.tensor(PLACES) + moves[image])[:count]
            crowd = torch.tensor([CROWD])[: int((step + image) % 3 == 0)]
            labels = (torch.arange(count) + step + image) % CLASSES
            identity = torch.tensor(100 * image + step % 7)
            targets.append({"boxes": boxes, "labels": labels, "ignore": crowd, "image_id": identity})
        yield Batch(
            pixels[share.start : share.stop], [(SIDE, SIDE)] * len(share), targets[share.start : share.stop],
            [(1.0, 1.0)] * len(share), list(share), 0,
        )  # fmt: skip


def train(name: str, group: Processes, folder: Path) -> None:
    """Train one rule by the product's own loop; the trace lies in the folder."""
    spec, shared = resolve_assigner(name, {}), protocol(name)
    model = build_detector(shared, CLASSES, 0)
    attach_assigner(model, spec.assigner, spec.options, 0)
    trainer = Trainer(
        model, shared, name, 0, torch.device("cpu"), group, folder / name / "checkpoint",
        folder / name / "metrics.jsonl", str, 1e9,
    )  # fmt: skip
    trainer.fit(batches(group.rank, group.world), Reporter(None, STEPS, 0, IMAGES), dict)


def main() -> None:
    """Train as one of the processes: a folder, names of rules."""
    torch.set_num_threads(1)
    with processes("cpu") as group:
        for name in sys.argv[2:]:
            train(name, group, Path(sys.argv[1]))
