"""How many processes load images, and what it means when one of them dies."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console

from harness.core.device import default_workers
from harness.core.progress import say
from harness.data.loader import DIVISOR
from harness.protocol.protocol import Protocol

SHARED = Path("/dev/shm")  # where loading processes put batches for the main one, on Linux
FEWER = "free memory or give fewer with --workers"
AHEAD = 2  # batches that each process prepares: torch's default


def loading_processes(
    asked: int | None, protocol: Protocol, *, processes: int = 1, console: Console | None = None
) -> int:
    """As many as asked, or as the cores allow; fewer, which is said, where shared memory has no room for their batches.

    A container's default of 64 MiB is full before the first step, and what is written beyond it kills the process.

    Args:
        processes: of training on this machine, which share it.
    """
    wanted = default_workers(asked)
    if not wanted or not SHARED.is_dir():
        return wanted
    batch, free = largest_batch(protocol, processes), shutil.disk_usage(SHARED).free // processes
    room = max(0, free // batch - 1) // AHEAD  # besides the batch in use
    if room >= wanted:
        return wanted
    say(
        console,
        f"warning: {room} loading processes in place of {wanted}: {SHARED} has {free >> 20} MiB free and a batch takes "
        f"up to {batch / 2**20:.1f}; start a container with --shm-size=2g for more",
    )
    return room


def largest_batch(protocol: Protocol, processes: int) -> int:
    """Bytes that the images of a process's batch take at most."""
    data, jitter = protocol.data, 1.0 if protocol.data.crop else max(1.0, protocol.data.scale_jitter[1])
    side = -(-round(data.long_edge * jitter) // DIVISOR) * DIVISOR
    images = max(protocol.schedule.batch_size // processes, protocol.evaluation.batch_size)
    return images * 3 * side * side


def loader_died(error: BaseException) -> str | None:
    """How a loading process ended, if that is what torch's error says: `` (Killed)``, or nothing where it is not known.

    None for any other error.
    """
    if not (isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")):
        return None
    _, known, how = str(error).partition("killed by signal: ")
    return f" ({how.split('.')[0].strip()})" if known else ""
