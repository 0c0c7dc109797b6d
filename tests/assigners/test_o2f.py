"""O2F against loops over all locations, by hand, and the invariants of its labels."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Assignment, Declares, Needs, Predictions, Step
from detector.loss import LossSettings, detection_losses
from harness.verify.published.oracles import o2f
from harness.verify.published.oracles.geometry import iou
from tests.assigners.common import assigned, build
from tests.assigners.images import HARD, golden_image, hard_images, one_image
from tests.assigners.test_dynamic_k import trained
from tests.support.strategies import Scene, scenes

ROUNDING = 1e-6  # of a quality, relative
JITTERS = 16  # each has an even chance to miss a tie
SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 8}
FEW = settings(max_examples=10)
PROGRESS = st.sampled_from([0.0, 0.3, 1.0])
BOX = [8.0, 8.0, 48.0, 48.0]  # its centre is a point of P3; center sampling allows the 3 x 3 points around


def ask(scene: Scene, predictions: Predictions, progress: float = 0.0, **options: object) -> Assignment:
    answer: Assignment = build("o2f", scene, **options)(
        scene.grid, scene.targets(), predictions, Step(progress=progress)
    )
    return answer


def maps(scene: Scene, result: Assignment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slot of each location's box, its label and its class weight, each ``[B, R]``."""
    s, shape = result.samples, (scene.num_images, scene.grid.num_locations)
    label, weight = np.zeros(shape), np.zeros(shape)
    for k in torch.nonzero(s.ok).flatten().tolist():
        place = int(scene.targets().image[s.gt[k]]), int(s.location[k])
        label[place], weight[place] = float(s.label[k]), float(s.class_weight[k])
    return assigned(result, scene.targets(), scene), label, weight


def loops(scene: Scene, image: int, predictions: Predictions, shake: int | None = None, **options) -> o2f.Result:
    boxes, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
    factor = None
    if shake is not None:
        factor = 1 + ROUNDING * np.random.default_rng(shake).choice([-1, 1], (len(boxes), len(scene.points)))
    return o2f.examine(
        scene.points, boxes, predictions.logits[image].double().numpy(), predictions.boxes[image].double().numpy(),
        labels=labels, shake=factor, **options,
    )  # fmt: skip


def assert_agree(scene: Scene, predictions: Predictions, progress: float = 0.0, **options) -> None:
    """Equal to the loops; where not, a change of the qualities by what float32 rounds off must change the answer."""
    ours, label, weight = maps(scene, ask(scene, predictions, progress, **options))
    options["degree"] = o2f.largest_degree(options.pop("start", 0.6), options.pop("end", 0.2), progress)
    for image in range(scene.num_images):
        expected = loops(scene, image, predictions, **options)

        def same(a: o2f.Result, b: o2f.Result) -> np.ndarray:
            close = np.isclose(a.label, b.label, atol=1e-5) & np.isclose(a.weight, b.weight, atol=1e-6)
            return (a.assigned == b.assigned) & close

        equal = same(o2f.Result(ours[image], label[image] == 1, label[image], weight[image]), expected)
        firm = np.ones(len(scene.points), dtype=bool)
        for seed in range(0 if equal.all() else JITTERS):
            firm &= same(loops(scene, image, predictions, seed, **options), expected)
        assert firm.mean() > 0.9
        assert equal[firm].all()


def predicting(
    scene: Scene, said: dict[tuple[float, float], tuple[float, list[float]]], channel: int = 0
) -> Predictions:
    """Scores and boxes at the points given; elsewhere a low score and a box without area."""
    predictions = scene.predictions(features=False)
    logits, boxes = torch.full_like(predictions.logits, -8.0), torch.zeros_like(predictions.boxes)
    for point, (score, box) in said.items():
        (r,) = np.flatnonzero((scene.points.xy == point).all(axis=1)).tolist()
        logits[0, r, channel], boxes[0, r] = log(score / (1 - score)), torch.tensor(box)
    return replace(predictions, logits=logits, boxes=boxes)


def learnt(scene: Scene, result: Assignment, box: int = 0) -> dict[tuple[float, float], tuple[float, float]]:
    """Label and class weight by point."""
    found, label, weight = maps(scene, result)
    where = np.flatnonzero(found[0] == box)
    points = [tuple(xy) for xy in scene.points.xy[where].tolist()]
    return dict(zip(points, zip(label[0, where].tolist(), weight[0, where].tolist(), strict=True), strict=True))


# ---- the rule -------------------------------------------------------------------------------------------------------


@given(scenes(max_images=2), st.booleans(), PROGRESS)
def test_equals_loops(scene, good, progress):
    assert_agree(scene, trained(scene) if good else scene.predictions(features=False), progress)


@given(
    scenes(**SMALL), st.sampled_from([1, 3, 20]), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.7, 2.5]),
    st.sampled_from([(1.0, 0.0), (0.5, 0.5)]), st.sampled_from([0.0, 1.0]),
)  # fmt: skip
@FEW
def test_options_equal_loops(scene, topk, alpha, radius, ends, weight):
    options = {"topk": topk, "alpha": alpha, "radius": radius, "start": ends[0], "end": ends[1], "weight": weight}
    assert_agree(scene, trained(scene), 0.25, **options)


@pytest.mark.parametrize("kind", HARD)
def test_hard_boxes_equal_loops(kind):
    for scene in hard_images(kind, 2):
        assert_agree(scene, trained(scene), 0.5)


@pytest.mark.parametrize("name", ["p01_one_256", "p03_seven_320x416", "p06_tiny_512", "p11_offset0_384"])
def test_trained_predictions_equal_loops(name):
    scene, predictions, _ = golden_image(name)
    assert_agree(scene, predictions, 0.5)


# ---- by hand --------------------------------------------------------------------------------------------------------

HALF, QUARTER = [8.0, 8.0, 28.0, 48.0], [8.0, 8.0, 18.0, 48.0]
SAID = {(28, 28): (0.16, BOX), (20, 20): (0.5, HALF), (36, 36): (0.25, QUARTER), (24, 24): (0.8, [0.0] * 4)}


@pytest.mark.parametrize(
    ("progress", "options", "exact", "quarter"),
    [(0.0, {}, 0.384, 0.6), (0.5, {}, 0.256, 0.4), (1.0, {}, 0.128, 0.2), (0.5, {"start": 1.0, "end": 0.0}, 0.32, 0.5)],
)
def test_degrees_by_hand(progress, options, exact, quarter):
    """Qualities are the roots of 0.16 * 1, 0.5 * 0.5 and 0.25 * 0.25, so that the second is certain; of the others the
    larger score has all of T and 0.16 has 16 / 25 of it. A high score without overlap is background."""
    scene = one_image([BOX])
    assert [iou(box, BOX) for box in (HALF, QUARTER)] == [0.5, 0.25]
    result = ask(scene, predicting(scene, SAID), progress, alpha=0.5, **options)
    expected = {(20, 20): (1, 1), (28, 28): (exact, 0.4), (36, 36): (quarter, 0.4)}
    found = learnt(scene, result)
    assert found.keys() == expected.keys()
    for point, pair in expected.items():
        assert found[point] == pytest.approx(pair, abs=1e-6)
    assert float(result.statistics["ambiguous_per_box"][0]) == 2
    assert float(result.statistics["degree"][0]) == pytest.approx(exact + quarter)


def test_the_best_of_few():
    scene = one_image([BOX])
    found = learnt(scene, ask(scene, predicting(scene, SAID), alpha=0.5, topk=2))
    assert found.keys() == {(20, 20), (28, 28)}
    assert found[28, 28] == pytest.approx((0.6, 0.4))  # alone, whatever its score


def test_a_contested_location_goes_to_the_better_fit():
    """And the best that is left is certain, even where the box asked for another first."""
    wide = [8.0, 8.0, 56.0, 48.0]  # the prediction at (28, 28) overlaps it by 11 / 12, BOX by 10 / 11
    scene = one_image([BOX, wide], labels=[0, 0])
    said = {(28, 28): (0.5, [8.0, 8.0, 52.0, 48.0]), (36, 28): (0.3, HALF), (20, 28): (0.2, HALF)}
    result = ask(scene, predicting(scene, said))
    assert learnt(scene, result, 1) == {(28, 28): (1, 1)}
    assert learnt(scene, result, 0) == {(36, 28): (1, 1), (20, 28): pytest.approx((0.6, 0.4))}


def test_the_shared_loss_reads_labels_and_weights():
    scene = one_image([BOX], labels=[2])
    predictions, form = predicting(scene, SAID, channel=2), LossSettings()
    result = ask(scene, predictions, alpha=0.5)
    losses, _ = detection_losses(form, scene.grid, scene.targets(), predictions, result)
    total = form.negative(predictions.logits).sum()
    for point, label, weight in (((20, 20), 1.0, 1.0), ((28, 28), 0.384, 0.4), ((36, 36), 0.6, 0.4)):
        (r,) = np.flatnonzero((scene.points.xy == point).all(axis=1)).tolist()
        own = predictions.logits[0, r, 2]
        total += weight * form.labelled(own, torch.tensor(label)) - form.negative(own)
    assert losses["class"].item() == pytest.approx(total.item() / 3, rel=1e-5)


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(**SMALL), st.booleans(), PROGRESS, st.sampled_from([2, 7]))
@FEW
def test_one_is_certain_and_few_are_ambiguous(scene, good, progress, topk):
    result = ask(scene, trained(scene) if good else scene.predictions(features=False), progress, topk=topk)
    s, degree = result.samples, 0.6 - 0.4 * progress
    assert (result.negative_weight == 1).all()
    assert not result.losses
    assert torch.equal(s.positive, s.ok)
    for weight in (s.box_weight, s.quality_weight):
        assert torch.equal(weight, s.ok.float())
    for g in range(len(scene.targets().boxes)):
        mine = s.ok & (s.gt == g)
        certain = mine & (s.class_weight == 1)
        assert int(certain.sum()) == int(mine.any())
        assert (s.label[certain] == 1).all()
        assert int(mine.sum()) <= topk
        rest = s.label[mine & ~certain]
        if len(rest):
            assert rest.max().item() == pytest.approx(degree)
            assert (rest >= 0).all()


@given(scenes(**SMALL), st.sampled_from([0.1, 0.8]))
@FEW
def test_training_goes_on_and_labels_alone_fall(scene, progress):
    predictions = trained(scene)
    begin, later = ask(scene, predictions).samples, ask(scene, predictions, progress).samples
    for name in ("gt", "location", "ok", "class_weight", "box_weight", "quality_weight"):
        assert torch.equal(getattr(begin, name), getattr(later, name))
    ambiguous = begin.ok & (begin.class_weight < 1)
    torch.testing.assert_close(later.label[ambiguous], begin.label[ambiguous] * (0.6 - 0.4 * progress) / 0.6)
    assert torch.equal(later.label[~ambiguous & begin.ok], begin.label[~ambiguous & begin.ok])


@given(scenes(**SMALL), st.booleans())
@FEW
def test_one_location_a_box_is_a_single_round_of_poto(scene, good):
    predictions = trained(scene) if good else scene.predictions(features=False)
    alone = ask(scene, predictions, topk=1)
    poto = build("poto", scene, rounds=1)(scene.grid, scene.targets(), predictions, Step())
    np.testing.assert_array_equal(maps(scene, alone)[0], assigned(poto, scene.targets(), scene))
    assert torch.equal(alone.samples.label, alone.samples.ok.float())


@given(scenes(**SMALL))
@FEW
def test_a_larger_k_teaches_no_fewer_locations(scene):
    predictions = trained(scene)
    taught = [maps(scene, ask(scene, predictions, topk=k))[0] >= 0 for k in (1, 3, 7)]
    for fewer, more in pairwise(taught):
        assert more[fewer].all()


@given(scenes(**SMALL))
@FEW
def test_other_classes_and_the_quality_branch_do_not_matter(scene):
    predictions = trained(scene)
    logits = predictions.logits.clone()
    for image, labels in enumerate(scene.labels):
        others = np.setdiff1d(np.arange(logits.shape[-1]), labels)
        logits[image, :, others] = -logits[image, :, others]
    other = replace(predictions, logits=logits, quality=-predictions.quality)
    for ours, theirs in zip(maps(scene, ask(scene, predictions)), maps(scene, ask(scene, other)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ---- edge cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [0.0, float("nan")])
def test_without_overlap_only_the_nearest_location_learns(poison):
    scene = one_image([BOX, [150, 150, 158, 158]])
    predictions = scene.predictions(features=False)
    nowhere = replace(predictions, boxes=torch.full_like(predictions.boxes, poison))
    result = ask(scene, nowhere)
    assert learnt(scene, result, 0) == {(28, 28): (1, 1)}
    assert len(learnt(scene, result, 1)) == 1


def test_scores_of_zero_have_no_degree():
    scene = one_image([BOX])
    predictions = predicting(scene, SAID)
    result = ask(scene, replace(predictions, logits=torch.full_like(predictions.logits, -torch.inf)), alpha=1.0)
    assert learnt(scene, result) == {
        (28, 28): (1, 1), (20, 20): (0, pytest.approx(0.4)), (36, 36): (0, pytest.approx(0.4))
    }  # fmt: skip


# ---- options --------------------------------------------------------------------------------------------------------


def test_without_nms_is_declared():
    assigner = build("o2f", one_image([]))
    assert assigner.declares == Declares()
    assert assigner.needs == Needs(predictions=True)
    assert build("o2f", one_image([]), nms=False).declares == Declares(nms=False)


@pytest.mark.parametrize(
    "options",
    [
        {"topk": 0}, {"start": 1.5}, {"start": 0.1}, {"end": 0.7}, {"end": -0.1}, {"start": float("nan")},
        {"weight": -1.0}, {"weight": float("nan")}, {"alpha": -0.1}, {"alpha": 1.5}, {"radius": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))) as caught:
        build("o2f", one_image([]), **options)
    assert "\n" not in str(caught.value)


def test_it_needs_predictions():
    scene = one_image([BOX])
    with pytest.raises(ValueError, match="predictions"):
        build("o2f", scene)(scene.grid, scene.targets(), None, Step())
