"""Standard output and standard error that no full device, no reader gone and no narrow encoding can break.

What is done matters more than that it can be told: a run of hours must not end because its progress cannot be shown.
A stream that cannot be written goes silent, and what that means for the exit code is settled when the verb has ended.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from typing import Any, TextIO, cast

from harness.core.errors import reason


class Stream:
    """A text stream that never raises: characters that its encoding lacks are replaced, and failure is noted.

    Args:
        stream: to write to; None where the process was started without.

    Attributes:
        failure: why it is silent; None as long as it is not.
        needed: whether the verb has nothing to show for itself but what is written here.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = StringIO() if stream is None else stream
        self._missing = stream is None
        self.failure: OSError | None = None
        self.needed = True

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # writing there would get around this
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write what the encoding can hold of it, as long as writing works."""
        fitting = self._fitting(text)
        if self._missing and text and self.failure is None:
            self.failure = OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._as_long_as_it_works(self._stream.write, fitting)
        return len(text)

    def flush(self) -> None:
        """Write what was held back, as long as writing works."""
        self._as_long_as_it_works(self._stream.flush)

    def _fitting(self, text: str) -> str:
        encoding = self._stream.encoding or "utf-8"
        try:
            text.encode(encoding, self._stream.errors or "strict")
        except UnicodeEncodeError:
            return text.encode(encoding, "replace").decode(encoding)
        return text

    def _as_long_as_it_works(self, action: Callable[..., object], *given: str) -> None:
        if self.failure is not None:
            return
        try:
            action(*given)
        except OSError as error:
            self.failure = error
            with suppress(OSError, ValueError):  # a stream in memory has no descriptor
                # What is left in its buffer would be tried once more when the interpreter ends, and fail aloud.
                _to_nowhere(self._stream.fileno())


def ended(out: Stream, code: Any) -> Any:
    """The exit code of a verb that ended with `code`; says where its output is lost.

    A reader that went away had enough, and nothing is said of it.
    """
    if out.failure is None or out.failure.errno == errno.EPIPE:
        return code
    kind = "error" if out.needed else "warning"
    what = f"standard output cannot be written: {reason(out.failure)}"
    print(f"{kind}: {what}; free the place or choose another", file=sys.stderr)
    return code or (2 if out.needed else 0)


@contextmanager
def unbreakable() -> Iterator[Stream]:
    """Put a `Stream` in the place of standard output, which is returned, and of standard error."""
    for descriptor in range(3):  # a file opened in the place of one that is closed would get whatever is printed
        try:
            os.fstat(descriptor)
        except OSError:
            _to_nowhere(descriptor)
    kept = sys.stdout, sys.stderr
    out, err = map(Stream, kept)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = kept


def _to_nowhere(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
