"""Errors that are the user's to mend: shown as one line, exit code 2, never as a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """What is wrong, where, and what to type next, in one line."""


class InProgress(UserError):  # noqa: N818
    """Another process holds what this one was to work on; nothing was touched."""


class RunFailed(Exception):  # noqa: N818
    """A run stopped for a reason of its own (a non-finite loss): exit code 1, one line, nothing lost."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``, did you mean 'x'?`` for the nearest known word, or nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def is_text(name: str) -> bool:
    """Whether a name can be written down: file systems and JSON may hold halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def reason(error: BaseException) -> str:
    """What went wrong, on one line: the system's words where it has some."""
    system = error.strerror if isinstance(error, OSError) else None
    return system or " ".join(str(error).split()) or type(error).__name__


def shorten(text: str, limit: int = 200) -> str:
    """`text` with its middle left out where it is longer than a message should be."""
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-limit // 4 :]}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line that `path` cannot be written: no permission, a full disk, a file in place of a folder.

    Raises:
        UserError: for any error of the system within the block.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; free or unlock the place, or choose another") from error


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
