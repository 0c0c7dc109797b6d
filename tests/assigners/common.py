"""What the assigner tests share: building, running and comparing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from hypothesis import assume
from numpy.typing import NDArray

from assigners.contract import Assigner, Assignment, Targets
from assigners.ops.records import map_tensors
from assigners.registry import create
from harness.verify.answers import permuted, perturbed, pixels, rows, run
from harness.verify.scenes import VerifyScene

__all__ = ["assert_close_rows", "assigned", "build", "map_tensors", "permuted", "pixels", "rows", "run"]


def build(name: str, scene: VerifyScene, **options: object) -> Assigner:
    """An assigner whose own parameters, where it has any, are not near their uniform start."""
    torch.manual_seed(0)
    return perturbed(create(name, scene.head, **options), scene.seed)


def assert_close_rows(a: NDArray[np.float64], b: NDArray[np.float64], atol: float) -> None:
    """The same samples up to rounding: every number within `atol`."""
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def assigned(assignment: Assignment, targets: Targets, scene: VerifyScene) -> NDArray[np.int64]:
    """For grid assigners: slot of the box that each location learns ``[B, R]``, -1 where none; none may have two."""
    s = assignment.samples
    assert s.location is not None
    result = np.full((scene.num_images, scene.grid.num_locations), -1, dtype=np.int64)
    for k in torch.nonzero(s.ok).flatten().tolist():
        image, slot = int(targets.image[s.gt[k]]), int(targets.slot[s.gt[k]])
        assert result[image, int(s.location[k])] == -1, "two boxes share a location"
        result[image, int(s.location[k])] = slot
    return result


def expect_mirrored(scene: VerifyScene, answer: Callable[[VerifyScene], NDArray[np.int64]]) -> None:
    """A mirrored image has the mirrored answer.

    Args:
        scene: of one image, whose boxes differ in area: where places decide between equals, the mirror changes them.
        answer: slots of the boxes that locations learn, ``[B, R]``.
    """
    width, boxes = scene.canvas[1], scene.boxes[0]
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    assume(len({*sides.prod(axis=1).tolist()}) == len(boxes))
    flipped = np.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), axis=1)
    plain, mirrored = answer(scene)[0], answer(replace(scene, boxes=(flipped,)))[0]
    for (height, columns), start in zip(scene.shapes, scene.grid.starts, strict=True):
        level = slice(start, start + height * columns)
        left, right = plain[level].reshape(height, columns), mirrored[level].reshape(height, columns)
        np.testing.assert_array_equal(left, right[:, ::-1])


def expect_classes_to_stay(scene: VerifyScene, answer: Callable[[VerifyScene], NDArray[np.int64]]) -> None:
    """A box that stands there twice changes no location's class, nor which are background or ignored.

    Args:
        scene: of one image.
        answer: as in `expect_mirrored`, with a negative number for each other state.
    """
    boxes, labels = scene.boxes[0], scene.labels[0]
    twice = replace(scene, boxes=(np.concatenate((boxes, boxes[:1])),), labels=(np.append(labels, labels[0]),))
    a, b = answer(scene)[0], answer(twice)[0]
    np.testing.assert_array_equal(np.minimum(a, 0), np.minimum(b, 0))
    np.testing.assert_array_equal(labels[a[a >= 0]], twice.labels[0][b[b >= 0]])
