"""The images of a split of a YOLO folder: those in folders, and those that lists name."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import UserError, as_utf8, is_text, no_text, shorten
from harness.data.base import Oddities
from harness.data.readers.folder import REPEATED_IMAGE
from harness.data.readers.reading import find_inside, names_in, read_text
from harness.data.readers.yolo_layout import Layout, is_image, spellings

ABOVE = "folders that begin above the data folder, read as within it"


def image_names(root: Path, layout: Layout, split: str, odd: Oddities) -> list[str]:
    """The images of a split, relative to the data folder, each once; some of those in lists may not be there.

    Raises:
        UserError: for an entry that is not there or leads out of the data folder.
    """
    every: dict[str, None] = {}
    for entry in layout.splits[split]:
        for name in _images_of(root, layout, split, entry, odd):
            if not is_text(name):
                raise UserError(f"the name of image {as_utf8(str(root / name))} {no_text()}")
            if name in every:
                odd.note(REPEATED_IMAGE, name)
            every[name] = None
    return list(every)


def _images_of(root: Path, layout: Layout, split: str, entry: str, odd: Oddities) -> Iterator[str]:
    said = f"{layout.origin}: {split!r} names {shorten(entry)!r}"
    plain = entry.strip().replace("\\", "/")
    found = find_inside(root, spellings(root, plain, layout.base, "."))
    if (found is None or not os.path.exists(root / found)) and plain.startswith("../"):
        # Some exports count from a folder beside the data set's own.
        within = find_inside(root, [plain.lstrip("./")])
        if within is not None and os.path.exists(root / within):
            odd.note(ABOVE, f"{shorten(entry)} of {split}")
            found = within
    if found is None:
        raise UserError(f"{said}, which must stay inside the data folder; write it relative to {root}")
    if os.path.isdir(root / found):
        yield from _in_folder(root, found)
    elif not os.path.exists(root / found):
        raise UserError(f"{said}, which is not in {root}; put it there or mend the entry")
    elif found.endswith(".txt"):
        yield from _in_list(root, found)
    else:
        raise UserError(f"{said}, which is neither a folder nor a .txt file")


def _in_folder(root: Path, folder: str) -> Iterator[str]:
    """The images of a folder and those below it, sorted; links are followed, each folder is read once."""
    seen: set[str] = set()
    below = [folder]
    while below:
        current = below.pop()
        real = os.path.realpath(root / current)
        if real in seen:
            continue
        seen.add(real)
        names = [posixpath.normpath(f"{current}/{name}") for name in names_in(root / current) if name[0] != "."]
        yield from (name for name in names if is_image(name) and not os.path.isdir(root / name))
        below += [name for name in reversed(names) if os.path.isdir(root / name)]


def _in_list(root: Path, path: str) -> Iterator[str]:
    folder = posixpath.dirname(path) or "."
    for number, line in enumerate(read_text(root / path, "list of images").splitlines(), start=1):
        if not (name := line.strip().replace("\\", "/")):
            continue
        found = find_inside(root, spellings(root, name, *((folder, ".") if name.startswith("./") else (".", folder))))
        if found is None:
            raise UserError(
                f"list of images {root / path}, line {number}: {shorten(name)!r} must stay inside the data folder; "
                f"write it relative to {root}"
            )
        yield found
