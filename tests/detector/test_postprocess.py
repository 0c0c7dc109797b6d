"""Post-processing against one loop over images, levels and classes."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import batched_nms, nms

from assigners.contract import Predictions
from assigners.grid import Grid
from detector import InferenceSettings
from detector import postprocess as product
from detector.postprocess import suppress_within, vote

SHAPES, STRIDES = ((6, 8), (3, 4)), (8, 16)
SIZES = ((48, 64), (40, 50), (17, 64))
CLASSES = 3


def scene(seed=0, images=3, spread=3.0):
    grid = Grid.build(SHAPES, STRIDES)
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(images, grid.num_locations, CLASSES, generator=generator)
    quality = torch.randn(images, grid.num_locations, generator=generator)
    reach = 12 * torch.rand(images, grid.num_locations, 4, generator=generator) + 2
    boxes = torch.cat((grid.points - reach[..., :2], grid.points + reach[..., 2:]), dim=-1)
    return grid, logits, boxes, quality


def postprocess(settings, grid, logits, boxes, quality, sizes):
    """The product's detections; distances are not read."""
    return product.postprocess(settings, grid, Predictions(logits, quality, boxes, boxes), sizes)


def reference(settings, grid, logits, boxes, quality, sizes):
    """Slow and plain: every rule of the settings as its own loop."""
    results = []
    for image, (height, width) in enumerate(sizes):
        found = []  # (score, label, box)
        for start, (rows, columns) in zip(grid.starts, grid.shapes, strict=True):
            level = []
            for location in range(start, start + rows * columns):
                for label in range(logits.shape[-1]):
                    probability = logits[image, location, label].sigmoid()
                    if probability > settings.score_threshold:
                        level.append((probability * quality[image, location].sigmoid(), label, location))
            level.sort(key=lambda row: -row[0])
            for score, label, location in level[: settings.candidates_per_level]:
                x1, y1, x2, y2 = boxes[image, location].tolist()
                box = [max(min(x1, width), 0), max(min(y1, height), 0), max(min(x2, width), 0), max(min(y2, height), 0)]
                if box[2] > box[0] and box[3] > box[1]:
                    found.append((score.sqrt() if settings.score == "sqrt_product" else score, label, box))
        kept = list(range(len(found)))
        if settings.nms_iou is not None:
            kept = []
            for label in range(logits.shape[-1]):
                own = [i for i, row in enumerate(found) if row[1] == label]
                if own:
                    table = torch.tensor([found[i][2] for i in own])
                    scores = torch.stack([found[i][0] for i in own])
                    kept += [own[int(i)] for i in nms(table, scores, settings.nms_iou)]
        kept.sort(key=lambda i: -found[i][0])
        results.append([found[i] for i in kept[: settings.detections]])
    return results


@pytest.mark.parametrize(
    "settings",
    [
        InferenceSettings(),
        InferenceSettings(score_threshold=0.4, candidates_per_level=10, detections=7),
        InferenceSettings(nms_iou=0.3, score="product", detections=20),
        InferenceSettings(nms_iou=None, candidates_per_level=9),
        InferenceSettings(score_threshold=0.0, candidates_per_level=5),
    ],
    ids=["default", "few", "product", "no-nms", "no-threshold"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_finds_what_the_loop_finds(settings, seed):
    maps = scene(seed)
    expected, got = reference(settings, *maps, SIZES), postprocess(settings, *maps, SIZES)
    assert len(got) == len(SIZES)
    for rows, result in zip(expected, got, strict=True):
        assert result["labels"].tolist() == [label for _, label, _ in rows]
        torch.testing.assert_close(result["scores"], torch.tensor([float(score) for score, _, _ in rows]))
        torch.testing.assert_close(result["boxes"], torch.tensor([box for _, _, box in rows]).reshape(-1, 4))


@pytest.mark.parametrize("count", [0, 1, 40, 3000])
def test_suppression_within_groups_is_torchvisions_in_its_order(count):
    generator = torch.Generator().manual_seed(count)
    corner = 60 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat((corner, corner + 1 + 20 * torch.rand(count, 2, generator=generator)), dim=1)
    scores = (torch.rand(count, generator=generator) * 50).round() / 50  # with ties
    group = torch.randint(7, (count,), generator=generator)
    ours = suppress_within(boxes, scores, group, 9, 0.5)
    theirs = batched_nms(boxes.double(), scores.double(), group, 0.5)
    assert set(ours.tolist()) == set(theirs.tolist())
    assert torch.equal(scores[ours], scores[theirs])


def test_boxes_stay_in_their_own_image():
    results = postprocess(InferenceSettings(nms_iou=None), *scene(), SIZES)
    for result, (height, width) in zip(results, SIZES, strict=True):
        boxes = result["boxes"]
        assert len(boxes)
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= width).all()
        assert (boxes[:, [1, 3]] <= height).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()
        assert (result["scores"].diff() <= 0).all()


def test_nothing_found_is_an_empty_result_of_the_right_types():
    grid, logits, boxes, quality = scene()
    logits[1] = -20.0
    results = postprocess(InferenceSettings(), grid, logits, boxes, quality, SIZES)
    assert len(results[0]["boxes"])
    assert len(results[2]["boxes"])
    assert {k: (tuple(v.shape), v.dtype) for k, v in results[1].items()} == {
        "boxes": ((0, 4), torch.float32), "scores": ((0,), torch.float32), "labels": ((0,), torch.int64),
    }  # fmt: skip
    for result in postprocess(InferenceSettings(), grid, logits - 40, boxes, quality, SIZES):
        assert [len(v) for v in result.values()] == [0, 0, 0]


def test_classes_do_not_suppress_each_other():
    grid, logits, boxes, quality = scene(images=1)
    boxes[:] = torch.tensor([10.0, 10.0, 30.0, 30.0])
    logits[:] = -20.0
    logits[0, 5] = torch.tensor([1.0, 2.0, 3.0])
    logits[0, 6] = torch.tensor([0.5, 2.5, 0.1])
    quality[:] = 0
    (result,) = postprocess(InferenceSettings(), grid, logits, boxes, quality, ((48, 64),))
    assert result["labels"].tolist() == [2, 1, 0]  # one of each class, the better one
    torch.testing.assert_close(result["scores"], (torch.tensor([3.0, 2.5, 1.0]).sigmoid() / 2).sqrt())


def test_the_place_in_the_batch_does_not_move_the_nms():
    """Many classes and images must not cost the boxes their digits."""
    grid = Grid.build(((5, 8),), (8,))
    images, classes, count = 16, 80, 40
    generator = torch.Generator().manual_seed(0)
    corner = 40 * torch.arange(5).repeat_interleave(8)[:, None] + 20.0  # five groups of small boxes
    base = torch.cat((corner, corner, corner + 5, corner + 6), dim=1)
    boxes = base + 0.6 * torch.randn(1, count, 4, generator=generator)
    boxes = boxes.expand(images, -1, -1).clone()
    logits = torch.full((images, count, classes), -20.0)
    logits[:, :, -1] = torch.randn(count, generator=generator)
    boxes[0, 0] = torch.tensor([0.0, 0.0, 1300.0, 800.0])  # a large image: offsets between classes grow with it
    quality = torch.zeros(images, count)
    settings = InferenceSettings()
    results = postprocess(settings, grid, logits, boxes, quality, ((800, 1333),) * images)
    alone = postprocess(settings, grid, logits[1:2], boxes[1:2], quality[1:2], ((800, 1333),))[0]
    for result in results[1:]:
        assert torch.equal(result["boxes"], alone["boxes"])


def test_voting_averages_neighbours_of_the_same_group():
    generator = torch.Generator().manual_seed(0)
    corner = 20 * torch.rand(60, 2, generator=generator)
    boxes = torch.cat((corner, corner + 5 + 20 * torch.rand(60, 2, generator=generator)), dim=1)
    scores, group = torch.rand(60, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    chosen = torch.tensor([3, 41, 7, 12])
    moved = vote(boxes, scores, group, chosen)
    for result, index in zip(moved, chosen.tolist(), strict=True):
        total, mean = 0.0, torch.zeros(4)
        for other in range(60):
            low, high = torch.maximum(boxes[index], boxes[other])[:2], torch.minimum(boxes[index], boxes[other])[2:]
            common = (high - low).clamp(min=0).prod()
            areas = [(boxes[i, 2:] - boxes[i, :2]).prod() for i in (index, other)]
            iou = common / (sum(areas) - common)
            if group[other] == group[index] and iou > 0.01:
                weight = scores[other] * torch.exp(-((1 - iou) ** 2) / 0.025)
                total, mean = total + weight, mean + weight * boxes[other]
        torch.testing.assert_close(result, mean / total)


def test_voting_moves_boxes_and_nothing_else():
    maps = scene()
    plain = postprocess(InferenceSettings(nms_iou=0.3, detections=20), *maps, SIZES)
    voted = postprocess(InferenceSettings(nms_iou=0.3, detections=20, score_voting=True), *maps, SIZES)
    for a, b in zip(plain, voted, strict=True):
        assert torch.equal(a["scores"], b["scores"])
        assert torch.equal(a["labels"], b["labels"])
        assert not torch.equal(a["boxes"], b["boxes"])


def test_voting_without_a_detection():
    settings = InferenceSettings(score_threshold=1.0, score_voting=True)
    assert [len(result["boxes"]) for result in postprocess(settings, *scene(), SIZES)] == [0, 0, 0]
