"""Errors that are the user's to mend: shown as one line, exit code 2, never as a traceback."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from harness.core.stopping import INTERRUPTED

LOST = "error: another process of this run has ended"  # what one says that is not the reason itself
SET_LOCALE = "set LC_ALL=C.UTF-8 or PYTHONUTF8=1"


class UserError(Exception):
    """What is wrong, where, and what to type next, in one line: ``what; what to do``.

    Attributes:
        speaks: of several processes, whether this one tells of it; None where the main one does.
    """

    speaks: bool | None = None

    def parts(self) -> tuple[str, str]:
        """What is wrong, and what to do about it; empty where the error knows nothing."""
        what, _, advice = str(self).rpartition("; ")
        return (what, advice) if what else (advice, "")


class Unwritable(UserError):  # noqa: N818
    """A place that takes no file; whether that matters is for the caller to say."""


class InProgress(UserError):  # noqa: N818
    """Another process holds what this one was to work on; nothing was touched."""


class RunFailed(Exception):  # noqa: N818
    """A run stopped for a reason of its own (a non-finite loss): exit code 1, one line, nothing lost.

    Attributes:
        speaks: as of `UserError`.
    """

    speaks: bool | None = None


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


def no_text() -> str:
    """Why a name is no text (`is_text`), and what to do: the name may be at fault, or the locale that it is read in."""
    if _holds_any_name():
        return "is no UTF-8 text, so no record can hold it; rename it"
    return f"is no text in this locale ({sys.getfilesystemencoding()}); {SET_LOCALE}"


def of_the_locale(error: BaseException) -> bool:
    """Whether this is what Python raises, in place of an OSError, for a name that the locale cannot hold."""
    return isinstance(error, UnicodeEncodeError) and not _holds_any_name()


def _holds_any_name() -> bool:
    return codecs.lookup(sys.getfilesystemencoding()).name == "utf-8"


def as_utf8(name: str) -> str:
    """A name as UTF-8 reads it, whatever the locale, with escapes for what it cannot read; for messages alone."""
    return os.fsencode(name).decode("utf-8", "backslashreplace") if not is_text(name) else name


def reason(error: BaseException) -> str:
    """What went wrong, on one line: the system's words where it has some."""
    if isinstance(error, UnicodeEncodeError) and of_the_locale(error):
        letters = error.object[error.start : error.end]
        return f"this locale ({sys.getfilesystemencoding()}) has no {letters!r}; {SET_LOCALE}"
    system = error.strerror if isinstance(error, OSError) else None
    return system or " ".join(str(error).split()) or type(error).__name__


def shorten(text: str, limit: int = 200) -> str:
    """`text` with its middle left out where it is longer than a message should be."""
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-limit // 4 :]}"


@contextmanager
def reading(what: str, advice: str = "") -> Iterator[None]:
    """Say in one line that something cannot be read, and what to do about it.

    Raises:
        UserError: for any error of the system within the block, a name that its encoding cannot hold, or the home of
            nobody.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{what} cannot be read: {reason(error)}{advice}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line that `path` cannot be written: no permission, a full disk, a file in place of a folder.

    Raises:
        Unwritable: for any error of the system within the block.
    """
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        if isinstance(error, UnicodeEncodeError) and not of_the_locale(error):
            raise
        advice = "; free or unlock the place, or choose another" if isinstance(error, OSError) else ""
        raise Unwritable(f"cannot write {path}: {reason(error)}{advice}") from error


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """The user or a scheduler stopped a run, and nothing is lost.

    Attributes:
        path: the checkpoint that was saved.
        command: the command line that goes on from it.
        code: to exit with, `harness.core.stopping.exit_code`.
    """

    def __init__(self, path: Path, command: str, code: int = INTERRUPTED) -> None:
        super().__init__(f"interrupted; checkpoint saved at {path}; continue with: {command}")
        self.path, self.command, self.code = path, command, code
