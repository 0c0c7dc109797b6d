"""Values of a COCO file as people's tools write them: numbers as text or with a point, flags as booleans, text ids."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from pycocotools import mask

LARGEST = 1e12  # of any number: integers beyond the range of floats would make them fail

Key = int | str  # an id


def key(value: object) -> Key | None:
    """An id: a whole number from 0 to 2**63 - 1, also as text or with a point, or any other text; None for no id."""
    if type(value) is int:
        return value if 0 <= value < 2**63 else None
    if isinstance(value, float) and value.is_integer():
        return key(int(value))
    if isinstance(value, str) and value.strip():
        small = value.isdecimal() and len(value) < 20 and value == str(int(value)) and int(value) < 2**63
        return int(value) if small else value
    return None


def identity(raw_id: Key) -> int:
    """A whole number for an id: itself, or 52 bits of its text's hash, which are exact in any JSON."""
    return raw_id if isinstance(raw_id, int) else int.from_bytes(hashlib.sha256(raw_id.encode()).digest()[:8]) >> 12


def whole(value: object) -> int | None:
    """A whole number, also as text or with a point; None for anything else."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST:
        return int(value)
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 19:
        return int(value)
    return None


def number(value: object) -> float | None:
    """A finite number, also as text; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if is_finite(value) else None  # type: ignore[arg-type]


def is_finite(value: object) -> bool:
    """Whether this is a number, and no text, that fits a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def flag(value: object) -> bool | None:
    """A mark: absent, null, 0, 1, a boolean, or one of these as text; None for anything else."""
    if isinstance(value, str):
        value = {"0": 0, "1": 1, "false": 0, "true": 1}.get(value.strip().lower(), value)
    if value is None or value in (0, 1):  # booleans are numbers
        return bool(value)
    return None


def mask_box(segmentation: object, size: tuple[int, int]) -> list[float] | None:
    """The box x, y, w, h around polygons, or around a run-length mask of ``(height, width)``; None for neither."""
    if isinstance(segmentation, list):
        flat = [x for polygon in segmentation if isinstance(polygon, list) for x in polygon]
        if not flat or len(flat) % 2 or not all(map(is_finite, flat)):
            return None
        points = np.array(flat, dtype=np.float64).reshape(-1, 2)
        low, high = points.min(axis=0), points.max(axis=0)
        return [*low.tolist(), *(high - low).tolist()]
    if isinstance(segmentation, dict) and segmentation.get("size") == list(size):
        return _run_length_box(segmentation, size)
    return None


def _run_length_box(segmentation: dict[str, Any], size: tuple[int, int]) -> list[float] | None:
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _runs(counts)
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts):
        return None
    if sum(counts) != size[0] * size[1]:  # the library would read on
        return None
    return [float(value) for value in mask.toBbox(mask.frPyObjects({"size": list(size), "counts": counts}, *size))]


def _runs(text: str) -> list[int]:
    """The run lengths of COCO's compressed form: groups of 5 bits, the lowest first, each run from the fourth on as a
    difference to the last but one.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs if shift == 0 else []
