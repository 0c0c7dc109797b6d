"""Files that are there whole or not at all, locks that no crash leaves behind, JSON in one form, names."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError

from harness.core.errors import writing


@contextmanager
def exclusively(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a lock file. The kernel frees it when the process ends, however it ends.

    Raises:
        BlockingIOError: if another process holds it and `wait` is false.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def held(path: Path) -> bool:
    """Whether another process holds a lock file (`exclusively`); looking keeps nothing and makes no file."""
    try:
        file = path.open()
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def dump(value: object) -> str:
    """JSON as every file of the store has it: sorted keys, two spaces, a final line end, no NaN."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is there whole or not at all, replacing what was there."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        publish_file(path.parent, content, lambda temporary: temporary.replace(path))


def publish_file(folder: Path, content: str | bytes, publish: Callable[[Path], Path]) -> Path:
    """Write and sync a temporary file in `folder`, then `publish` it under its name."""
    temporary = folder / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        path = publish(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    sync(folder)  # the name itself must outlive a power cut too
    return path


def sync(path: Path) -> None:
    """Have a file or a folder on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def printable(text: str) -> str:
    """`text`, with escapes where a terminal or a line of a log could not hold it."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def slug(text: str) -> str:
    """A name as part of the name of a file."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")[:48].rstrip("-")


# What the readers raise for a file that is missing, cut short or overwritten; the unpickler knows many ways.
DAMAGE = (
    OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, UnpicklingError,
    SafetensorError,
)  # fmt: skip
