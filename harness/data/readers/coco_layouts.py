"""Where the splits of COCO files lie: as COCO has them, as CVAT and Roboflow export them, and plainly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import UserError
from harness.data.readers.reading import names_in

LAYOUT = (
    "annotations/instances_SPLIT.json or annotations/SPLIT.json with images in SPLIT/, images/SPLIT/ or images/, or "
    "SPLIT/_annotations.coco.json beside its images"
)

INSTANCES, IMAGE_INFO = "instances_", "image_info_"
OTHER_TASKS = ("captions_", "person_keypoints_", "stuff_", "panoptic_")  # COCO's own, of the same images
ROBOFLOW = "_annotations.coco.json"


class Split(NamedTuple):
    """A split that is there.

    Attributes:
        path: its annotation file.
        images: the folder of its images, relative to the data folder.
        listed: whether the file only lists the images, without their objects.
    """

    path: Path
    images: str
    listed: bool = False


def find_splits(root: Path) -> dict[str, Split]:
    """The splits of a data folder by name; of several files for one name that of the first layout counts.

    Raises:
        UserError: if there is none.
    """
    folder = root / "annotations"
    names = [name.removesuffix(".json") for name in names_in(folder) if name.endswith(".json") and name[0] != "."]
    instances = [name.removeprefix(INSTANCES) for name in names if name.startswith(INSTANCES)]
    plain = [name for name in names if not name.startswith((INSTANCES, IMAGE_INFO, *OTHER_TASKS))]
    listed = [name.removeprefix(IMAGE_INFO) for name in names if name.startswith(IMAGE_INFO)]
    splits: dict[str, Split] = {}
    for split in instances:
        splits[split] = Split(folder / f"{INSTANCES}{split}.json", _images(root, split))
    # Beside files of this name, those of others are about something else.
    for split in plain if not instances else ():
        splits[split] = Split(folder / f"{split}.json", _images(root, split))
    for split in names_in(root):
        if os.path.isfile(root / split / ROBOFLOW):
            splits.setdefault(split, Split(root / split / ROBOFLOW, split))
    for split in listed:
        # test-dev2017 is a part of test2017.
        images = split if os.path.isdir(root / split) else split.replace("-dev", "")
        splits.setdefault(split, Split(folder / f"{IMAGE_INFO}{split}.json", images, listed=True))
    if not splits:
        raise UserError(f"{root} has no annotation file; expected {LAYOUT}")
    return splits


def _images(root: Path, split: str) -> str:
    """The folder of a split's images: ``SPLIT/`` unless only another one is there."""
    folders = (split, f"images/{split}", "images")
    return next((folder for folder in folders if os.path.isdir(root / folder)), split)
