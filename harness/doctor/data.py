"""The embedded data, and data sets that were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from harness.core.errors import UserError
from harness.doctor.rows import Finding, from_error
from harness.protocol.protocol import Protocol

SHAPES_DIGEST = "d211acc51e099549d8cca9be0d3e73ffab660d10d0125cfa79f2231d02033313"  # of `shapes_digest`, everywhere


def embedded() -> Iterator[Finding]:
    """Whether `shapes` has the pixels that it has on every machine."""
    digest = shapes_digest()
    if digest == SHAPES_DIGEST:
        yield Finding("embedded data", "ok", f"shapes is bit-identical ({digest[:12]})")
    else:
        detail = f"shapes differs: its first images hash to {digest[:12]}, not to {SHAPES_DIGEST[:12]}"
        yield Finding("embedded data", "problem", detail, "install another build of numpy: no result would compare")


def shapes_digest() -> str:
    """SHA-256 over pixels, boxes and labels of the first 32 training images at 128 px."""
    from harness.data.shapes.shapes import ShapesSet

    images, digest = ShapesSet(32, 128, "train"), sha256()
    for index in range(len(images)):
        objects = images.annotations(index)
        for part in (images.load(index), objects.boxes.astype("<f4"), objects.labels.astype("<i8")):
            digest.update(part.tobytes())
    return digest.hexdigest()


def opened(spec: str, protocol: Protocol, results: Path) -> Iterator[Finding]:
    """Both splits of a data set: counted, checksummed, held against each other, every image decoded.

    Raises:
        UserError: for what cannot be opened at all.
    """
    from harness.data.check import CHECKED
    from harness.data.survey import survey

    result = survey(spec, protocol, results / CHECKED if results.is_dir() else None, 0, None)
    look = f"harness data {spec} draws it; mend the files, or go on without"
    for split in result.splits.values():
        images, objects = split.images, len(split.objects.labels)
        what = f"data {spec}, {images.split}"
        counts = f"{len(images)} images, {objects} boxes, {len(images.classes)} classes"
        yield Finding(what, "ok", f"{counts}, checksum {images.checksum()[:12]}")
        for line in images.warnings.lines():
            yield Finding(what, "warning", line, look)
    for problem in result.problems:
        yield from_error(f"data {spec}", UserError(problem))
