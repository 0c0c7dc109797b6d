"""Errors that are the user's to mend: shown as one line, exit code 2, never as a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """What is wrong, where, and what to type next, in one line."""


class RunFailed(Exception):  # noqa: N818
    """A run stopped for a reason of its own (a non-finite loss): exit code 1, one line, nothing lost."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``, did you mean 'x'?`` for the nearest known word, or nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """The user stopped a run: exit code 130, nothing lost.

    Attributes:
        path: the checkpoint that was saved.
        command: the command line that goes on from it.
    """

    def __init__(self, path: Path, command: str) -> None:
        super().__init__(f"interrupted; checkpoint saved at {path}; continue with: {command}")
        self.path = path
        self.command = command
