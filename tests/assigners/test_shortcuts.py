"""The ways taken on the CPU and on a GPU: the same answer, to the bit."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from assigners.contract import Samples
from assigners.ops import host_shortcuts as shortcuts
from assigners.parts.gaussian_split import split
from assigners.registry import create
from harness.bench.scene import STEP, make_scene


@pytest.fixture
def long_way(monkeypatch):
    """As on a GPU, whose values cannot be looked at."""

    def switch() -> None:
        monkeypatch.setattr(shortcuts, "at_hand", lambda values: False)

    return switch


def test_values_of_a_cpu_tensor_are_at_hand_and_those_of_others_are_not():
    mask = torch.tensor([True, False, True])
    assert shortcuts.worth_keeping(mask).tolist() == [0, 2]
    assert shortcuts.none_left(~mask & mask)
    assert not shortcuts.none_left(mask)
    nowhere = mask.to("meta")
    assert shortcuts.worth_keeping(nowhere) == slice(None)
    assert not shortcuts.none_left(nowhere)


@pytest.mark.parametrize("boxes", [0, 5, 300], ids=["none", "few", "crowd"])
def test_paa_answers_the_same_on_both_ways(boxes, long_way):
    scene = make_scene(2, boxes, 4, size=(256, 320), channels=4)
    # A crowd has more (box, location) pairs than the batch has locations: there the long way turns to one row each.
    assert (scene.targets.num_pairs > 2 * scene.grid.num_locations) == (boxes == 300)
    assigner = create("paa", scene.head)
    short = assigner(scene.grid, scene.targets, scene.predictions, STEP)
    long_way()
    long = assigner(scene.grid, scene.targets, scene.predictions, STEP)
    for field in fields(Samples):
        a, b = getattr(short.samples, field.name), getattr(long.samples, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name
    assert torch.equal(short.negative_weight, long.negative_weight)


def test_boxes_that_have_converged_are_split_as_after_all_iterations(long_way):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(64, 45, generator=generator) * 3
    ok = torch.rand(64, 45, generator=generator) < 0.7
    short = split(scores, ok)
    long_way()
    assert torch.equal(short, split(scores, ok))
    assert short.any()
    assert not short.all()
