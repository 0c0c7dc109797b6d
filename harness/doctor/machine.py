"""Cores, memory and devices: what this process may use, and whether it computes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import reason, shorten
from harness.doctor.limits import driver_version, memory_bytes, usable_cores
from harness.doctor.rows import Finding

if TYPE_CHECKING:
    import torch

GIB = 2**30
LITTLE_MEMORY = 2 * GIB  # the default run takes about 1
LITTLE_SHARED_MEMORY = GIB  # batches of loading processes pass through it; a container has 64 MiB unless told otherwise
OTHER_BUILD = "install another build of torch and torchvision; this one computes wrongly here"


def cores() -> Iterator[Finding]:
    """Cores that this process may use, which in a container are not those of the machine, and torch's threads."""
    usable, there = usable_cores(), os.cpu_count() or 1
    share = f"{usable:g} of {there} usable" if usable < there else f"{there}"
    threads, fitting = int(import_module("torch").get_num_threads()), max(1, int(usable))
    if threads > fitting:
        detail = f"{share}, but torch would compute with {threads} threads, which wait for one another"
        yield Finding("cores", "warning", detail, f"give --threads {fitting}, or set OMP_NUM_THREADS={fitting}")
    else:
        yield Finding("cores", "ok", f"{share}; threads of torch: {threads}")


def memory() -> Iterator[Finding]:
    """Memory that is free for this process, and the part of it that loading processes share."""
    total, free = memory_bytes()
    if total is None or free is None:
        yield Finding("memory", "warning", "this system does not say how much there is", "watch it during a first run")
    else:
        detail = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
        if free < LITTLE_MEMORY:
            detail += "; the default run takes about 1 GiB"
            yield Finding("memory", "warning", detail, "close other programs, or lower schedule.batch_size")
        else:
            yield Finding("memory", "ok", detail)
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < LITTLE_SHARED_MEMORY:
        detail = f"{size / 2**20:.0f} MiB at {shared}, little for loading processes"
        yield Finding("shared memory", "warning", detail, "give --workers 0, or start the container with --shm-size=2g")


def devices() -> Iterator[Finding]:
    """The GPUs, or why there is none."""
    import torch

    driver, built = driver_version(), torch.version.cuda or torch.version.hip
    build = f"torch {torch.__version__}, {f'built for CUDA {built}' if built else 'a CPU build'}"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _gpu(torch.device("cuda", index), f"{build}, driver {driver or 'unknown'}")
    elif driver is None:
        yield Finding("devices", "ok", f"CPU only: {build}; no NVIDIA driver to be seen")
    elif built is None:
        detail = f"CPU only: {build}, although there is an NVIDIA driver ({driver})"
        yield Finding("devices", "warning", detail, "install CUDA builds of torch and torchvision to use the GPU")
    else:
        detail = f"CPU only: {build}, driver {driver}: {_why_no_gpu()}"
        advice = "let torch see the GPU, update the driver, or install a build for it"
        yield Finding("devices", "warning", detail, advice)


def _gpu(device: torch.device, build: str) -> Finding:
    import torch

    about = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    bfloat16 = "bfloat16" if about.major >= 8 else "bfloat16 in software alone"  # Ampere brought it
    detail = f"{about.name}, {free / GIB:.1f} GiB free of {total / GIB:.1f}, {bfloat16}; {build}"
    if free < LITTLE_MEMORY:
        return Finding(f"device {device}", "warning", detail, "its memory is in use: wait, or choose another device")
    return Finding(f"device {device}", "ok", detail)


def _why_no_gpu() -> str:
    import torch

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return f"CUDA_VISIBLE_DEVICES is {hidden!r}"
    try:
        torch.cuda.init()
    except Exception as error:  # its words are the answer
        return shorten(reason(error))
    return "torch finds no device"


def computation() -> Iterator[Finding]:
    """On each device: the CPU's assignment, and one step of a tiny network in finite numbers."""
    import torch

    from harness.doctor.selftest import one_step, positives

    expected = positives(torch.device("cpu"))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device in map(torch.device, ("cpu", *(f"cuda:{index}" for index in range(gpus)))):
        what, assigned = f"computation on {device}", positives(device)
        if assigned != expected:
            detail = f"atss assigns {len(assigned)} locations, {len(assigned ^ expected)} of them not as the CPU does"
            yield Finding(what, "problem", detail, OTHER_BUILD)
        elif wrong := one_step(device):
            yield Finding(what, "problem", f"not finite in one step of a tiny network: {', '.join(wrong)}", OTHER_BUILD)
        else:
            detail = f"{len(expected)} locations assigned; losses, gradients, detections of a tiny network are finite"
            yield Finding(what, "ok", detail)
