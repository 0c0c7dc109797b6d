"""What `harness doctor` says of cores, memory and devices, of this machine and of others."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness.doctor import limits, machine, selftest

GIB = 2**30


def states(rows):
    return [(row.what, row.state) for row in rows]


# --- limits of a container ---------------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A root folder with these files, on a machine of 64 cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    def make(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


MEMINFO = {
    "proc/meminfo": "MemTotal:       67108864 kB\nMemFree: 1 kB\nMemAvailable:   33554432 kB\nHugePages_Total: 0\n"
}
VERSION_2 = {"proc/self/cgroup": "0::/box/inner\n"}
VERSION_1 = {"proc/self/cgroup": "4:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f\n2:cpuset:/\n0::/\n"}
GROUP = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        (VERSION_2 | {f"{GROUP}/box/inner/cpu.max": "max 100000\n"}, 64),
        (VERSION_2 | {f"{GROUP}/box/inner/cpu.max": "200000 100000\n"}, 2),
        (VERSION_2 | {f"{GROUP}/box/inner/cpu.max": "max 100000", f"{GROUP}/box/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", f"{GROUP}/cpu.max": "400000 100000\n"}, 4),
        (VERSION_1 | {f"{GROUP}/cpu/cpu.cfs_quota_us": "-1\n", f"{GROUP}/cpu/cpu.cfs_period_us": "100000\n"}, 64),
        (VERSION_1 | {f"{GROUP}/cpu/cpu.cfs_quota_us": "50000\n", f"{GROUP}/cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        (
            VERSION_1
            | {
                f"{GROUP}/cpu,cpuacct/docker/1f/cpu.cfs_quota_us": "300000\n",
                f"{GROUP}/cpu,cpuacct/docker/1f/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
    ],
)
def test_cores_are_those_that_the_container_gives(system, files, cores):
    assert limits.usable_cores(system(files)) == cores


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_cores_are_those_that_the_process_may_run_on(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 9, 11})
    assert limits.usable_cores(system({})) == 3


@pytest.mark.parametrize(
    ("files", "total", "free"),
    [
        ({}, 64, 32),
        (VERSION_2 | {f"{GROUP}/box/inner/memory.max": "max\n"}, 64, 32),
        (VERSION_2 | {f"{GROUP}/box/memory.max": f"{8 * GIB}", f"{GROUP}/box/memory.current": f"{3 * GIB}"}, 8, 5),
        (
            VERSION_2
            | {
                f"{GROUP}/box/memory.max": f"{8 * GIB}",
                f"{GROUP}/box/memory.current": f"{7 * GIB}",
                f"{GROUP}/box/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}\n",
            },
            8,
            3,
        ),
        (VERSION_1 | {f"{GROUP}/memory/docker/1f/memory.limit_in_bytes": "9223372036854771712"}, 64, 32),
        (
            VERSION_1
            | {
                f"{GROUP}/memory/memory.limit_in_bytes": f"{4 * GIB}",
                f"{GROUP}/memory/memory.usage_in_bytes": f"{GIB}",
            },
            4,
            3,
        ),
    ],
)
def test_memory_is_what_the_container_gives(system, files, total, free):
    assert limits.memory_bytes(system(MEMINFO | files)) == (total * GIB, free * GIB)


def test_a_system_without_these_files_is_not_guessed_at(system):
    assert limits.memory_bytes(system({})) == (None, None)
    assert limits.driver_version(system({})) is None


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"proc/driver/nvidia/version": "NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\nGCC 12.3"}, "550.54.15"),
        (
            {"proc/driver/nvidia/version": "NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release"},
            "580.65.06",
        ),
        ({"dev/nvidiactl": ""}, "of unknown version"),
    ],
)  # fmt: skip
def test_the_driver_is_seen_without_its_tools(system, files, version):
    assert limits.driver_version(system(files)) == version


def test_more_threads_than_cores_is_a_warning(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(machine, "usable_cores", lambda: 2.5)
    (row,) = machine.cores()
    assert row.state == "warning"
    assert "--threads 2" in row.advice
    monkeypatch.setattr(machine, "usable_cores", lambda: 64.0)
    assert states(machine.cores()) == [("cores", "ok")]


@pytest.mark.parametrize(
    ("found", "state"), [((8 * GIB, 4 * GIB), "ok"), ((8 * GIB, GIB), "warning"), ((None, None), "warning")]
)
def test_little_memory_is_a_warning(monkeypatch, found, state):
    monkeypatch.setattr(machine, "memory_bytes", lambda: found)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=8 * GIB))
    assert states(machine.memory()) == [("memory", state)]


def test_little_shared_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: (8 * GIB, 8 * GIB))
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=64 * 2**20))
    row = list(machine.memory())[-1]
    assert (row.what, row.state) == ("shared memory", "warning")
    assert "64 MiB" in row.detail
    assert "--workers 0" in row.advice


# --- devices -----------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that torch was built so, and finds this."""

    def pretend(*, cuda="13.0", driver=None, available=False, free=100 * GIB, hidden=None, error="no device"):
        def init():
            raise RuntimeError(error)

        about = SimpleNamespace(name="NVIDIA H200", major=9)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(machine, "driver_version", lambda: driver)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if available else 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 141 * GIB))
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if hidden is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        return list(machine.devices())

    return pretend


@pytest.mark.parametrize(
    ("given", "state", "words"),
    [
        ({"cuda": None}, "ok", "a CPU build; no NVIDIA driver"),
        ({}, "ok", "built for CUDA 13.0; no NVIDIA driver"),
        ({"cuda": None, "driver": "550.54"}, "warning", "a CPU build, although there is an NVIDIA driver (550.54)"),
        ({"driver": "470.1", "error": "driver is too old"}, "warning", "driver 470.1: driver is too old"),
        ({"driver": "580.6", "hidden": ""}, "warning", "CUDA_VISIBLE_DEVICES is ''"),
    ],
)
def test_why_there_is_no_gpu(gpu, given, state, words):
    (row,) = gpu(**given)
    assert (row.what, row.state) == ("devices", state)
    assert row.detail.startswith("CPU only: torch ")
    assert words in row.detail
    assert bool(row.advice) == (state == "warning")


def test_every_gpu_has_its_row(gpu):
    rows = gpu(available=True, driver="580.6")
    assert states(rows) == [("device cuda:0", "ok"), ("device cuda:1", "ok")]
    assert "NVIDIA H200, 100.0 GiB free of 141.0, bfloat16; torch" in rows[0].detail
    assert states(gpu(available=True, free=GIB))[0] == ("device cuda:0", "warning")


def test_the_cpu_computes():
    (row, *_) = machine.computation()
    assert (row.what, row.state) == ("computation on cpu", "ok")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_gpu_computes_as_the_cpu_does():
    rows = list(machine.computation())
    assert len(rows) == 1 + torch.cuda.device_count()
    assert {row.state for row in rows} == {"ok"}


def test_the_small_assignment_is_one():
    found = selftest.positives(torch.device("cpu"))
    assert {gt for gt, *_ in found} == {0, 1}
    assert all(0 <= level < 5 and x == int(x) and y == int(y) for _, level, x, y in found)


def test_numbers_that_are_none_are_named(monkeypatch):
    real = selftest.FCOS.forward

    def broken(self, *arguments):
        found = real(self, *arguments)
        return {**found, "class": found["class"] * float("nan")} if self.training else found

    monkeypatch.setattr(selftest.FCOS, "forward", broken)
    wrong = selftest.one_step(torch.device("cpu"))
    assert wrong[0] == "class"
    assert any(name.startswith("gradient of head") for name in wrong)
    (row, *_) = machine.computation()
    assert row.state == "problem"
    assert "class" in row.detail


def test_another_assignment_than_the_cpus_is_a_problem(monkeypatch):
    answers = [{(0, 0, 1.0, 1.0)}, {(0, 0, 1.0, 2.0)}]
    monkeypatch.setattr(selftest, "positives", lambda _: answers.pop(0))
    (row, *_) = machine.computation()
    assert row.state == "problem"
    assert "2 of them not as the CPU does" in row.detail
