"""How many locations a box asks for and which it gets, against loops; and predictions for rules that look at them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from assigners.contract import Predictions
from assigners.ops.boxes import decode
from assigners.parts.conflicts import box_rank
from assigners.parts.dynamic_k import HOPELESS, cheapest, dynamic_k, finite, settle
from harness.verify.published.oracles.sim_ota import Result, match
from tests.support.strategies import Scene, scenes

ROUNDING = 1e-5  # of a cost, relative to 1 + cost; a tenth of it of an overlap
JITTERS = 16  # each has an even chance to miss a tie


def trained(scene: Scene) -> Predictions:
    """Predictions that are good inside boxes, as those of a trained detector: with random ones every k is 1."""
    predictions = scene.predictions(features=False)
    logits, distances = predictions.logits / 2 - 2, predictions.distances.clone()
    points = scene.grid.points.numpy()
    for image, (boxes, labels) in enumerate(zip(scene.boxes, scene.labels, strict=True)):
        rng = np.random.default_rng((scene.seed, image, 3))
        for g in rng.permutation(len(boxes)).tolist():  # where boxes overlap, the last one is predicted
            reach = np.concatenate((points - boxes[g, :2], boxes[g, 2:] - points), axis=1)
            inside = np.flatnonzero(reach.min(axis=1) > 0)
            noisy = reach[inside] * np.exp(rng.normal(0, 0.25, (len(inside), 4)))
            distances[image, inside] = torch.from_numpy(noisy.astype(np.float32))
            logits[image, inside, labels[g]] += 3
    return replace(predictions, logits=logits, distances=distances, boxes=decode(scene.grid.points, distances))


def rounding_decides(scene: Scene, image: int, result: Result, topk: int) -> NDArray[np.bool_]:
    """``[R]`` places where a change of costs and overlaps by what float32 rounds off changes the answer."""
    boxes, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
    rng = np.random.default_rng(image)
    changed = np.zeros(len(result.assigned), dtype=bool)
    for _ in range(JITTERS):
        off = ROUNDING * rng.choice([-1, 1], (2, *result.cost.shape))
        shaken = match(
            result.able,
            result.overlap + off[0] / 10,
            result.cost + off[1] * (1 + np.abs(result.cost)),
            boxes,
            labels,
            topk,
            "zoo",
        )
        changed |= shaken.assigned != result.assigned
    return changed


# ---- how many --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 99), st.integers(0, 5), st.integers(1, 40), st.integers(1, 20))
def test_k_is_the_floor_of_the_sum_of_the_largest(seed, boxes, count, topq):
    rng = np.random.default_rng(seed)
    overlap = rng.integers(0, 65, (boxes, count)) / 64  # sums are exact, also where they are whole
    ok = rng.random((boxes, count)) < 0.7
    k = dynamic_k(torch.from_numpy(overlap).float(), torch.from_numpy(ok), topq)
    expected = [max(1, int(sum(sorted(row[here], reverse=True)[:topq]))) for row, here in zip(overlap, ok, strict=True)]
    assert k.dtype == torch.int64
    assert k.tolist() == expected
    assert all(1 <= value <= topq for value in k.tolist())


def test_what_is_no_number_does_not_count():
    nan = float("nan")
    overlap = torch.tensor([[nan, 1.0, 1.0, 1.0], [nan, nan, nan, nan]])
    ok = torch.tensor([[True, True, False, True], [True, True, True, True]])
    assert dynamic_k(overlap, ok, 4).tolist() == [2, 1]


def test_costs_become_finite():
    inf, nan = float("inf"), float("nan")
    cost = finite(torch.tensor([nan, inf, 3e38, 7.5, 0.0]))
    assert cost.tolist() == pytest.approx([HOPELESS, HOPELESS, HOPELESS, 7.5, 0.0])


# ---- which -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 99), st.integers(0, 5), st.integers(1, 30), st.integers(1, 12))
def test_the_cheapest_ascend_and_ties_go_to_the_earlier(seed, boxes, count, most):
    rng = np.random.default_rng(seed)
    cost, ok = rng.integers(-3, 4, (boxes, count)), rng.random((boxes, count)) < 0.6
    index, found = cheapest(torch.from_numpy(cost).float(), torch.from_numpy(ok), most)
    assert index.shape == found.shape == (boxes, min(most, count))
    for row in range(boxes):
        expected = sorted(np.flatnonzero(ok[row]).tolist(), key=lambda i: (cost[row, i], i))[:most]
        assert index[row][found[row]].tolist() == expected
        assert found[row].tolist() == [i < len(expected) for i in range(min(most, count))]


def table(scene: Scene, seed: int, count: int = 6):
    """Few costs and few locations, so that ties and conflicts are the rule: costs ascending per box."""
    rng = np.random.default_rng(seed)
    boxes = scene.targets().num_boxes
    cost = np.sort(rng.integers(0, 4, (boxes, count)), axis=1).astype(np.float32)
    location = np.stack([rng.choice(12, count, replace=False) for _ in range(boxes)]) if boxes else np.zeros((0, count))
    return cost, location.astype(np.int64), rng.random((boxes, count)) < 0.8, rng.integers(1, count + 1, boxes)


@given(scenes(), st.integers(0, 99), st.booleans())
def test_a_location_goes_to_the_cheapest_of_the_boxes_that_take_it(scene, seed, one_for_all):
    cost, location, ok, k = table(scene, seed)
    targets = scene.targets()
    rank, wanted = box_rank(targets).tolist(), [3] * len(k) if one_for_all else k.tolist()
    takers: dict[tuple[int, int], list[tuple[float, int, int, int]]] = {}
    for g, i in np.argwhere(ok).tolist():
        if i < wanted[g]:
            place = int(targets.image[g]), int(location[g, i])
            takers.setdefault(place, []).append((float(cost[g, i]), rank[g], g, i))
    expected = {min(claims)[2:] for claims in takers.values()}
    keep = settle(
        torch.from_numpy(cost),
        torch.from_numpy(location),
        torch.from_numpy(ok),
        3 if one_for_all else torch.from_numpy(k),
        scene.grid,
        targets,
    )
    assert {(g, i) for g, i in torch.nonzero(keep).tolist()} == expected


@given(scenes(), st.integers(0, 99))
def test_a_constant_on_top_of_a_box_s_costs_matters_in_conflicts_alone(scene, seed):
    cost, location, ok, k = table(scene, seed)
    location = location + 12 * scene.targets().slot[:, None].numpy()  # to each box of an image its own
    more = cost + np.random.default_rng(seed).uniform(0, 9, (len(cost), 1)).astype(np.float32)
    arguments = torch.from_numpy(location), torch.from_numpy(ok), torch.from_numpy(k), scene.grid, scene.targets()
    plain = settle(torch.from_numpy(cost), *arguments)
    assert torch.equal(plain, settle(torch.from_numpy(more), *arguments))
    assert plain.sum(dim=1).tolist() == [int(row[:n].sum()) for row, n in zip(ok, k, strict=True)]
