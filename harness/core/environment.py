"""Where a run took place and which code ran. No host name, no user, no path."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pycocotools")
_SOURCES = ("assigners", "detector", "harness")  # the top-level packages; results and tests change no number


def environment(device: torch.device | str) -> dict[str, Any]:
    """Versions and machine of a run on `device`, as plain JSON values."""
    import torch

    device = torch.device(device)
    on_gpu = device.type == "cuda"
    return {
        **{name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if on_gpu else _cpu_model(),
        "cuda": torch.version.cuda if on_gpu else None,
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def source_version() -> dict[str, str | None]:
    """``commit`` (with ``+dirty`` where a package differs from it) and ``version``; None where unknown."""
    here = Path(__file__).resolve()
    commit = None
    # An installed copy may lie inside somebody else's checkout: ask git whether this very file is tracked.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is not None:
        commit = _git(here.parent, "rev-parse", "HEAD")
    if commit is not None and _git(here.parents[2], "status", "--porcelain", "--", *_SOURCES):
        commit += "+dirty"
    return {"commit": commit, "version": _version("assigner-zoo")}


def _git(folder: Path, *arguments: str) -> str | None:
    """Standard output of a git command, or None where it fails or git is not there."""
    # Inside a hook git exports GIT_DIR and the like, which would answer for another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
