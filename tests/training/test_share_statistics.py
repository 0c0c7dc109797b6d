"""Batch norms of several processes: synchronised on GPUs, a warning on the CPU, and nothing where none trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.training.build import build_detector, share_statistics
from tests.support.runs import small_protocol


@pytest.mark.parametrize(
    ("frozen", "processes", "device", "synchronised", "warned"),
    [
        (False, 2, "cuda", True, False),
        (False, 1, "cuda", False, False),
        (True, 2, "cuda", False, False),
        (False, 2, "cpu", False, True),
        (False, 1, "cpu", False, False),
        (True, 2, "cpu", False, False),
    ],
)
def test_processes_on_gpus_share_the_statistics_that_train(frozen, processes, device, synchronised, warned):
    model = build_detector(small_protocol(model={"frozen_bn": frozen}), 3, 0)
    warning = share_statistics(model, processes, torch.device(device))
    assert any(isinstance(part, nn.SyncBatchNorm) for part in model.modules()) == synchronised
    assert bool(warning) == warned
    assert not warned or "set model.frozen_bn=true" in warning
