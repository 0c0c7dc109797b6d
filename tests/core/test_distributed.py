"""A group of processes: what one is told when another has left it."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from harness.core import distributed
from harness.core.distributed import Processes, processes
from harness.core.errors import LOST, RunFailed
from tests.support.runs import together

LEFT = """
import os
from pathlib import Path
import torch
import torch.distributed as dist
from harness.core.distributed import processes
from harness.core.errors import RunFailed

try:
    with processes("cpu") as group:
        group.wait()
        if group.main:  # the other one leaves
            dist.all_reduce(torch.ones(1))
except RunFailed as failure:
    Path(f"said{os.environ['RANK']}").write_text(str(failure))
"""


def test_who_waits_for_a_process_that_has_left_is_told_in_one_line(tmp_path):
    together(tmp_path, LEFT)
    assert [path.name for path in tmp_path.glob("said*")] == ["said0"]
    assert f"error: {(tmp_path / 'said0').read_text()}".startswith(LOST)


def test_other_errors_stay(monkeypatch):
    monkeypatch.setattr(distributed, "rendezvous", lambda _: iter([(dist.HashStore(), 1, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    bug = RuntimeError("The size of tensor a (3) must match")
    with processes("cpu") as group:
        assert group == Processes(1, 2, 1)
    with pytest.raises(RuntimeError) as caught, processes("cpu"):
        raise bug
    assert caught.value is bug
    with pytest.raises(RunFailed), processes("cpu"):
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:40134")
