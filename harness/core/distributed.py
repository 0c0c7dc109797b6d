"""One process or many: started by ``torchrun`` or `harness.core.launch`, or alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import sleep
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from harness.core.errors import LOST, Interrupted, RunFailed, UserError

T = TypeVar("T")

# In the messages of gloo and NCCL where a process is gone; they have no type for it.
_GONE = ("closed by peer", "reset by peer", "Broken pipe", "remote process exit")
LINGER = 1.0  # s that a process outlives the one that speaks, because torchrun ends all when the first has ended


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
    store, rank, _ = next(rendezvous("env://"))
    group = PrefixStore("group", store)
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo", store=group, rank=rank, world_size=world)
    try:
        with _one_speaks(PrefixStore("errors", store)):
            yield Processes(rank, world, local)
    finally:
        dist.destroy_process_group()


@contextmanager
def _one_speaks(store: Store) -> Iterator[None]:
    """Of errors that end the processes the first is told, by the process that met it, and no other.

    Where one process has ended, those that wait for it break off with an error of torch's: theirs is no news, unless it
    ended without a word.
    """
    try:
        yield
    except (UserError, RunFailed) as error:
        error.speaks = store.add("met", 1) == 1
        if not error.speaks:
            _linger()
        raise
    except Interrupted:  # of the main process, which speaks
        store.add("met", 1)
        raise
    except RuntimeError as error:
        told = store.check(["met"])
        if not told and not any(words in str(error) for words in _GONE):
            raise
        failure = RunFailed(f"{LOST.removeprefix('error: ')}; go on with --resume")
        if told:
            failure.speaks = False
            _linger()
        raise failure from error


def _linger() -> None:
    with suppress(KeyboardInterrupt):  # torchrun's signal
        sleep(LINGER)
