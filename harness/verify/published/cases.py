"""Golden cases: one image each, with what published implementations ("peers") answer for it.

A case is an ``.npz`` file without pickled objects: the image's pyramid, its boxes, what a detector predicts there (or
nothing), and per peer ``PEER/assigned`` with the places ``PEER/tie`` and ``PEER/fragile`` where the answer is no
property of the peer's algorithm. ``info`` is JSON with the peers' versions and hyper-parameters.

Peers take boxes as they are. Boxes may reach outside the image, on both sides, and be of any size; so targets are made
here directly, not by `Targets.collate`, which clips and drops.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assigners.contract import Assignment, HeadInfo, Predictions, Targets
from assigners.grid import Grid, count_inside
from assigners.ops.boxes import decode
from harness.core.errors import UserError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

BACKGROUND, IGNORED, SEVERAL = -1, -2, -3  # in `hard_assignment`
MOST_LOCATIONS = 10_000_000  # a pyramid beyond it is a broken file, not an image
CHANNELS = 4  # of the detector that is made up for the case; features are never compared

_INPUTS = ("strides", "feat_hw", "offset", "num_classes", "gt_boxes", "gt_labels", "info")
_BROKEN = (
    OSError, ValueError, EOFError, KeyError, SyntaxError, MemoryError, NotImplementedError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class PeerAnswer:
    """What one implementation answers.

    Attributes:
        assigned: ``[R]`` index of the box, -1 background, -2 ignored.
        comparable: ``[R]`` bool, outside `tie` and `fragile`.
        hyper: its hyper-parameters as the file names them.
        arrays: further arrays by name (``soft``, ``loss_pos`` ...).
        error: why it has no answer; the arrays are empty then.
    """

    name: str
    assigned: IntArray
    comparable: NDArray[np.bool_]
    hyper: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    error: str | None = None

    @property
    def by_boxes(self) -> bool:
        """Whether `assigned` says anything: a likelihood over bags has no soft label at any location."""
        return "soft" not in self.arrays or self.arrays["soft"].shape == self.assigned.shape


@dataclass(frozen=True)
class Case:
    """One image with its peers' answers.

    Attributes:
        boxes: ``[G, 4]`` float64; labels: ``[G]``; as the peers took them.
        predictions: of a batch of this one image; None where the case has none.
    """

    name: str
    grid: Grid
    num_classes: int
    boxes: FloatArray
    labels: IntArray
    predictions: Predictions | None
    peers: tuple[PeerAnswer, ...]

    @property
    def head(self) -> HeadInfo:
        """A detector that would yield these maps."""
        return HeadInfo(self.num_classes, CHANNELS, self.grid.strides)

    def targets(self) -> Targets:
        """The boxes as they are, as the ground truth of a batch of one."""
        boxes = torch.from_numpy(self.boxes).float()
        count = len(boxes)
        num_pairs, num_box_levels = count_inside(self.grid, boxes)
        return Targets(
            boxes=boxes,
            labels=torch.from_numpy(self.labels),
            image=torch.zeros(count, dtype=torch.long),
            slot=torch.arange(count),
            image_id=torch.zeros(1, dtype=torch.long),
            ignore=torch.zeros(0, 4),
            ignore_image=torch.zeros(0, dtype=torch.long),
            counts=(count,),
            num_pairs=num_pairs,
            num_box_levels=num_box_levels,
        )


def golden_files(folder: Path) -> list[Path]:
    """The cases of a folder, by name.

    Raises:
        UserError: if there is no such folder, or no case in it.
    """
    if not folder.is_dir():
        raise UserError(f"--golden {folder}: no such folder; give one that holds golden cases (*.npz)")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise UserError(f"--golden {folder}: no golden case (*.npz) in it")
    return files


def read_case(path: Path) -> Case:
    """Read one case.

    Raises:
        UserError: if the file is damaged or not of the golden format.
    """
    arrays = _read(path)
    missing = [name for name in _INPUTS if name not in arrays]
    if missing:
        raise UserError(f"{path}: not a golden case, it has no array {missing[0]!r}")
    try:
        return _case(path, arrays)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: not a golden case: {error}") from error


def hard_assignment(case: Case, answer: Assignment) -> IntArray | None:
    """Box per location ``[R]`` as the peers write it, `SEVERAL` where boxes share a place; None off the grid."""
    s = answer.samples
    if not (s.on_grid or bool((s.uv == s.uv.round()).all())):
        return None
    result = np.where(answer.negative_weight[0].numpy() > 0, BACKGROUND, IGNORED).astype(np.int64)
    s = s.select(s.ok & s.positive)
    for place, box in zip(case.grid.location(s.level, s.uv).tolist(), s.gt.tolist(), strict=True):
        result[place] = box if result[place] in (BACKGROUND, IGNORED, box) else SEVERAL
    return result


def soft_labels(case: Case, answer: Assignment) -> FloatArray:
    """Label per location ``[R]`` of its positive, 0 elsewhere; of answers that `hard_assignment` can write."""
    s = answer.samples.select(answer.samples.ok & answer.samples.positive)
    result = np.zeros(case.grid.num_locations)
    result[case.grid.location(s.level, s.uv).numpy()] = s.label.detach().double().numpy()
    return result


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise UserError(f"{path}: not a golden case but a single array; a case is an .npz archive")
        with stored:
            return {name: stored[name] for name in stored.files}
    except _BROKEN as error:
        raise UserError(f"{path}: damaged, or no archive of plain arrays ({type(error).__name__})") from error


def _case(path: Path, arrays: dict[str, NDArray[Any]]) -> Case:
    strides = _array(arrays, "strides", 1).tolist()
    shapes = [(int(h), int(w)) for h, w in _array(arrays, "feat_hw", 2).tolist()]
    if not strides or len(shapes) != len(strides) or min(strides) < 1 or min(min(s) for s in shapes) < 1:
        raise ValueError(f"strides {strides} and feat_hw {shapes} are no pyramid")
    count = sum(h * w for h, w in shapes)
    if count > MOST_LOCATIONS:
        raise ValueError(f"feat_hw asks for {count} locations, above {MOST_LOCATIONS}")
    num_classes = int(_array(arrays, "num_classes", 0))
    boxes = _array(arrays, "gt_boxes", 2).astype(np.float64).reshape(-1, 4)
    labels = _array(arrays, "gt_labels", 1).astype(np.int64)
    if len(boxes) != len(labels) or not np.isfinite(boxes).all():
        raise ValueError(f"gt_boxes {boxes.shape} and gt_labels {labels.shape} do not match, or are not finite")
    if num_classes < 1 or (len(labels) and not 0 <= labels.min() <= labels.max() < num_classes):
        raise ValueError(f"gt_labels are not all below num_classes, {num_classes}")
    grid = Grid.build(shapes, [int(s) for s in strides], offset=float(_array(arrays, "offset", 0)))
    info = json.loads(str(arrays["info"]))
    if not isinstance(info, dict) or not isinstance(info.get("peers"), dict):
        raise ValueError("info names no peers")
    return Case(
        name=str(info.get("case", path.stem)),
        grid=grid,
        num_classes=num_classes,
        boxes=boxes,
        labels=labels,
        predictions=_predictions(arrays, grid, num_classes),
        peers=tuple(_peer(name, record, arrays, count, len(boxes)) for name, record in info["peers"].items()),
    )


def _predictions(arrays: dict[str, NDArray[Any]], grid: Grid, num_classes: int) -> Predictions | None:
    if not {"cls_q", "obj_q", "ltrb_q"} <= arrays.keys():
        return None
    count = grid.num_locations
    maps = []
    for name, shape, step in (("cls_q", (count, num_classes), 16), ("obj_q", (count,), 16), ("ltrb_q", (count, 4), 8)):
        if arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].shape}, expected {shape}")
        maps.append(torch.from_numpy(arrays[name].astype(np.float32) / step)[None])
    logits, quality, distances = maps
    return Predictions(logits, quality, distances, decode(grid.points, distances))


def _peer(name: str, record: Any, arrays: dict[str, NDArray[Any]], count: int, boxes: int) -> PeerAnswer:
    record = record if isinstance(record, dict) else {}
    hyper = record.get("hyper_parameters")
    hyper = hyper if isinstance(hyper, dict) else {}
    answers = {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{name}/")}
    if "error" in record or "assigned" not in answers:
        why = str(record.get("error") or "the file holds no answer of it")
        return PeerAnswer(name, np.zeros(0, np.int64), np.zeros(0, np.bool_), hyper, error=" ".join(why.split()))
    assigned = answers["assigned"].astype(np.int64)
    if assigned.shape != (count,):
        raise ValueError(f"{name}/assigned is {assigned.shape}, expected {(count,)}")
    if count and not IGNORED <= assigned.min() <= assigned.max() < boxes:
        raise ValueError(f"{name}/assigned names a box beyond the {boxes} of the case")
    comparable = np.ones(count, np.bool_)
    for kind in ("tie", "fragile"):
        places = answers.get(kind, np.zeros(0)).astype(np.int64)
        if len(places) and not 0 <= places.min() <= places.max() < count:
            raise ValueError(f"{name}/{kind} names a location beyond the {count} of the case")
        comparable[places] = False
    further = {key: value for key, value in answers.items() if key not in ("assigned", "tie", "fragile")}
    return PeerAnswer(name, assigned, comparable, hyper, further)


def _array(arrays: dict[str, NDArray[Any]], name: str, dimensions: int) -> NDArray[Any]:
    value = arrays[name]
    if value.ndim != dimensions or value.dtype.kind not in "iuf":
        raise ValueError(f"{name} is {value.dtype} with {value.ndim} dimensions, expected numbers with {dimensions}")
    return value
