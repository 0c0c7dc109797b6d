"""Data sets by name. Importing this package imports neither torch nor an image library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harness.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from harness.data.base import ImageSet
    from harness.protocol.protocol import DataSection

SOURCES = {
    "shapes": "procedural shapes, drawn on the fly at data.short_edge px; nothing to download",
    "coco:DIR": "COCO instances: DIR/annotations/instances_SPLIT.json, images in DIR/SPLIT/",
    "voc:DIR": "PASCAL VOC: DIR/Annotations, DIR/JPEGImages, DIR/ImageSets/Main/SPLIT.txt, or folders of these by year",
    "wider:DIR": "WIDER FACE: DIR/wider_face_split/wider_face_SPLIT_bbx_gt.txt, DIR/WIDER_SPLIT/images/",
}

SHAPES_COUNT = {"train": 1000, "val": 200}  # images where the protocol names none


def open_data(
    spec: str, data: DataSection, *, role: Literal["train", "val"], annotated: bool = True, strict: bool = True
) -> ImageSet:
    """Open one split of a data set.

    Args:
        spec: "shapes", "coco:DIR", "voc:DIR" or "wider:DIR".
        data: names the split (or leaves it to the source's default) and how many of its images count.
        role: which of the two splits of `data`.
        annotated: refuse COCO's lists of images without annotations, which can be neither learnt nor evaluated.
        strict: refuse a set with `ImageSet.problems`; whoever wants to look at one does not.

    Raises:
        UserError: for an unknown source, a missing folder or split, or annotations that cannot be used.
    """
    images = _opened(spec, data, role, annotated)
    if data.classes:
        from harness.data.readers.folder import FolderSet

        if not isinstance(images, FolderSet):
            raise UserError(f"data.classes: {images.title} has its own classes; leave the key out")
        images = images.with_classes(data.classes)
    if strict and images.problems:
        where = f"{images.title}, split {images.split}"
        raise UserError(f"{where}: {images.problems[0]}; `harness data {spec}` draws the boxes as they were read")
    return images


def _opened(spec: str, data: DataSection, role: Literal["train", "val"], annotated: bool) -> ImageSet:
    name, _, folder = spec.partition(":")
    split, other = (data.train_split, data.val_split)[:: 1 if role == "train" else -1]
    limit = data.train_images if role == "train" else data.val_images
    if name == "shapes" and not folder:
        from harness.data.shapes.shapes import ShapesSet

        return ShapesSet(limit or SHAPES_COUNT[role], data.short_edge, split or role)
    if name == "coco" and folder:
        from harness.data.readers.coco import open_coco

        return open_coco(folder, split, role, limit, annotated=annotated, other=other)
    if name == "voc" and folder:
        from harness.data.readers.voc import open_voc

        return open_voc(folder, split, role, limit, other)
    if name == "wider" and folder:
        from harness.data.readers.wider import open_wider

        return open_wider(folder, split, role, limit)
    kinds = [source.removesuffix(":DIR") for source in SOURCES]
    hint = "" if name in kinds else did_you_mean(name, kinds)
    raise UserError(f"unknown data source {spec!r}{hint}; use one of {', '.join(SOURCES)}")
