"""One run as several processes of this machine: they are started, hear signals, and end as one program.

It is what ``torchrun --nproc-per-node N`` amounts to, but for the end: torchrun ends with 1 and a page
of traceback whatever the processes say, where a scheduler needs their exit code and the user their one line.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from harness.core.errors import LOST
from harness.core.stopping import INTERRUPTED, TRY_AGAIN, passed_on

# In the environment of such a process: the folder where it leaves its last words. One that has none says them itself.
FOLDER = "ASSIGNER_ZOO_GROUP"

_POLL = 0.05  # s
_GRACE = 10.0  # s that the others have to end by themselves, once one has failed
_SAVING = 30.0  # s more that the main process has, which may be writing


def leave_word(message: str) -> bool:
    """Leave a process's last message to the one that started it; False where that is nobody's business."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return False
    with suppress(OSError):  # whoever would read it is gone
        _word(Path(folder), os.environ.get("RANK", "0")).write_text(message, "utf-8")
    return True


def launch(command: Sequence[str], count: int) -> tuple[int, str]:
    """Run a command as `count` processes until all have ended; the main one has this process's output.

    Returns:
        The exit code of the whole, and what is left to say about it.
    """
    import torch.distributed as dist  # here, so that words can be left without torch

    with TemporaryDirectory(prefix="harness-") as folder:
        # Kept by this process, as torchrun's agent does: a port that is only reserved could be taken meanwhile.
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        group = _Group(Path(folder))
        with passed_on(group.pass_on):
            try:
                group.start(command, count, store.port)
                group.wait()
            finally:
                group.kill()
        return group.ended()


def _word(folder: Path, rank: int | str) -> Path:
    return folder / f"word{rank}"


@dataclass
class _Group:
    """The processes by rank, and the signals that were passed on to them."""

    folder: Path
    members: list[subprocess.Popen[bytes]] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)
    left: set[int] = field(default_factory=set)  # ranks that had not ended when others had failed

    def start(self, command: Sequence[str], count: int, port: int) -> None:
        """Start all. In a group of their own, so that they have a terminal's Ctrl-C once: from here."""
        shared = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
            "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), FOLDER: str(self.folder),
        }  # fmt: skip
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}  # else each takes all cores
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with self._output(rank) as output:
                member = subprocess.Popen(
                    command, env={**threads, **os.environ, **shared, **own},
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0,
                )  # fmt: skip
            self.members.append(member)
        for number in [*self.signals]:  # some may not have been there yet
            self.pass_on(number)

    @contextmanager
    def _output(self, rank: int) -> Iterator[int | None]:
        """Of the main process this one's; of others, which are silent, a file for their tracebacks."""
        if rank == 0:
            yield None
            return
        with self._log(rank).open("wb") as file:
            yield file.fileno()

    def _log(self, rank: int) -> Path:
        return self.folder / f"log{rank}"

    def pass_on(self, number: int) -> None:
        """Send a signal to all."""
        self.signals.append(number)
        for member in self.members:
            member.send_signal(number)

    def wait(self) -> None:
        """Until all have ended; once one has failed, the others soon do."""
        while any(member.poll() is None for member in self.members):
            if any(member.poll() for member in self.members):
                self._ended_within(_GRACE)
                self.left = {rank for rank, member in enumerate(self.members) if member.poll() is None}
                self.members[0].terminate()
                self._ended_within(_SAVING, self.members[:1])
                return
            sleep(_POLL)

    def _ended_within(self, seconds: float, members: Sequence[subprocess.Popen[bytes]] | None = None) -> None:
        until = monotonic() + seconds
        while monotonic() < until and any(each.poll() is None for each in members or self.members):
            sleep(_POLL)

    def kill(self) -> None:
        """End those that are left."""
        for member in self.members:
            member.kill()
            member.wait()

    def ended(self) -> tuple[int, str]:
        """Exit code and message of the process that is the reason: see `launch`."""
        failed = [rank for rank, member in enumerate(self.members) if member.returncode and rank not in self.left]
        if not failed:
            return 0, ""
        said = {rank: self._said(rank) for rank in failed}
        # Who lost the others is no reason where another has one; the main process speaks for all who say the same.
        rank = min(failed, key=lambda rank: (said[rank].startswith(LOST), not said[rank], rank))
        code = self.members[rank].returncode
        if code > 0:
            return code, said[rank] or self._traceback(rank)
        if self.signals:  # before it could hear them
            return INTERRUPTED if self.signals[0] == signal.SIGINT else TRY_AGAIN, "interrupted"
        name = signal.Signals(-code).name
        return 1, (
            f"error: process {rank} of {len(self.members)} was ended by {name}; where memory is short, fewer "
            "--devices or --workers help; go on with --resume"
        )

    def _said(self, rank: int) -> str:
        with suppress(FileNotFoundError):
            return _word(self.folder, rank).read_text("utf-8")
        return ""

    def _traceback(self, rank: int) -> str:
        return self._log(rank).read_text("utf-8", "replace").rstrip() if rank else ""
