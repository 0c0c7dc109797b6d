"""Multi-scale testing against plain inference, and against its own rules done by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from detector.postprocess import Candidates, clipped, suppress
from harness.core.distributed import Processes
from harness.core.errors import UserError
from harness.data.loader import eval_batches
from harness.evaluation.inference import detect
from harness.evaluation.test_time_augmentation import merge, mirrored, search, view_sections
from harness.protocol.protocol import load_protocol
from harness.training.build import attach_assigner, build_detector
from tests.support.fakes import MemorySet, objects
from tests.support.runs import small_protocol

SIZES = ((64, 96), (80, 64), (50, 120), (64, 64), (130, 70))  # height, width
# Resized to a long edge of 64, 128 or 256, pictures of these sizes are the same mirrored before or after. Others may
# not be where torch has no kernel for uint8 and rounds floats, as without AVX2: a pixel differs by a grey level.
EVEN = ((64, 128), (128, 96), (50, 128), (128, 128), (128, 70))
CPU = torch.device("cpu")


class Pictures(MemorySet):
    """Random images of various sizes, blurred a little; or all of them mirrored."""

    def __init__(self, sizes=SIZES, *, mirror=False):
        super().__init__([objects()] * len(sizes))
        self.sizes, self.mirror = sizes, mirror

    def size(self, index):
        return self.sizes[index]

    def load(self, index):
        coarse = 8 * np.random.default_rng(index).integers(0, 32, (9, 9, 3), dtype=np.uint8)
        rows, columns = (np.arange(side) * 9 // side for side in self.sizes[index])
        image = coarse[rows][:, columns]
        return np.ascontiguousarray(image[:, ::-1]) if self.mirror else image


def protocol_of(**evaluation):
    return small_protocol(evaluation={"batch_size": 2, "score_threshold": 0.004, **evaluation})


@pytest.fixture(scope="module")
def model():
    detector = build_detector(protocol_of(), 2, 0).eval()
    with torch.no_grad():  # answers of its own for every place, class and size
        for layer in (detector.head.logits, detector.head.quality, detector.head.distances):
            layer.weight.mul_(30)
    return detector


def found_by(model, *, images=None, workers=0, group=None, **evaluation):
    return detect(model, images or Pictures(), protocol_of(**evaluation), CPU, workers, group or Processes())[0]


def plain_at(model, edge, *, images=None, nms_iou=None, detections=10**6):
    """Plain inference at one short edge, by default everything before NMS."""
    base = protocol_of()
    data = base.data.model_copy(update={"short_edge": edge, "long_edge": edge})
    settings = model.inference
    model.inference = replace(settings, nms_iou=nms_iou, detections=detections)
    try:
        protocol = base.model_copy(update={"data": data})
        return detect(model, images or Pictures(), protocol, CPU, 0, Processes())[0]
    finally:
        model.inference = settings


def equal(a, b, *, exactly=True):
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        assert len(one["scores"]) > 3
        assert one["labels"].tolist() == two["labels"].tolist()
        for name in ("boxes", "scores"):
            if exactly:
                assert np.array_equal(one[name], two[name])
            else:
                np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-3)


def test_one_scale_is_plain_inference(model):
    equal(found_by(model, test_scales=[64]), found_by(model))
    equal(found_by(model, test_scales=[96]), plain_at(model, 96, nms_iou=0.6, detections=100))


def test_the_way_of_many_views_with_one_of_them_is_plain_inference_too(model):
    protocol, images = protocol_of(), Pictures()
    merged = {}
    with torch.inference_mode():
        for batch in eval_batches(images, protocol):
            parts = search(model, batch, batch.images, [images.size(i) for i in batch.indices], flip=False)
            results = merge(model, parts, len(batch.indices), 0.6)
            merged.update(zip(batch.indices, results, strict=True))
    found = [{name: value.numpy() for name, value in merged[i].items()} for i in range(len(images))]
    equal(found, found_by(model), exactly=False)


def by_hand(views, threshold=0.6, detections=100):
    """All that the views found, one NMS per image and class, the best of it."""
    results = []
    for parts in zip(*views, strict=True):
        boxes, scores, labels = (
            torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in ("boxes", "scores", "labels")
        )
        kept = batched_nms(boxes.double(), scores.double(), labels, threshold)[:detections]
        together = {"boxes": boxes, "scores": scores, "labels": labels}
        results.append({name: value[kept].numpy() for name, value in together.items()})
    return results


def unmirror(found):
    results = []
    for part, (_, width) in zip(found, EVEN, strict=True):
        left, top, right, bottom = part["boxes"].T
        boxes = np.stack([width - right, top, width - left, bottom], axis=1)
        results.append({**part, "boxes": boxes})
    return results


@pytest.mark.parametrize("flip", [False, True])
def test_views_meet_before_one_nms(model, flip):
    edges, images = (64, 128, 256), Pictures(EVEN)
    views = [plain_at(model, edge, images=images) for edge in edges]
    if flip:
        views += [unmirror(plain_at(model, edge, images=Pictures(EVEN, mirror=True))) for edge in edges]
    got = found_by(model, images=images, test_scales=list(edges), test_flip=flip)
    expected = by_hand(views)
    assert [len(part["scores"]) for part in got] == [len(part["scores"]) for part in expected]
    for one, two in zip(got, expected, strict=True):
        np.testing.assert_allclose(one["scores"], two["scores"], atol=1e-5)
    alone = found_by(model, images=images)
    assert any(not np.array_equal(a["scores"], b["scores"]) for a, b in zip(got, alone, strict=True))


def test_a_mirrored_image_gives_the_mirrored_boxes(model):
    """Whatever the sizes in the batch: an image is mirrored within its own width, not within the padded one."""
    straight = found_by(model, images=Pictures(EVEN), test_flip=True)
    other = unmirror(found_by(model, images=Pictures(EVEN, mirror=True), test_flip=True))
    for one, two in zip(straight, other, strict=True):
        assert len(one["scores"]) == len(two["scores"]) > 3
        np.testing.assert_allclose(one["scores"], two["scores"], atol=1e-6)
        order = [np.lexsort((*part["boxes"].round(1).T, part["scores"].round(5))) for part in (one, two)]
        np.testing.assert_allclose(one["boxes"][order[0]], two["boxes"][order[1]], atol=1e-3)


def test_mirroring_leaves_the_padding_where_it_is():
    pixels = torch.arange(2 * 3 * 2 * 4, dtype=torch.uint8).reshape(2, 3, 2, 4)
    out = mirrored(pixels, [(2, 3), (2, 4)])
    assert torch.equal(out[0, :, :, :3], pixels[0, :, :, :3].flip(-1))
    assert torch.equal(out[0, :, :, 3:], pixels[0, :, :, 3:])
    assert torch.equal(mirrored(out, [(2, 3), (2, 4)]), pixels)


def test_score_voting_moves_the_boxes_of_merged_views(model):
    plain = found_by(model, test_scales=[48, 64], test_flip=True)
    settings = model.inference
    model.inference = replace(settings, score_voting=True)
    try:
        voted = found_by(model, test_scales=[48, 64], test_flip=True)
    finally:
        model.inference = settings
    for one, two in zip(plain, voted, strict=True):
        assert np.array_equal(one["scores"], two["scores"])
        assert not np.array_equal(one["boxes"], two["boxes"])


def test_a_network_without_nms_gets_one_between_its_views(model):
    expected = found_by(model, test_scales=[48, 64])
    settings = model.inference
    model.inference = replace(settings, nms_iou=None)
    try:
        equal(found_by(model, test_scales=[48, 64]), expected)
        single = found_by(model)
    finally:
        model.inference = settings
    assert sum(len(part["scores"]) for part in single) > sum(len(part["scores"]) for part in found_by(model))


def test_processes_share_the_images_and_each_has_all_views(model):
    class Half(Processes):
        def gather(self, value):
            parts.append(value[0])  # beside the faults that it met
            return [value]

    parts = []
    for rank in range(2):
        found_by(model, test_scales=[48, 64], test_flip=True, group=Half(rank=rank, world=2))
    assert [sorted(part) for part in parts] == [[0, 1, 4], [2, 3]]
    together = parts[0] | parts[1]
    equal([together[i] for i in range(len(SIZES))], found_by(model, test_scales=[48, 64], test_flip=True))


def test_a_batch_comes_at_every_scale_before_the_next():
    protocol = protocol_of(test_scales=[48, 64, 96])
    batches = list(eval_batches(Pictures(), protocol, sections=view_sections(protocol)))
    assert [batch.indices for batch in batches] == [[0, 1]] * 3 + [[2, 3]] * 3 + [[4]] * 3
    assert [min(batch.sizes[0]) for batch in batches[:3]] == [32, 43, 64]  # the long edge binds: 48, 64, 96


def test_the_long_edge_keeps_its_proportion():
    base = load_protocol("paper")
    assert view_sections(base) == (base.data,)
    for edge, long in ((400, 667), (800, 1333), (1800, 2999)):
        (section,) = view_sections(load_protocol("paper", (f"evaluation.test_scales=[{edge}]",)))
        assert (section.short_edge, section.long_edge) == (edge, long)


def test_scales_are_ascending_and_positive():
    for scales in ("[64, 48]", "[48, 48]", "[0]", "[48.5]", "48"):
        with pytest.raises(UserError, match=r"evaluation(\.test_scales)?"):
            load_protocol("tiny", (f"evaluation.test_scales={scales}",))


def test_no_candidate_at_all_is_no_detection(model):
    none = Candidates(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 4))
    assert [len(found["boxes"]) for found in merge(model, [none, none], 3, 0.6)] == [0, 0, 0]
    assert len(clipped(none, [(4, 4)]).box) == 0
    assert [len(found["boxes"]) for found in suppress(model.inference, none, num_images=2, num_classes=3)] == [0, 0]


def test_an_assigner_that_votes_is_tested_at_several_scales():
    protocol = protocol_of(test_scales=[48, 64])
    detector = build_detector(protocol, 2, 0).eval()
    attach_assigner(detector, "paa", {"score_voting": True}, 0)
    assert detector.inference.score_voting
    found = detect(detector, Pictures(), protocol, CPU, 0, Processes())[0]
    assert len(found) == len(SIZES)
    assert all(np.isfinite(part["boxes"]).all() for part in found)
