"""Reading what lies in the folder of a data set: names, texts, and files that may not be what they should."""

from __future__ import annotations

import codecs
import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path, PurePosixPath, PureWindowsPath
from stat import S_ISREG

from harness.core.errors import UserError, is_text, reading, reason, shorten

MAX_LINE = 4096  # bytes; file systems have no longer paths
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")  # the first that is there

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # with a byte order mark, which Windows' editors write


def read_bytes(path: Path, what: str) -> bytes:
    """The content of an annotation file.

    Raises:
        UserError: if it cannot be read; `what` says in the message what the file is.
    """
    with reading(f"{what} {path}"):
        return _regular(path, what).read_bytes()


def _regular(path: Path, what: str) -> Path:
    """A file that ends: reading a pipe would wait forever."""
    if S_ISREG(path.stat().st_mode):
        return path
    raise UserError(f"{what} {path} is a folder or a device; expected a file")


def read_text(path: Path, what: str) -> str:
    """The content of a text file: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        UserError: if it cannot be read or is no such text.
    """
    content = read_bytes(path, what)
    try:
        return content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} is not UTF-8 text: {reason(error)}; save it as UTF-8") from error


def text_lines(path: Path, what: str, digest: Callable[[bytes], object]) -> Iterator[tuple[int, str]]:
    """The lines of a text file that hold something, stripped, with their numbers; read one by one.

    Args:
        path: UTF-8, with or without a byte order mark; lines end in LF or CRLF.
        what: says in messages what the file is.
        digest: is given every byte, for a checksum.

    Raises:
        UserError: if the file cannot be read, or a line is no text or longer than `MAX_LINE` bytes.
    """
    try:
        with _regular(path, what).open("rb") as file:
            for number in count(1):
                line = file.readline(MAX_LINE + 1)
                if not line:
                    return
                if len(line) > MAX_LINE:
                    raise UserError(
                        f"{what} {path}, line {number} is longer than {MAX_LINE} bytes; is it another file?"
                    )
                digest(line)
                if text := line.decode("utf-8-sig" if number == 1 else "utf-8").strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path}, line {number} is not UTF-8 text: {reason(error)}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path} cannot be read: {reason(error)}") from error


def open_folder(folder: str, layout: str) -> Path:
    """The folder of a data set.

    Raises:
        UserError: if there is none; `layout` says in the message what is expected inside.
    """
    try:
        root = Path(folder).expanduser()
        if root.is_dir():
            return root
        fault = "is not a folder" if root.exists() else "does not exist"
    except (OSError, RuntimeError) as error:  # RuntimeError: the home of nobody
        fault = f"cannot be opened ({reason(error)})"
    raise UserError(f"data folder {shorten(folder)} {fault}; expected {layout}")


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, sorted; nothing where there is none.

    Raises:
        UserError: if it cannot be read.
    """
    with reading(f"folder {folder}"), suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.listdir(folder))
    return []


class Listing:
    """The files of a data set by name, whatever the case of their letters and the way that accents are put together;
    each folder is read once, when needed.

    Args:
        root: names are relative to it, with slashes.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> str | None:
        """The file of that name, or else the only one that is spelled alike; None for neither."""
        if os.path.exists(self._root / name):  # unlike Path's, it is no error without permission
            return name
        path = PurePosixPath(name)
        known = self._stems(path.parent).get(_folded(path.stem), [])
        alike = [other for other in known if _folded(other) == _folded(path.name)]
        return (path.parent / alike[0]).as_posix() if len(alike) == 1 else None

    def with_suffix(self, stem: str, suffixes: tuple[str, ...]) -> list[str]:
        """Files of that stem and one of the suffixes in letters of any case, in the order of the suffixes, small
        letters first; where there is none, those of the only stem that is spelled alike.
        """
        path = PurePosixPath(stem)
        # `path.name` may hold a dot itself, so the stem is what is left of a name without the suffix.
        known = self._stems(path.parent).get(_folded(path.name), [])
        fitting = [other for other in known if PurePosixPath(other).suffix.lower() in suffixes]
        exact = [other for other in fitting if PurePosixPath(other).stem == path.name]
        if not exact and len({PurePosixPath(other).stem for other in fitting}) == 1:
            exact = fitting
        order = {suffix: place for place, suffix in enumerate(suffixes)}
        exact.sort(key=lambda other: (order[PurePosixPath(other).suffix.lower()], other.swapcase()))
        return [(path.parent / other).as_posix() for other in exact]

    def _stems(self, folder: PurePosixPath) -> dict[str, list[str]]:
        """Names in a folder by their part before the last dot, folded."""
        key = folder.as_posix()
        if key not in self._folders:
            stems: dict[str, list[str]] = {}
            for name in names_in(self._root / folder):
                stems.setdefault(_folded(PurePosixPath(name).stem), []).append(name)
            self._folders[key] = stems
        return self._folders[key]


def _folded(name: str) -> str:
    # A Mac takes accents apart in the names that it writes; annotations seldom do.
    return unicodedata.normalize("NFC", name).lower()


def stays_inside(name: str) -> bool:
    """Whether a file name from an annotation is relative and never climbs, by the rules of any operating system.

    Symbolic links are followed: they are the doing of whoever laid out the folder, not of an annotation.
    """
    path = PureWindowsPath(name)  # takes both kinds of slash
    return bool(name.strip()) and not path.anchor and ".." not in path.parts and "\0" not in name and is_text(name)


def inside(root: Path, name: str) -> str | None:
    """A name from an annotation as one relative to the data folder, with slashes; None for one that leads out of it.

    An absolute name that lies in the folder is taken as well: tools write these, and they lead nowhere else.
    """
    plain = name.strip().replace("\\", "/")
    for resolved in (os.path.abspath, os.path.realpath) if plain.startswith("/") else ():
        base = Path(resolved(root)).as_posix()
        if f"{plain}/".startswith(f"{base}/"):
            plain = plain[len(base) :].lstrip("/") or "."
            break
    plain = posixpath.normpath(plain) if plain else ""  # what goes down and up again has not left
    return plain if stays_inside(plain) else None


def find_inside(root: Path, names: Iterable[str]) -> str | None:
    """The first of several spellings of a name that is there, relative to the data folder; where none is, the first.

    None where all of them lead out of the folder.
    """
    found = [name for name in (inside(root, name) for name in names) if name is not None]
    return next((name for name in found if os.path.exists(root / name)), found[0] if found else None)


def file_size(path: Path) -> int:
    """Bytes of an image's file.

    Raises:
        UserError: if it is missing or no regular file.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise UserError(f"image {path} is missing; put it there or take it out of the annotations") from error
    except (OSError, ValueError) as error:  # ValueError: a name that the file system's encoding cannot hold
        raise UserError(f"image {shorten(str(path))} cannot be read: {reason(error)}") from error
    if not S_ISREG(status.st_mode):
        raise UserError(f"image {path} is a folder or a device; expected a file")
    return status.st_size
