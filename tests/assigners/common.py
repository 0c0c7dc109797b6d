"""What the assigner tests share: building, running and comparing."""

from __future__ import annotations

import numpy as np
import torch
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
