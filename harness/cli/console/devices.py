"""``--devices N``: may there be so many processes, and one run as all of them."""

from __future__ import annotations

import os
import shlex
import sys

from harness.cli.console.output import Stopped
from harness.core.errors import UserError
from harness.protocol.protocol import Protocol


def check_devices(count: int, device: str, protocol: Protocol) -> None:
    """Hold the number of processes to what there is.

    Args:
        count: of processes, one for each device.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: under torchrun; for a batch that cannot be shared evenly; for more than there are GPUs.
    """
    if "WORLD_SIZE" in os.environ:
        raise UserError(f"torchrun has started the processes already; leave out --devices {count}, or torchrun")
    batch = protocol.schedule.batch_size
    if batch % count:
        fitting = max(number for number in range(1, count) if batch % number == 0)
        raise UserError(
            f"schedule.batch_size {batch} cannot be shared evenly by {count} processes; "
            f"--devices {fitting} fits, or change the batch (another protocol)"
        )
    if count == 1 or device == "cpu":
        return

    import torch

    there = torch.cuda.device_count()
    if (device == "cuda" or there) and count > there:
        raise UserError(
            f"--devices {count}: torch sees {there} GPU{'s' if there != 1 else ''} here; "
            "give at most as many, or --device cpu"
        )


def together(line: str, count: int) -> int:
    """Run a ``harness`` command line as `count` processes that share the work of one.

    Returns:
        The exit code, which is that of the main process, or of whichever failed by itself.

    Raises:
        Stopped: with what is to be said, where it is not 0.
    """
    from harness.core.launch import launch

    code, words = launch([sys.executable, "-m", "harness.cli", *shlex.split(line)[1:]], count)
    if words:
        raise Stopped(words, code)
    return code
