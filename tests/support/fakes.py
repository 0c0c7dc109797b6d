"""Small stand-ins: an image set held in memory, and a valid record."""

from __future__ import annotations

import numpy as np

from harness.data.base import Annotations, ImageSet, Oddities
from harness.records.details import Details
from harness.records.identity import RunSpec
from harness.records.schema import DataPart, RunRecord


class MemorySet(ImageSet):
    """Images without pixels: a list of annotations and, where they matter, ids."""

    def __init__(self, objects, *, classes=("a", "b"), ids=None, split="val", checksum="c0ffee"):
        self.title = "memory"
        self.split = split
        self.classes = classes
        self.warnings = Oddities()
        self._objects = objects
        self._ids = ids or list(range(len(objects)))
        self._checksum = checksum

    def __len__(self):
        return len(self._objects)

    def image_id(self, index):
        return self._ids[index]

    def name(self, index):
        return f"memory/{index}"

    def size(self, index):
        return 1000, 1000

    def annotations(self, index):
        return self._objects[index]

    def load(self, index):
        return np.zeros((1000, 1000, 3), np.uint8)

    def checksum(self):
        return self._checksum


def objects(boxes=(), labels=None, *, crowd=None, difficult=None, **attributes):
    """Annotations of one image; everything but the boxes has a plain default."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    return Annotations(
        boxes=boxes,
        labels=np.asarray(labels if labels is not None else [0] * count, np.int64),
        crowd=np.asarray(crowd if crowd is not None else [False] * count, bool),
        difficult=np.asarray(difficult if difficult is not None else [False] * count, bool),
        area=((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(np.float32),
        attributes={name: np.asarray(values, np.float32) for name, values in attributes.items()},
    )


def found(boxes=(), scores=None, labels=None):
    """Detections of one image."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    return {
        "boxes": boxes,
        "scores": np.asarray(scores if scores is not None else [0.9] * count, np.float32),
        "labels": np.asarray(labels if labels is not None else [0] * count, np.int64),
    }


def data_part(*, train=None, val=None, **changes):
    """What a record says of its data; `train` and `val` replace parts of the splits."""
    plain = {
        "kind": "voc",
        "title": "memory",
        "classes": ["a", "b"],
        "train": {"split": "train", "images": 10, "boxes": 20, "checksum": "11", "warnings": {}} | (train or {}),
        "val": {"split": "val", "images": 5, "boxes": 9, "checksum": "22", "warnings": {}} | (val or {}),
    }
    return DataPart.model_validate(plain | changes)


DATA = data_part()


def changed(record, **parts):
    """The record with values of its parts replaced."""
    whole = record.as_json()
    return record.with_parts(**{name: {**whole[name], **values} for name, values in parts.items()})


def make_details(record, values, *, errors=None, trace=None):
    """Details of a run with these replicates of AP and AP50."""
    return Details(
        run_id=record.run_id,
        bootstrap={"AP": values, "AP50": values},
        errors=errors or {"score": 0.3, "counts": {}, "objects": 0, "gain": {}},
        trace=trace or {"step": []},
    )


def make_record(
    protocol, *, assigner="center", seed=0, ap=30.0, created="2026-01-02T03:04:05Z", options=None, **changes
):
    """The record of a run; `changes` replace top-level parts."""
    options = {"radius": 1.5} if options is None else options
    spec = RunSpec(protocol=protocol, data=DATA, assigner=assigner, options=options, seed=seed)
    record = {
        "schema": 2,
        "run_id": spec.run_id,
        "created": created,
        "protocol": {
            "name": protocol.name, "note": protocol.note, "hash": protocol.digest, "content": protocol.content(),
        },
        "data": DATA.model_dump(),
        "assigner": assigner,
        "options": options,
        "changed_options": {},
        "declares": {},
        "seed": seed,
        "metrics": {
            "AP": ap, "AP50": ap, "AP75": ap, "APs": None, "APm": ap, "APl": ap, "AR100": ap,
            "bins": {"centre_fill": {"[0, 0.05)": {"count": 3, "recall": 66.66, "mean_iou": 0.5}}},
        },
        "cost": {
            "step_ms": 12.34, "images_per_s": 99.96, "train_s": 5.0, "peak_memory_mb": 512.4, "parameters": 1000,
            "assigner_parameters": 0, "eval_ms_per_image": 3.0,
        },
        "environment": {"device": "a processor", "torch": "2.11"},
        "source": {"commit": "abc123", "version": "0.1.0", "earlier": []},
        "equal": {"initial_weights": "0123456789ab", "batches": "01234567"},
        "command": f"harness run --assigner {assigner} --seed {seed}",
        "progress": {"steps": 60},
    }  # fmt: skip
    return RunRecord.model_validate(record | changes)
