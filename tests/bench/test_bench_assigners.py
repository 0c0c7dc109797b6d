"""Time of each assigner's call on 2 images of 800 x 1344 (22,400 locations, 80 classes): ``make bench``.

`harness bench assigners` measures more, and beside dense versions of the same rules.
"""

from __future__ import annotations

import pytest
import torch

from assigners import catalogue, create
from harness.bench.batches import assigner_call
from harness.bench.scene import make_scene

IMAGES, CLASSES = 2, 80
BOXES = [7, *(pytest.param(boxes, marks=pytest.mark.slow) for boxes in (30, 100, 500))]  # `make bench` runs all
NAMES = [entry.name for entry in catalogue()]


@pytest.fixture(scope="module")
def scene(request):
    return make_scene(IMAGES, request.param, CLASSES)


@pytest.mark.parametrize("scene", BOXES, indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_call(benchmark, scene, name):
    torch.manual_seed(0)
    call, _ = assigner_call(create(name, scene.head), scene)
    assert benchmark(call) is not None
