"""Data sets by name. Importing this package imports neither torch nor an image library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harness.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from harness.data.base import ImageSet
    from harness.protocol import DataSection

SOURCES = {
    "shapes": "procedural shapes, drawn on the fly at data.short_edge px; nothing to download",
    "coco:DIR": "COCO instances: DIR/annotations/instances_SPLIT.json, images in DIR/SPLIT/",
    "voc:DIR": "PASCAL VOC: DIR/Annotations, DIR/JPEGImages, DIR/ImageSets/Main/SPLIT.txt",
}

SHAPES_COUNT = {"train": 1000, "val": 200}  # images where the protocol names none


def open_data(spec: str, data: DataSection, *, role: Literal["train", "val"]) -> ImageSet:
    """Open one split of a data set.

    Args:
        spec: "shapes", "coco:DIR" or "voc:DIR".
        data: names the split (or leaves it to the source's default) and how many of its images count.
        role: which of the two splits of `data`.

    Raises:
        UserError: for an unknown source, a missing folder or split, or annotations that cannot be used.
    """
    name, _, folder = spec.partition(":")
    split = data.train_split if role == "train" else data.val_split
    limit = data.train_images if role == "train" else data.val_images
    if name == "shapes" and not folder:
        from harness.data.shapes import ShapesSet

        return ShapesSet(limit or SHAPES_COUNT[role], data.short_edge, split or role)
    if name not in ("coco", "voc") or not folder:
        hint = did_you_mean(name, ("shapes", "coco", "voc")) if name not in ("coco", "voc") else ""
        raise UserError(f"unknown data source {spec!r}{hint}; use one of {', '.join(SOURCES)}")
    if name == "coco":
        from harness.data.coco import open_coco

        return open_coco(folder, split, role, limit)
    from harness.data.voc import open_voc

    return open_voc(folder, split, role, limit, extra_splits=(data.train_split, data.val_split))
