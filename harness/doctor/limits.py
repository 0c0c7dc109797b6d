"""What the system lets this process use. A container has fewer cores and less memory than the machine that it is on.

Every function reads files below `root`, so that a test can show it another system.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> float:
    """Cores by affinity and by the control group's share of time, the smaller of the two."""
    there = float(os.cpu_count() or 1)
    if sys.platform == "linux":
        there = float(len(os.sched_getaffinity(0)))
    return min([there, *_shares(root)])


def _shares(root: Path) -> Iterator[float]:
    for folder in _groups(root, "cpu"):
        limit = _words(folder / "cpu.max")  # version 2: "max 100000" or "200000 100000", in microseconds
        if not limit:
            limit = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]  # version 1
        if len(limit) == 2 and limit[0].isdigit() and int(limit[1]):
            yield int(limit[0]) / int(limit[1])


def memory_bytes(root: Path = ROOT) -> tuple[int | None, int | None]:
    """Memory in all and free, by the system and by the control group, the smaller of each; None where unknown."""
    lines = _text(root / "proc/meminfo").splitlines()
    known = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if rest}
    total, free = known.get("MemTotal"), known.get("MemAvailable")
    for folder in _groups(root, "memory"):
        limit = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        used = _words(folder / "memory.current") or _words(folder / "memory.usage_in_bytes")
        if total is None or free is None or not limit or not limit[0].isdigit() or int(limit[0]) >= total:
            continue
        total = int(limit[0])
        # What files occupy is given back when memory is short, so it counts as free.
        cached = _statistic(folder / "memory.stat", "inactive_file")
        free = min(free, max(0, total - int(used[0]) + cached)) if used else min(free, total)
    return total, free


def driver_version(root: Path = ROOT) -> str | None:
    """Of the NVIDIA driver; None where none is to be seen."""
    match = re.search(r"Kernel Module.*?(\d+(?:\.\d+)+)", _text(root / "proc/driver/nvidia/version"))
    if match is not None:
        return match[1]
    return "of unknown version" if any((root / "dev" / name).exists() for name in ("nvidiactl", "dxg")) else None


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """This process's control group and all above it, under both versions; a limit of any holds for it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        mount = root / "sys/fs/cgroup" / names
        inside = Path(path.lstrip("/"))
        yield from (mount / folder for folder in (inside, *inside.parents))
        if names and names != controller:
            yield root / "sys/fs/cgroup" / controller  # where "cpu,cpuacct" is mounted under each name


def _statistic(path: Path, name: str) -> int:
    rows = (line.split() for line in _text(path).splitlines())
    return next((int(row[1]) for row in rows if len(row) == 2 and row[0] == name), 0)


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    """A file of the kernel; empty where this system has none of that name."""
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
