"""Being asked to stop: Ctrl-C, and what schedulers and closing terminals send.

A job that is asked by a signal other than Ctrl-C's ends with `TRY_AGAIN`, which schedulers take as "start it again".
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from types import FrameType
from typing import Any

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
TRY_AGAIN = 75  # sysexits.h's EX_TEMPFAIL

# What asks a job to end besides Ctrl-C, where the system knows it: an end of time, a closed terminal, a warning before
# the end of time.
_SCHEDULERS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


_Handler = Callable[[int, FrameType | None], None]


class Terminated(KeyboardInterrupt):
    """Asked to stop by another signal than Ctrl-C's."""


def exit_code(stop: BaseException) -> int:
    """What a program that was stopped so ends with."""
    return TRY_AGAIN if isinstance(stop, Terminated) else INTERRUPTED


@contextmanager
def at_once() -> Iterator[None]:
    """Within it a scheduler's signal raises `Terminated`, as Ctrl-C raises KeyboardInterrupt."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Terminated(signal.Signals(number).name)

    with _handled(stop):
        yield


@contextmanager
def between_steps(active: bool) -> Iterator[Callable[[], int]]:
    """Turn signals into a question asked between steps; a second Ctrl-C stops at once.

    Yields:
        What tells whether this process has been asked to stop: the exit code to end with, or 0.

    Args:
        active: False for processes other than the main one, which ignore them: the main one saves, and its end ends
            the group.
    """
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if received and active and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    def asked() -> int:
        if not (active and received):
            return 0
        return INTERRUPTED if received[0] == signal.SIGINT else TRY_AGAIN

    with _handled(note, signal.SIGINT):
        yield asked


@contextmanager
def passed_on(send: Callable[[int], None]) -> Iterator[None]:
    """Within it Ctrl-C and a scheduler's signals are `send`'s to pass on to other processes, and stop nothing here."""
    with _handled(lambda number, _: send(number), signal.SIGINT):
        yield


def leave_to_the_main_process(_worker: int = 0) -> None:
    """To be called in a loading process: a whole group is asked at once, and the main process still needs its workers.

    SIGTERM is also how the main process ends them, so it is heard from there alone.
    """
    for number in (signal.SIGINT, *_SCHEDULERS):
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS cannot tell who asks
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_with_the_main_process, daemon=True).start()


def _end_with_the_main_process() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@contextmanager
def _handled(handler: _Handler, *also: int) -> Iterator[None]:
    previous = _handle(handler, *also, *_SCHEDULERS)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _handle(handler: _Handler, *numbers: int) -> dict[int, Any]:
    """Set the handler and give those before it; whoever ignores a hang-up (``nohup``) goes on to."""
    previous: dict[int, Any] = {}
    with suppress(ValueError):  # not in the main thread: signals are somebody else's business
        for number in numbers:
            # A shell's job in the background is born deaf to Ctrl-C, yet who sends it one by hand means it.
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)
    return previous
