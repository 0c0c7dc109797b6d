"""One process or many: started by ``torchrun``, or alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


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
    """Join the group that ``torchrun`` describes in the environment, if any, and leave it at the end."""
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
    finally:
        dist.destroy_process_group()
