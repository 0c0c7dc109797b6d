"""How long a call takes and how much memory it needs at its peak."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]

IN_A_ROW = 3
MOST_TURNS = 50


@dataclass(frozen=True)
class Timing:
    """The calls of one subject: milliseconds, and how many there were."""

    ms: float
    calls: int


def peak_bytes(call: Call, device: torch.device) -> int:
    """The most memory that a call holds beyond what was there before: of torch's allocator, results included.

    On the CPU it is the sum of the allocations and releases that the profiler notes, in their order.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or it tells on standard error that it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        kept = call()
    del kept
    kineto = recorded.profiler.kineto_results if recorded.profiler is not None else None
    assert kineto is not None, "the profiler has stopped"
    notes = sorted((event.start_ns(), event.nbytes()) for event in kineto.events() if event.name() == "[memory]")
    held = peak = 0
    for _, change in notes:
        held += change
        peak = max(peak, held)
    return peak


def in_turns(
    first: Call, second: Call | None, seconds: float, device: torch.device, *, least: int = 1
) -> tuple[Timing, Timing | None]:
    """Median times of two subjects, called in turns so that what else the machine does meets both.

    Both subjects should have been called before.

    Args:
        second: the slower one, if there is one; it is called once in each turn, the first `IN_A_ROW` times.
        seconds: of calls, after which no turn begins.
        least: turns, however long they take.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(1, MOST_TURNS + 1):
        times[0].extend(_seconds(first, device) for _ in range(IN_A_ROW))
        if second is not None:
            times[1].append(_seconds(second, device))
        if turn >= least and sum(map(sum, times)) > seconds:
            break
    timings = [Timing(1000 * median(each), len(each)) if each else None for each in times]
    assert timings[0] is not None
    return timings[0], timings[1]


def alternate(
    first: Call, second: Call, seconds: float, device: torch.device, *, least: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Milliseconds of each call of two subjects, one of each in a turn; arguments as `in_turns`."""
    turns: list[tuple[float, float]] = []
    while len(turns) < least or (sum(map(sum, turns)) < seconds and len(turns) < MOST_TURNS):
        turns.append((_seconds(first, device), _seconds(second, device)))
    mine, other = 1000 * np.array(turns).T
    return mine, other


def now(device: torch.device) -> float:
    """Seconds on a clock, when all that was asked of the device is done.

    On one thread of a CPU it is the time that the process computes, which other work on the machine hardly changes;
    else the time that passes.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else perf_counter()


def _seconds(call: Call, device: torch.device) -> float:
    start = now(device)
    call()
    return now(device) - start
