"""One process or many: started by ``torchrun`` or `harness.core.launch`, or alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from harness.core.errors import LOST, RunFailed

T = TypeVar("T")

# In the messages of gloo and NCCL where a process is gone; they have no type for it.
_LOST = ("closed by peer", "reset by peer", "Broken pipe", "remote process exit")


@dataclass(frozen=True)
class Processes:
    """This process among its peers."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()

    def gather(self, value: T) -> list[T]:
        """Every process's value, on the main process; an empty list elsewhere."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        dist.gather_object(value, values if self.main else None)
        return [v for v in values if v is not None] if self.main else []


@contextmanager
def processes(device_type: str) -> Iterator[Processes]:
    """Join the group that ``torchrun`` or `launch` describes in the environment, if any, and leave it at the end.

    Raises:
        RunFailed: if another process has left it before.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    local = int(os.environ["LOCAL_RANK"])
    if device_type == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield Processes(int(os.environ["RANK"]), world, local)
    except RuntimeError as error:
        if not any(words in str(error) for words in _LOST):
            raise
        raise RunFailed(f"{LOST.removeprefix('error: ')}; go on with --resume") from error
    finally:
        dist.destroy_process_group()
