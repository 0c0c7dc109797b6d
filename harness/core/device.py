"""What computes: the device, the CPU's threads and processes, and how its memory is told."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from harness.core.errors import UserError


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one.

    Raises:
        UserError: if a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu, or install a CUDA build of torch")
    return torch.device(name)


def default_workers(asked: int | None) -> int:
    """Loading processes: as asked, else one less than half the cores, at most 8; on two cores they only compete."""
    return asked if asked is not None else max(0, min(8, (os.cpu_count() or 1) // 2 - 1))


@contextmanager
def computing(device: torch.device, threads: int | None) -> Iterator[None]:
    """Thread count and, on the CPU, deterministic kernels; both are put back afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if threads is not None:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device.type == "cpu" or before[1])
    # Deterministic mode also fills every new tensor, to expose reads of unwritten memory; that is for debugging.
    debug: Any = torch.utils.deterministic
    fill, debug.fill_uninitialized_memory = debug.fill_uninitialized_memory, False
    try:
        yield
    finally:
        debug.fill_uninitialized_memory = fill
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_mb` begin anew, so that a run does not answer for those before it in the same process.

    On the CPU only Linux can; elsewhere the peak stays that of the whole process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # no such file on other systems, or read-only in a sandbox
            Path("/proc/self/clear_refs").write_text("5")  # 5: the peak of resident memory


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory since `reset_peak_memory`: of the allocator on a GPU, of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / (2**20 if sys.platform == "darwin" else 2**10)


def out_of_memory(error: BaseException) -> bool:
    """Whether torch could not get memory; on the CPU it says so in a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
