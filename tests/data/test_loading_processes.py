"""How many processes load images, and what is said when one dies."""

from __future__ import annotations

import os
import pickle
import shutil
from io import StringIO
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing
from rich.console import Console

from harness.data import loading_processes as module
from harness.data.loader import train_batches
from harness.data.loading_processes import largest_batch, loader_died, loading_processes
from harness.protocol.protocol import EvaluationSection
from tests.data.folders import MemorySet, protocol

BATCH = 4 * 3 * 128 * 128  # bytes


def kept(**data):
    """Batches of 4, in training and in evaluation."""
    return protocol(**data).model_copy(update={"evaluation": EvaluationSection(batch_size=4)})


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Shared memory with so many bytes free."""

    def room(free):
        monkeypatch.setattr(module, "SHARED", tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    return room


def asked(count, **kinds):
    lines = StringIO()
    screen = Console(file=lines, width=500)
    found = loading_processes(count, kept(short_edge=64, long_edge=120), console=screen, **kinds)
    return found, lines.getvalue()


def test_the_largest_batch_is_as_large_as_any():
    tall = MemorySet([(300, 100), (100, 300)] * 2)
    for crop in (False, True):
        ours = kept(short_edge=64, long_edge=120, scale_jitter=(0.5, 1.5), crop=crop)
        sizes = [batch.images.numel() for batch in train_batches(tall, ours, seed=0)]
        assert max(sizes) <= largest_batch(ours, 1) <= 3 * max(sizes)


def test_enough_room_says_nothing(shared):
    shared(9 * BATCH)
    assert asked(4) == (4, "")


def test_where_there_is_no_room_there_are_fewer_and_it_is_said(shared):
    shared(9 * BATCH - 1)
    count, line = asked(4)
    assert count == 3
    assert line.startswith("warning: 3 loading processes in place of 4")
    assert "--shm-size" in line
    shared(2 * BATCH)
    assert asked(4)[0] == 0
    shared(12 * BATCH)
    assert asked(4, processes=2)[0] == 2  # training processes share it


def test_nothing_is_asked_of_memory_that_is_not_used(shared, tmp_path, monkeypatch):
    shared(0)
    assert asked(0) == (0, "")
    monkeypatch.setattr(module, "SHARED", tmp_path / "absent")  # as on macOS
    assert asked(4) == (4, "")


def test_only_the_images_of_a_batch_take_descriptors():
    (batch,) = train_batches(MemorySet([(60, 90)] * 6), protocol(steps=1, short_edge=64, long_edge=120), seed=0)
    ForkingPickler.dumps(torch.zeros(1))  # starts what passes descriptors on
    before = len(os.listdir("/proc/self/fd"))
    sent = ForkingPickler.dumps(batch)
    assert len(os.listdir("/proc/self/fd")) == before + 2  # of the images: the file, and the copy that is on its way
    back = pickle.loads(sent)
    assert torch.equal(back.images, batch.images)
    for one, other in zip(back.targets, batch.targets, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one)


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), " (Killed)"),
        (
            RuntimeError("DataLoader worker (pid 12) is killed by signal: Bus error. It is poss"),
            " (Bus error)",
        ),
        (RuntimeError("DataLoader worker (pid(s) 3, 4) exited unexpectedly"), ""),
        (RuntimeError("a size must match"), None),
        (ValueError("DataLoader worker (pid 12) is killed by signal: Killed."), None),
    ],
)
def test_a_dead_loading_process_is_told_from_other_errors(error, how):
    assert loader_died(error) == how
