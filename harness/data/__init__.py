"""Data sets by name. Importing this package imports neither torch nor an image library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.data.default_splits import Role
from harness.data.sources import Opening, find_source

if TYPE_CHECKING:
    from harness.data.base import ImageSet
    from harness.protocol.protocol import DataSection


def open_data(spec: str, data: DataSection, *, role: Role, annotated: bool = True, strict: bool = True) -> ImageSet:
    """Open one split of a data set.

    Args:
        spec: ``shapes``, ``coco:DIR``, ``csv:FILE``: one of `sources`, which other packages may add to.
        data: names the split (or leaves it to the source's default) and how many of its images count.
        role: which of the two splits of `data`.
        annotated: refuse images without annotations, which can be neither learnt nor evaluated.
        strict: refuse a set with `ImageSet.problems`; whoever wants to look at one does not.

    Raises:
        UserError: for an unknown source, a missing folder or split, or annotations that cannot be used.
    """
    images = find_source(spec).open(Opening(spec.partition(":")[2], data, role, annotated))
    if data.classes:
        images = images.with_classes(data.classes)
    if strict and images.problems:
        where = f"{images.title}, split {images.split}"
        raise UserError(f"{where}: {images.problems[0]}; `harness data {spec}` draws the boxes as they were read")
    return images
