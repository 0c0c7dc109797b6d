"""A whole data set read and counted before anybody trains on it: what is there, what is odd, which images show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from harness.core.errors import UserError
from harness.data import open_data
from harness.data.base import ImageSet
from harness.data.check import UNREADABLE, check_images, describe, two_conventions
from harness.data.default_splits import Role
from harness.data.readers.folder import FolderSet
from harness.data.splits import Objects, all_objects, put_together
from harness.protocol.protocol import Protocol

ROLES: tuple[Role, ...] = ("train", "val")
REACH = (64.0, 128.0, 256.0, 512.0)  # px, the farthest side that P3 to P6 regress (FCOS, sec. 3.2); beyond is P7's


@dataclass(frozen=True)
class SplitSurvey:
    """One split.

    Attributes:
        images: as they are read, faults and all.
        objects: at the protocol's size.
    """

    images: ImageSet
    objects: Objects

    def to_json(self) -> dict[str, Any]:
        """Counts for people and machines. Levels are those of half an object's longer side, the reach of its centre."""
        taught = self.objects.learnt & self.objects.large_enough
        reach = self.objects.sides.max(axis=1, initial=0)[taught] / 2
        levels = np.bincount(np.searchsorted(REACH, reach), minlength=len(REACH) + 1)
        labels = np.bincount(self.objects.labels[taught], minlength=len(self.images.classes))
        images = self.images
        return {
            "split": images.split,
            "images": len(images),
            "images_without_object": len(images) - len(set(self.objects.image.tolist())),
            "objects": int(taught.sum()),
            "not_learnt": int((~taught).sum()),
            "levels": {f"P{3 + level}": int(count) for level, count in enumerate(levels)},
            "classes": {name: int(count) for name, count in zip(images.classes, labels, strict=True)},
            "warnings": dict(images.warnings),
            "examples": images.warnings.examples,
            "checksum": images.checksum(),
        }


@dataclass(frozen=True)
class Survey:
    """Both splits, and why they cannot be trained on, a line each."""

    splits: dict[Role, SplitSurvey]
    problems: tuple[str, ...]


def survey(data: str, protocol: Protocol, folder: Path | None, workers: int, console: Console | None) -> Survey:
    """Read everything; what would stop a run is noted in place of stopping.

    Args:
        folder: where finished checks are remembered; None for nowhere.
        workers: processes that decode.

    Raises:
        UserError: for a set that cannot be opened at all.
    """
    sets = {role: open_data(data, protocol.data, role=role, strict=False) for role in ROLES}
    problems = [f"{images.split}: {line}" for images in sets.values() for line in images.problems]
    try:
        sets["train"], sets["val"] = put_together(data, sets["train"], sets["val"], protocol.data)
    except UserError as error:
        problems.append(str(error))
    for role, images in sets.items():
        if not isinstance(images, FolderSet):
            continue
        check = check_images(images, folder, workers, console)
        images.warnings.add(check.oddities)
        if fault := two_conventions(images, check):
            problems.append(fault)
        if check.unreadable and protocol.data.unreadable == "skip":
            images.warnings.note_all(UNREADABLE, (images.name(index) for index in check.unreadable))
        elif check.unreadable:
            problems.append(f"{describe(images, check)}, or leave them out with --set data.unreadable=skip")
        if 0 < len(check.unreadable) < len(images):
            sets[role] = images.skipping(check.unreadable)
    return Survey(
        {role: SplitSurvey(images, all_objects(images, protocol.data)) for role, images in sets.items()},
        tuple(problems),
    )


def worth_a_look(images: ImageSet, count: int) -> list[int]:
    """Indices of images to draw: those that warnings name, filled up with others in equal steps."""
    by_name = {images.name(index): index for index in range(len(images))}
    named = [where for places in images.warnings.examples.values() for where in places]
    odd = [index for where in named for index in _named(where, by_name)]
    step = max(1, len(images) // max(count, 1))
    return sorted(list(dict.fromkeys([*odd, *range(0, len(images), step)]))[:count])


def _named(where: str, by_name: dict[str, int]) -> Sequence[int]:
    """The image that an example speaks of: ``NAME``, ``NAME object 3``, ``annotation 5 of NAME``."""
    names = (where, where.rpartition(" object ")[0], where.partition(" of ")[2], where.partition(" = ")[0])
    return [by_name[name] for name in names if name in by_name][:1]
