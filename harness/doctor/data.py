"""The embedded data, and data sets that were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

from harness.data import open_data
from harness.doctor.rows import Row

if TYPE_CHECKING:
    from harness.protocol import Protocol

SHAPES_DIGEST = "d211acc51e099549d8cca9be0d3e73ffab660d10d0125cfa79f2231d02033313"  # of `shapes_digest`, everywhere


def embedded() -> Iterator[Row]:
    """Whether `shapes` has the pixels that it has on every machine."""
    digest = shapes_digest()
    if digest == SHAPES_DIGEST:
        yield Row("embedded data", "ok", f"shapes is bit-identical ({digest[:12]})")
    else:
        detail = f"shapes differs: its first images hash to {digest[:12]}, not to {SHAPES_DIGEST[:12]}"
        yield Row("embedded data", "problem", detail, "install another build of numpy: no result would compare")


def shapes_digest() -> str:
    """SHA-256 over pixels, boxes and labels of the first 32 training images at 128 px."""
    from harness.data.shapes import ShapesSet

    images, digest = ShapesSet(32, 128, "train"), sha256()
    for index in range(len(images)):
        found = images.annotations(index)
        for part in (images.load(index), found.boxes.astype("<f4"), found.labels.astype("<i8")):
            digest.update(part.tobytes())
    return digest.hexdigest()


def opened(spec: str, protocol: Protocol) -> Iterator[Row]:
    """Both splits of a data set: counted, checksummed, their first and last image read.

    Raises:
        UserError: for what cannot be used.
    """
    splits = [open_data(spec, protocol.data, role=role) for role in ("train", "val")]
    for images in splits:
        boxes = sum(len(images.annotations(index).boxes) for index in range(len(images)))
        for index in {0, len(images) - 1}:
            images.load(index)
        what = f"data {spec}, {images.split}"
        counts = f"{len(images)} images, {boxes} boxes, {len(images.classes)} classes"
        detail = f"{counts}, checksum {images.checksum()[:12]}"
        if images.warnings:
            odd = ", ".join(f"{count} {text}" for text, count in sorted(images.warnings.items()))
            yield Row(what, "warning", f"{detail}; {odd}", "mend these annotations, or go on without them")
        else:
            yield Row(what, "ok", detail)
    train, val = splits
    if train.classes != val.classes:
        detail = f"{train.split} and {val.split} have different classes"
        yield Row(f"data {spec}", "problem", detail, "give both the same categories, in the same order")
