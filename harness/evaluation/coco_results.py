"""Detections as a COCO results file, which pycocotools and COCO's evaluation server read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import write_atomically
from harness.data.base import ImageSet
from harness.data.readers.coco import CocoSet
from harness.data.readers.coco_values import Key
from harness.evaluation.detections import Detections, check

BOX_DIGITS, SCORE_DIGITS = 2, 5  # as COCO asks, to keep files small


def needs_coco(images: ImageSet) -> CocoSet:
    """The images, if their ids and categories mean something to a reader of results.

    Raises:
        UserError: if they are not in COCO's layout.
    """
    if not isinstance(images, CocoSet):
        raise UserError(
            f"a COCO results file needs the image and category ids of an annotation file, and {images.title} has none; "
            "give --data coco:DIR, or leave out --results-json"
        )
    return images


def write_results(path: Path, images: CocoSet, detections: Sequence[Detections]) -> int:
    """Write every detection with the image's and the category's id of the annotation file, a line for each image.

    Returns:
        How many detections there are.

    Raises:
        UserError: if the file cannot be written.
        ValueError: if the detections do not match the set, or hold NaN or infinity.
    """
    check(images, detections)
    lines = []
    for index, result in enumerate(detections):
        identity = images.image_id(index)
        rows = _rows(images.text_ids.get(identity, identity), images.category_ids, result)
        if rows:
            lines.append(json.dumps(rows, separators=(",", ":"))[1:-1])
    write_atomically(path, "[" + ",\n".join(lines) + "]\n")
    return sum(len(result["scores"]) for result in detections)


def _rows(image_id: Key, category_ids: Sequence[Key], detections: Detections) -> list[dict[str, object]]:
    columns = zip(detections["boxes"].tolist(), detections["labels"], detections["scores"], strict=True)
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[int(label)],
            "bbox": [round(value, BOX_DIGITS) for value in (left, top, right - left, bottom - top)],
            "score": round(float(score), SCORE_DIGITS),
        }
        for (left, top, right, bottom), label, score in columns
    ]
