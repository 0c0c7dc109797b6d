"""MuSu against loops over all locations, by hand, and the invariants of its two kinds of weights."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Assignment, Declares, Needs, Predictions, Step
from assigners.ops.boxes import decode, giou_loss
from assigners.rules.musu import ranks
from detector.loss import LossSettings, detection_losses
from harness.verify.answers import expect_equal
from harness.verify.published.oracles import musu
from harness.verify.published.oracles.geometry import iou
from tests.assigners.common import assigned, build
from tests.assigners.images import HARD, golden_image, hard_images, one_image
from tests.assigners.test_dynamic_k import trained
from tests.support.strategies import Scene, scenes

ROUNDING = 1e-6  # of a score or an overlap, relative
JITTERS = 16  # each has an even chance to miss a tie
SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 8}
FEW = settings(max_examples=10)
BOX = [8.0, 8.0, 48.0, 48.0]
HALF, QUARTER = [8.0, 8.0, 28.0, 48.0], [8.0, 8.0, 18.0, 48.0]


def ask(scene: Scene, predictions: Predictions, **options: object) -> Assignment:
    answer: Assignment = build("musu", scene, **options)(scene.grid, scene.targets(), predictions, Step())
    return answer


def maps(scene: Scene, result: Assignment) -> list[musu.Result]:
    """What each image learns, as the loops tell it."""
    s, shape = result.samples, (scene.num_images, scene.grid.num_locations)
    label, box = np.zeros(shape), np.zeros(shape)
    for k in torch.nonzero(s.ok).flatten().tolist():
        place = int(scene.targets().image[s.gt[k]]), int(s.location[k])
        label[place], box[place] = float(s.label[k]), float(s.box_weight[k])
    found = assigned(result, scene.targets(), scene)
    return [musu.Result(*each) for each in zip(found, label, box, strict=True)]


def loops(scene: Scene, image: int, predictions: Predictions, shake: int | None = None, **options) -> musu.Result:
    boxes, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
    noise = None
    if shake is not None:
        noise = 1 + ROUNDING * np.random.default_rng(shake).choice([-1, 1], (len(boxes), 2, len(scene.points)))
    return musu.examine(
        scene.points, boxes, predictions.logits[image].double().numpy(), predictions.boxes[image].double().numpy(),
        labels=labels, noise=noise, **options,
    )  # fmt: skip


def same(a: musu.Result, b: musu.Result) -> np.ndarray:
    """Locations of equal answers ``[R]``."""
    close = np.isclose(a.class_weight, b.class_weight, atol=1e-5) & np.isclose(a.box_weight, b.box_weight, atol=1e-5)
    return (a.assigned == b.assigned) & close


def assert_agree(scene: Scene, predictions: Predictions, **options) -> None:
    """Equal to the loops; where not, a change of scores and overlaps by rounding must change the answer there."""
    for image, ours in enumerate(maps(scene, ask(scene, predictions, **options))):
        expected = loops(scene, image, predictions, **options)
        equal, firm = same(ours, expected), np.ones(len(scene.points), dtype=bool)
        for seed in range(0 if equal.all() else JITTERS):
            firm &= same(loops(scene, image, predictions, seed, **options), expected)
        assert firm.mean() > 0.9
        assert equal[firm].all()


def predicting(
    scene: Scene, said: dict[tuple[float, float], tuple[float, list[float]]], channel: int = 0
) -> Predictions:
    """Scores and boxes at the points given; elsewhere a low score and a box without area."""
    predictions = scene.predictions(features=False)
    logits, distances = torch.full_like(predictions.logits, -8.0), torch.zeros_like(predictions.distances)
    for (x, y), (score, box) in said.items():
        (r,) = np.flatnonzero((scene.points.xy == (x, y)).all(axis=1)).tolist()
        logits[0, r, channel] = log(score / (1 - score))
        distances[0, r] = torch.tensor([x - box[0], y - box[1], box[2] - x, box[3] - y])
    return replace(predictions, logits=logits, distances=distances, boxes=decode(scene.grid.points, distances))


def learnt(scene: Scene, result: Assignment, box: int = 0) -> dict[tuple[float, float], tuple[float, float]]:
    """Class label and box weight by point."""
    (found,) = maps(scene, result)
    where = np.flatnonzero(found.assigned == box)
    pairs = zip(found.class_weight[where].tolist(), found.box_weight[where].tolist(), strict=True)
    return dict(zip([tuple(xy) for xy in scene.points.xy[where].tolist()], pairs, strict=True))


# ---- the rule -------------------------------------------------------------------------------------------------------


@given(scenes(max_images=2), st.booleans())
def test_equals_loops(scene, good):
    assert_agree(scene, trained(scene) if good else scene.predictions(features=False))


@given(
    scenes(**SMALL), st.sampled_from([1, 5, 50]), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.5, 10.0]),
)  # fmt: skip
@FEW
def test_options_equal_loops(scene, topk, share, mutual, temperature):
    assert_agree(scene, trained(scene), topk=topk, share=share, mutual=mutual, temperature=temperature)


@pytest.mark.parametrize("kind", HARD)
def test_hard_boxes_equal_loops(kind):
    for scene in hard_images(kind, 2):
        assert_agree(scene, trained(scene))


@pytest.mark.parametrize("name", ["p01_one_256", "p03_seven_320x416", "p06_tiny_512", "p11_offset0_384"])
def test_trained_predictions_equal_loops(name):
    scene, predictions, _ = golden_image(name)
    assert_agree(scene, predictions)


# ---- by hand --------------------------------------------------------------------------------------------------------

EXACT, LOUD, POOR, QUIET = (28.0, 28.0), (20.0, 20.0), (12.0, 36.0), (36.0, 20.0)
SAID = {EXACT: (0.2, BOX), LOUD: (0.8, HALF), POOR: (0.5, QUARTER), QUIET: (0.02, BOX)}


@pytest.mark.parametrize(
    ("mutual", "class_order", "box_order"),
    [
        (0.8, [EXACT, LOUD, POOR], [LOUD, POOR, EXACT]),
        (1.0, [EXACT, LOUD, POOR], [LOUD, POOR, EXACT]),
        (0.5, [LOUD, EXACT, POOR], [LOUD, EXACT, POOR]),
        (0.0, [LOUD, POOR, EXACT], [EXACT, LOUD, POOR]),
    ],
)
def test_weights_by_hand(mutual, class_order, box_order):
    """P is 0.2 * 1, 0.8 / 2, 0.5 / 4 and 0.02: the last is below a tenth of 0.4.

    By hand, of the default 0.8: s_class is 0.2^0.2 = 0.725, 0.8^0.2 * 0.5^0.8 = 0.549 and 0.5^0.2 * 0.25^0.8 = 0.287;
    s_box is 0.2^0.8 = 0.276, 0.8^0.8 * 0.5^0.2 = 0.728 and 0.5^0.8 * 0.25^0.2 = 0.435.
    """
    scene = one_image([BOX])
    assert [iou(box, BOX) for box in (HALF, QUARTER)] == [0.5, 0.25]
    result = ask(scene, predicting(scene, SAID), mutual=mutual)
    found = learnt(scene, result)
    assert found.keys() == set(class_order)
    for place, point in enumerate(class_order):
        assert found[point][0] == pytest.approx(exp(-place / 4))
    for place, point in enumerate(box_order):
        assert found[point][1] == pytest.approx(exp(-place / 4))
    assert [float(term) for term in result.statistics["agreement"]] == [class_order[0] == box_order[0], 1]


def test_the_bag_is_bounded_and_relative():
    scene = one_image([BOX])
    predictions = predicting(scene, SAID)
    assert learnt(scene, ask(scene, predictions, topk=2)).keys() == {LOUD, EXACT}
    assert learnt(scene, ask(scene, predictions, share=0.4)).keys() == {LOUD, EXACT}
    assert learnt(scene, ask(scene, predictions, share=0.01)).keys() == set(SAID)
    assert learnt(scene, ask(scene, predictions, topk=1)) == {LOUD: (1, 1)}
    assert learnt(scene, ask(scene, predictions, temperature=1.0))[POOR] == pytest.approx((exp(-2), exp(-1)))


def test_a_contested_location_stays_with_the_larger_p_and_ranks_close_up():
    wide = [8.0, 8.0, 56.0, 48.0]
    scene = one_image([BOX, wide], labels=[0, 0])
    said = {EXACT: (0.5, wide), LOUD: (0.3, HALF), POOR: (0.2, QUARTER)}
    result = ask(scene, predicting(scene, said))
    # HALF and QUARTER are in BOX's bag and in the wide box's, which they overlap less.
    assert learnt(scene, result, 1) == {EXACT: (1, 1)}
    assert learnt(scene, result, 0) == {LOUD: (1, 1), POOR: pytest.approx((exp(-1 / 4),) * 2)}


def test_the_shared_loss_reads_both_weights():
    scene = one_image([BOX], labels=[2])
    predictions, form = predicting(scene, SAID, channel=2), LossSettings()
    losses, _ = detection_losses(form, scene.grid, scene.targets(), predictions, ask(scene, predictions))
    total, box, count = form.negative(predictions.logits).sum(), torch.zeros(()), 0.0
    for point, (up, pull) in {EXACT: (0, 2), LOUD: (1, 0), POOR: (2, 1)}.items():
        (r,) = np.flatnonzero((scene.points.xy == point).all(axis=1)).tolist()
        own = predictions.logits[0, r, 2]
        total += form.labelled(own, torch.tensor(exp(-up / 4))) - form.negative(own)
        box += exp(-pull / 4) * giou_loss(predictions.boxes[0, r], torch.tensor(BOX))
        count += exp(-pull / 4)
    assert losses["class"].item() == pytest.approx(total.item() / 3, rel=1e-5)
    assert losses["box"].item() == pytest.approx(box.item() / count, rel=1e-5)


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(**SMALL), st.booleans(), st.sampled_from([1, 16]))
@FEW
def test_both_kinds_of_weights_are_one_set_of_numbers(scene, good, topk):
    result = ask(scene, trained(scene) if good else scene.predictions(features=False), topk=topk)
    s, agree = result.samples, 0
    assert (result.negative_weight == 1).all()
    assert not result.losses
    assert torch.equal(s.positive, s.ok)
    for weight in (s.class_weight, s.quality_weight):
        assert torch.equal(weight, s.ok.float())
    assert (s.label[~s.ok] == 0).all()
    assert (s.box_weight[~s.ok] == 0).all()
    for g in range(len(scene.targets().boxes)):
        mine = s.ok & (s.gt == g)
        expected = np.exp(-np.arange(int(mine.sum())) / 4)
        assert len(expected) <= topk
        for weight in (s.label, s.box_weight):
            np.testing.assert_allclose(np.sort(weight[mine].numpy())[::-1], expected, rtol=1e-5)
        agree += int((mine & (s.label == 1) & (s.box_weight == 1)).any())
    assert int(result.statistics["agreement"][0]) == agree


@given(scenes(**SMALL), st.sampled_from([0.0, 0.25, 0.5]))
@FEW
def test_the_branches_change_places(scene, mutual):
    """And do the same at a half."""
    predictions = trained(scene)
    pair = [maps(scene, ask(scene, predictions, mutual=value)) for value in (mutual, 1 - mutual)]
    for one, other in zip(*pair, strict=True):
        np.testing.assert_array_equal(one.assigned, other.assigned)
        np.testing.assert_array_equal(one.class_weight, other.box_weight)
        np.testing.assert_array_equal(one.box_weight, other.class_weight)


@given(scenes(max_images=1, min_boxes=1, max_boxes=1))
@FEW
def test_wholly_mutual_a_branch_does_not_ask_itself(scene):
    """With every location in the bag, labels go by overlaps alone, and box weights by scores alone."""
    predictions, options = trained(scene), {"mutual": 1.0, "share": 0.0, "topk": 4096, "temperature": 500.0}
    for found in maps(scene, ask(scene, predictions, **options)):
        inside = np.flatnonzero(found.assigned == 0)
        truth, label = scene.boxes[0][0].tolist(), int(scene.labels[0][0])
        overlap = np.array([iou(predictions.boxes[0, r].tolist(), truth) for r in inside], dtype=np.float32)
        for value, weight in ((overlap, found.class_weight), (predictions.logits[0, inside, label], found.box_weight)):
            ordered = np.asarray(value)[np.argsort(-weight[inside], kind="stable")]
            assert (np.diff(ordered) <= 1e-6 * np.abs(ordered[1:])).all()


@given(scenes(**SMALL))
@FEW
def test_the_quality_branch_does_not_matter(scene):
    predictions = trained(scene)
    other = replace(predictions, quality=-predictions.quality)
    expect_equal(ask(scene, predictions), ask(scene, other), "quality")


@given(st.integers(0, 999))
def test_ranks_count_what_exists(seed):
    rng = np.random.default_rng(seed)
    score, ok = torch.from_numpy(rng.integers(0, 4, (5, 7)) / 4), torch.from_numpy(rng.random((5, 7)) < 0.7)
    found = ranks(score, ok)
    for g in range(5):
        exists = np.flatnonzero(ok[g].numpy()).tolist()
        order = sorted(exists, key=lambda k: (-float(score[g, k]), k))
        assert [int(found[g, k]) for k in order] == list(range(len(order)))


# ---- edge cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [0.0, float("nan")])
def test_without_overlap_the_nearest_locations_learn(poison):
    scene = one_image([BOX])
    predictions = scene.predictions(features=False)
    nowhere = replace(predictions, boxes=torch.full_like(predictions.boxes, poison))
    found = learnt(scene, ask(scene, nowhere, topk=3))
    assert found[28.0, 28.0] == (1, 1)
    distance = sorted(((scene.points.xy - 28) ** 2).sum(axis=1))
    assert sorted((x - 28) ** 2 + (y - 28) ** 2 for x, y in found) == distance[:3]


def test_a_box_between_the_locations_learns_nothing():
    scene = one_image([[5, 5, 7, 7]])
    result = ask(scene, scene.predictions(features=False))
    assert not result.samples.ok.any()
    assert [int(term) for term in result.statistics["agreement"]] == [0, 0]


# ---- options --------------------------------------------------------------------------------------------------------


def test_it_changes_nothing_but_the_assignment():
    assigner = build("musu", one_image([]))
    assert assigner.declares == Declares()
    assert assigner.needs == Needs(predictions=True)


@pytest.mark.parametrize(
    "options",
    [
        {"topk": 0}, {"share": -0.1}, {"share": 1.1}, {"share": float("nan")}, {"mutual": -0.1}, {"mutual": 1.1},
        {"temperature": 0.0}, {"temperature": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))) as caught:
        build("musu", one_image([]), **options)
    assert "\n" not in str(caught.value)


def test_it_needs_predictions():
    scene = one_image([BOX])
    with pytest.raises(ValueError, match="predictions"):
        build("musu", scene)(scene.grid, scene.targets(), None, Step())
