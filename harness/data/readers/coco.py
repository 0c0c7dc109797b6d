"""COCO instances, wherever their files lie (`coco_layouts`), or a list of images, ``image_info_SPLIT.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import UserError, did_you_mean
from harness.data.default_splits import Pair, Role, default_split, undecided
from harness.data.readers.coco_layouts import LAYOUT, Split, find_splits
from harness.data.readers.coco_reader import Reader
from harness.data.readers.coco_values import Key, identity
from harness.data.readers.folder import FolderSet
from harness.data.readers.reading import open_folder, read_bytes
from harness.data.sources import Opening

PAIRS = (
    Pair(("train2017",), ("val2017",)),
    Pair(("train",), ("val",)),
    Pair(("train",), ("valid",)),
    Pair(("train",), ("validation",)),
    Pair(("train2014",), ("val2014",)),
    Pair(("trainval",), ("test",)),
    Pair(("train",), ("test",)),
)


class CocoSet(FolderSet):
    """A split in COCO's layout.

    Attributes:
        category_ids: of the annotation file, by class id.
        text_ids: ids of images that are text in the annotation file, by `image_id`.
        annotated: whether the objects are known; where they are not, as in COCO's test sets, no image has any.
    """

    category_ids: tuple[Key, ...] = ()
    text_ids: dict[int, str]
    annotated: bool = True

    def with_classes(self, classes: Sequence[str]) -> FolderSet:
        relabelled = super().with_classes(classes)
        assert isinstance(relabelled, CocoSet)
        # Of a class that this file does not name there is nothing to be written in its terms but the name itself.
        known = dict(zip(self.classes, self.category_ids, strict=True))
        relabelled.category_ids = tuple(known.get(name, name) for name in classes)
        return relabelled


def open_source(asked: Opening) -> CocoSet:
    """Open one split of a data set in COCO's layout.

    Category ids become ``0..C-1`` in the order of the ids. Boxes are clipped to their image; those without area are
    dropped and counted. A limit takes the first images, in the file's order.

    By default it is of the first pair of `PAIRS` that is there, or else the only split whose name holds "train" but
    not "val", or the other way round. Of a split without annotations there is but a list of its images,
    ``image_info_SPLIT.json``. They lie in ``SPLIT/``, or without a ``-dev`` in its name: test-dev2017 is a part of
    test2017.

    Raises:
        UserError: if something is missing or wrong; the line names the file and the entry.
    """
    root = open_folder(asked.folder, LAYOUT)
    split, (path, images, listed) = _find_split(root, asked.split, asked.role, asked.other)
    if listed and asked.annotated:
        raise UserError(
            f"split {split!r} of {root} has no annotations ({path.name}); `harness eval RUN --results-json FILE` "
            "writes the detections in its images"
        )
    content = read_bytes(path, "annotation file")
    try:
        document = json.loads(content)
    except ValueError as error:  # a UnicodeDecodeError is one as well
        raise UserError(f"annotation file {path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"annotation file {path} is nested too deeply to be COCO instances") from error
    if listed and isinstance(document, dict):
        document["annotations"] = []
    reader = Reader(path, document, root, images)
    files = reader.files(asked.limit)
    digest = hashlib.sha256(content).hexdigest()
    result = CocoSet(root, split, reader.classes, files, digest, reader.warnings, reader.problem())
    result.category_ids, result.annotated = reader.category_ids, not listed
    result.text_ids = {identity(key): key for key in reader.images if isinstance(key, str)}
    return result


def _find_split(root: Path, split: str | None, role: Role, other: str | None) -> tuple[str, Split]:
    """The name of a split, and where it lies; a list of images alone is taken only by its name."""
    found = find_splits(root)
    shown = ", ".join(f"{name} (no annotations)" if found[name].listed else name for name in found)
    if split is None:
        splits = [name for name in found if not found[name].listed]
        fitting = default_split(role, None if other is None else [other], [*PAIRS, _by_part_of_name(splits)], splits)
        if not fitting:
            beside = "" if other is None else f" beside {other}"
            raise UserError(f"cannot tell the {role} split of {root}{beside}: it has {shown}; {undecided(role)}")
        (split,) = fitting
    elif split not in found:
        raise UserError(f"{root} has no split {split!r}{did_you_mean(split, found)}; it has {shown} ({LAYOUT})")
    return split, found[split]


def _by_part_of_name(splits: Sequence[str]) -> Pair:
    """The only split with "train" in its name, and the only one with "val"; what has both, as trainval, is neither."""
    train = [name for name in splits if "train" in name and "val" not in name]
    val = [name for name in splits if "val" in name and "train" not in name]
    return Pair(*(tuple(names) if len(names) == 1 else () for names in (train, val)))
