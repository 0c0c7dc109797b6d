"""The arithmetic of one training step, the same for the trainer and for what times it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from harness.protocol.protocol import ScheduleSection


def precision(schedule: ScheduleSection, device: torch.device) -> torch.autocast:
    """In which the forward pass computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=schedule.precision == "bfloat16")


def descend(
    losses: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, schedule: ScheduleSection
) -> Tensor:
    """Backward, clip, and move the weights, unless a loss or gradient is not finite.

    Returns:
        1 where it is not, on the device: the host need not know yet.
    """
    total = torch.stack(list(losses.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm or float("inf"), foreach=True)
    broken = (~torch.isfinite(total.detach() + norm)).float()
    optimizer.found_inf = broken  # type: ignore[attr-defined]  # the fused kernels skip the step on 1
    optimizer.step()
    return broken
