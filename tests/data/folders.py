"""Small data sets written by the tests, and a set in memory whose boxes can be measured from its pixels."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.data.base import Annotations, ImageSet, Oddities
from harness.protocol.protocol import DataSection, Protocol, ScheduleSection


def protocol(steps: int = 4, batch_size: int = 4, **data: Any) -> Protocol:
    return Protocol(
        name="test",
        data=DataSection(**data),
        schedule=ScheduleSection(steps=steps, batch_size=batch_size),
    )


def objects(boxes: Any, labels: Any = None, crowd: Any = None) -> Annotations:
    table = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    count = len(table)
    return Annotations(
        boxes=table,
        labels=np.arange(count, dtype=np.int64) if labels is None else np.array(labels, dtype=np.int64),
        crowd=np.zeros(count, dtype=bool) if crowd is None else np.array(crowd, dtype=bool),
        difficult=np.zeros(count, dtype=bool),
        area=(table[:, 2] - table[:, 0]) * (table[:, 3] - table[:, 1]),
    )


class MemorySet(ImageSet):
    """Images of different sizes, each with one bright rectangle on black; image i has id 100 + i."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self.title, self.split, self.classes, self.warnings = "memory", "train", ("thing",), Oddities()
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def image_id(self, index: int) -> int:
        return 100 + index

    def name(self, index: int) -> str:
        return f"memory/{index}"

    def size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]

    def annotations(self, index: int) -> Annotations:
        height, width = self.sizes[index]
        return objects([[width // 4, height // 4, width // 2, height * 3 // 4]], labels=[0])

    def load(self, index: int) -> np.ndarray:
        height, width = self.sizes[index]
        image = np.zeros((height, width, 3), dtype=np.uint8)
        image[height // 4 : height * 3 // 4, width // 4 : width // 2] = 255
        return image

    def checksum(self) -> str:
        return "memory"


def write_image(path: Path, size: tuple[int, int] = (60, 80), mode: str = "RGB", **how: Any) -> None:
    """A picture of one colour, another one for each name and folder: no two files have the same content."""
    height, width = size
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = zlib.crc32("/".join(path.parts[-2:]).encode())
    picture = Image.new("RGB", (width, height), (colour & 255, colour >> 8 & 255, colour >> 16 & 255))
    picture.convert(mode).save(path, **how)


def coco_document() -> dict[str, Any]:
    """Two images of 80x60; categories with a gap, in disorder; a crowd; an id over 32 bits; a box without area."""
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 80, "height": 60},
            {"id": 3, "file_name": "b.jpg", "width": 80, "height": 60},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [10, 20, 30, 15.5], "area": 400.0, "iscrowd": 0},
            {"id": 908400535506, "image_id": 7, "category_id": 2, "bbox": [0, 0, 80, 60], "area": 900, "iscrowd": 1},
            {"id": 5, "image_id": 7, "category_id": 2, "bbox": [5, 5, 0, 10], "area": 0, "iscrowd": 0},
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def write_coco(root: Path, document: Any = None, split: str = "val2017") -> Path:
    content = document if isinstance(document, str) else json.dumps(document or coco_document())
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(content)
    for name in ("a.jpg", "b.jpg"):
        write_image(root / split / name)
    return root


VOC_OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
    "<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
)


def voc_object(name: str, x1: Any, y1: Any, x2: Any, y2: Any, difficult: str = "0") -> str:
    return VOC_OBJECT.format(name=name, x1=x1, y1=y1, x2=x2, y2=y2, difficult=difficult)


def voc_xml(*items: str, size: str = "<size><height>60</height><width>80</width></size>") -> str:
    return f"<annotation><path>/elsewhere/x.jpg</path><folder>../..</folder>{size}{''.join(items)}</annotation>"


def write_voc(root: Path, annotations: dict[str, str], splits: dict[str, str]) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, xml in annotations.items():
        (root / "Annotations" / f"{name}.xml").write_text(xml)
        write_image(root / "JPEGImages" / f"{name}.jpg")
    for split, text in splits.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text)
    return root


def write_yolo(root: Path, labels: dict[str, str | None], description: str | None = None) -> Path:
    """Images of 80x60 by name, with label files: ``images/...`` has them in ``labels/...``, others beside them."""
    for name, text in labels.items():
        write_image(root / name)
        if text is not None:
            path = (root / name.replace("images/", "labels/")).with_suffix(".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if description is not None:
        (root / "data.yaml").write_text(description)
    return root


def write_tables(root: Path, tables: dict[str, str], images: tuple[str, ...] = ()) -> Path:
    """CSV files by name, and images of 80x60."""
    root.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        (root / name).write_text(text)
    for name in images:
        write_image(root / name)
    return root


def face(x: Any, y: Any, width: Any, height: Any, invalid: Any = 0) -> str:
    """A row of WIDER FACE as the set has them, with a blank at the end."""
    return f"{x} {y} {width} {height} 2 0 1 {invalid} 1 0 \n"


def write_wider(
    root: Path, lists: dict[str, str | bytes], images: tuple[str, ...] = ("0--A/a.jpg", "1--B/b.jpg")
) -> Path:
    """Lists by split, each with the same images of 80x60."""
    (root / "wider_face_split").mkdir(parents=True, exist_ok=True)
    for split, text in lists.items():
        path = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        for name in images:
            write_image(root / f"WIDER_{split}" / "images" / name)
    return root
