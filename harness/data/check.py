"""Every image of a split decoded once, before anybody trains for hours on a set with a broken one in its middle."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import PIL
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

from harness.core.errors import UserError
from harness.core.files import exclusively, write_atomically
from harness.core.progress import tracked
from harness.core.stopping import leave_to_the_main_process
from harness.core.text import counted
from harness.data.base import ImageSet, Oddities
from harness.data.decoding import AS_STORED, UNCONFIRMED, inspect
from harness.data.readers.folder import FolderSet
from harness.protocol.protocol import DataSection

VERSION = 2  # raise it when the check finds more, so that what was checked before is checked again

CHECKED = ".checked"  # the folder of finished checks within a results directory

UNREADABLE = "images that cannot be decoded, left out"
COPIES = "images with the very content of another one of the split, under another name"


class Check(BaseModel):
    """What decoding every image of a split found; as JSON, the file of a finished check.

    Attributes:
        unreadable: why, by index.
        counts, examples: of `oddities`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unreadable: dict[int, str]
    counts: dict[str, int]
    examples: dict[str, list[str]]

    @property
    def oddities(self) -> Oddities:
        """What was done to images to read them, and images that are copies of others."""
        oddities = Oddities(self.counts)
        oddities.examples.update(self.examples)
        return oddities


def checked(
    images: ImageSet, section: DataSection, folder: Path | None, workers: int = 0, console: Console | None = None
) -> ImageSet:
    """The images of a split, each known to be readable; what was found is counted among its warnings.

    Arguments are those of `check_images`; a split that is drawn on the fly is given back as it is.

    Raises:
        UserError: for images that cannot be read, unless the protocol leaves them out; or if none is left.
    """
    if not isinstance(images, FolderSet):
        return images
    check = check_images(images, folder, workers, console)
    if check.unreadable and section.unreadable == "refuse":
        raise UserError(describe(images, check) + ", or leave them out and count them with --set data.unreadable=skip")
    if check.unreadable:
        names = [images.name(index) for index in check.unreadable]
        images = images.skipping(check.unreadable)
        images.warnings.note_all(UNREADABLE, names)
    if fault := two_conventions(images, check):
        raise UserError(fault)
    images.warnings.add(check.oddities)
    return images


def two_conventions(images: FolderSet, check: Check) -> str | None:
    """The fault of a split some of whose annotations count stored pixels: others with an orientation may do so, too."""
    if not check.oddities[AS_STORED] or not check.oddities[UNCONFIRMED]:
        return None
    stored, turned = (check.oddities.examples[kind][0] for kind in (AS_STORED, UNCONFIRMED))
    return (
        f"split {images.split} of {images.title}: annotations such as that of {stored} count the pixels of an image as "
        f"it is stored and not as its EXIF orientation says, so those of {check.oddities[UNCONFIRMED]} images whose "
        f"size does not tell ({turned}) may, too; take the orientation out of the images' files"
    )


def without_unreadable(images: ImageSet, section: DataSection, results: Path, console: Console | None) -> ImageSet:
    """The images that an evaluation of this protocol is of: without those that it leaves out, where it leaves any out.

    The results directory remembers finished checks.
    """
    return checked(images, section, results / CHECKED, 0, console) if section.unreadable == "skip" else images


def describe(images: FolderSet, check: Check) -> str:
    """The unreadable images of a split in one line: how many, and the first of them."""
    first = next(iter(check.unreadable.values()))
    count = len(check.unreadable)
    if count == 1:
        return first
    return f"{count} of {counted(len(images), 'image')} in split {images.split} cannot be used; the first: {first}"


def check_images(images: FolderSet, folder: Path | None, workers: int = 0, console: Console | None = None) -> Check:
    """Decode every image, once: an answer is remembered by the files' names, lengths and times.

    Args:
        folder: where answers are kept; None keeps none.
        workers: processes that decode.
    """
    if folder is None:
        return _examine(images, workers, console)
    path = folder / f"{_fingerprint(images)}.json"
    try:
        with exclusively(folder / "lock", wait=True):  # the processes of one run would all do the same work
            if (known := _remembered(path)) is None:
                known = _examine(images, workers, console)
                write_atomically(path, known.model_dump_json(indent=1) + "\n")
            return known
    except UserError:  # the folder takes no files: whoever reads a foreign results directory checks each time
        return _examine(images, workers, console)


def _examine(images: FolderSet, workers: int, console: Console | None) -> Check:
    # Interrupts reach the whole process group; see `harness.data.loader`.
    loader = DataLoader(_Looks(images), batch_size=None, num_workers=workers, worker_init_fn=leave_to_the_main_process)
    words = f"looking at images of {images.split}"
    unreadable: dict[int, str] = {}
    oddities = Oddities()
    contents: dict[bytes, list[int]] = defaultdict(list)
    for index, (fault, kinds, digest) in enumerate(tracked(loader, lambda _: 1, len(images), words, console)):
        if fault is not None:
            unreadable[index] = fault
            continue
        for kind in kinds:
            oddities.note(kind, images.name(index))
        contents[digest].append(index)
    for copies in contents.values():
        oddities.note_all(COPIES, (f"{images.name(index)} = {images.name(copies[0])}" for index in copies[1:]))
    return Check(unreadable=unreadable, counts=oddities, examples=oddities.examples)


class _Looks(Dataset[tuple[str | None, list[str], bytes]]):
    """Each image's fault, kinds of oddity and digest of its content."""

    def __init__(self, images: FolderSet) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[str | None, list[str], bytes]:
        try:
            size, kinds, content = inspect(self._images.path(index), self._images.size(index))
        except UserError as error:
            return str(error), [], b""
        wrong = self._images.wrong_size(index, size)
        return (None if wrong is None else str(wrong)), kinds, hashlib.blake2b(content, digest_size=16).digest()


def _fingerprint(images: FolderSet) -> str:
    """Of the files as they lie there: a file that is mended, even to the same length, is another."""
    digest = hashlib.sha256(f"{VERSION} {PIL.__version__} {images.checksum()}".encode())
    for index in range(len(images)):
        path = images.path(index)  # part of what is said of a faulty one
        digest.update(f"\n{path} {path.stat().st_mtime_ns} {images.size(index)}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _remembered(path: Path) -> Check | None:
    try:
        return Check.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None  # not there, or damaged: the check is made again and replaces it
