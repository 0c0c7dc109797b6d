"""pycocotools itself over an image set: what `harness.evaluation.matching` must answer, by the library's own loops."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIZES = {"AP": 0, "APs": 1, "APm": 2, "APl": 3}  # position of the area range in the library's parameters


class CocoReference(COCOeval):
    """COCOeval with difficult objects (the library overwrites ``ignore`` with ``iscrowd``), matched and accumulated."""

    def __init__(self, images, detections, *, most=100, inside=None):
        """`most` is the number of detections that AR reads; objects not `inside` ``[M]`` count as difficult ones do."""
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(_ground_truth(images, inside), _results(images, detections), "bbox")
            # AP reads every detection.
            self.params.maxDets = sorted({most, max([most, *(len(each["scores"]) for each in detections)])})
            self.most = self.params.maxDets.index(most)
            self.evaluate()
            self.accumulate()

    def _prepare(self):
        super()._prepare()
        for group in self._gts.values():
            for row in group:
                row["ignore"] = row["iscrowd"] or row["difficult"]

    def metrics(self):
        """As `harness.evaluation.coco_metrics.coco_metrics` gives them."""
        precision = self.eval["precision"][..., -1]
        values = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
        values |= {name: precision[..., size] for name, size in SIZES.items() if size}
        values["AR100"] = self.eval["recall"][..., 0, self.most]
        return {name: mean_in_points(value) for name, value in values.items()}

    def entries(self, size="AP"):
        """Of objects of a size, the library's outcome for each class and image that has either."""
        classes, images = len(self.params.catIds), len(self.params.imgIds)
        position = SIZES[size]
        return [
            entry
            for label in range(classes)
            for entry in self.evalImgs[(4 * label + position) * images :][:images]
            if entry is not None
        ]


def mean_in_points(values):
    """Over what an object defines; the library marks the rest with -1."""
    defined = values[values > -1]
    return 100 * float(defined.mean()) if defined.size else None


def _ground_truth(images, inside):
    rows = []
    for index in range(len(images)):
        truth = images.annotations(index)
        for n in range(len(truth)):
            outside = inside is not None and not inside[len(rows)]
            rows.append(
                _row(images, index, truth.boxes[n], truth.labels[n])
                | {"area": float(truth.area[n]), "iscrowd": int(truth.crowd[n])}
                | {"difficult": int(truth.difficult[n] or outside)}
            )
    return _coco(images, rows)


def _results(images, detections):
    rows = []
    for index, result in enumerate(detections):
        for box, label, score in zip(result["boxes"], result["labels"], result["scores"], strict=True):
            row = _row(images, index, box, label)
            rows.append(row | {"area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0, "score": float(score)})
    return _coco(images, rows)


def _row(images, index, box, label):
    left, top, right, bottom = np.asarray(box, float).tolist()
    box = [left, top, right - left, bottom - top]
    return {"image_id": images.image_id(index), "category_id": int(label), "bbox": box}


def _coco(images, rows):
    coco = COCO()
    coco.dataset = {
        "images": [{"id": images.image_id(index)} for index in range(len(images))],
        # Ids start at 1: COCOeval reads a match with id 0 as no match.
        "annotations": [row | {"id": number} for number, row in enumerate(rows, start=1)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(images.classes)],
    }
    coco.createIndex()
    return coco
