"""UOT against its textbook over all locations, by hand, and the invariants of what a plan weighs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from assigners.contract import Assignment, Declares, Needs, Predictions, Step, Targets
from assigners.ops.boxes import decode, giou_loss
from detector.loss import LossSettings, detection_losses
from harness.verify.answers import expect_equal
from harness.verify.published.oracles import uot
from harness.verify.published.oracles.geometry import iou
from tests.assigners.common import build
from tests.assigners.images import HARD, golden_image, hard_images, image_of_classes, one_image
from tests.assigners.test_dynamic_k import trained
from tests.support.strategies import Scene, scenes

ROUNDING = 1e-5  # px and logits, by which inputs move to see where rounding decides
CLOSE = 2e-3  # of a mass: a thirtieth of the range of costs is e to the power of 2
JITTERS = 16  # each has an even chance to miss a tie
SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 8}
FEW = settings(max_examples=10)
BOX = [8.0, 8.0, 48.0, 48.0]
HALF, QUARTER = [8.0, 8.0, 28.0, 48.0], [8.0, 8.0, 18.0, 48.0]
A, B, C = (28.0, 28.0), (20.0, 20.0), (36.0, 20.0)  # locations of the finest level within 2.5 strides of BOX's centre


@dataclass(frozen=True)
class Weights:
    """What each location learns: ``[R, C]`` sums over the rows of a class, positive and negative; ``[R, G]`` masses."""

    pull: NDArray[np.float64]
    push: NDArray[np.float64]
    mass: NDArray[np.float64]


def ask(scene: Scene, predictions: Predictions | None = None, **options: object) -> Assignment:
    predictions = predictions or scene.predictions(features=False)
    answer: Assignment = build("uot", scene, **options)(scene.grid, scene.targets(), predictions, Step())
    return answer


def maps(scene: Scene, result: Assignment) -> list[Weights]:
    """What each image learns; a negative where no row speaks."""
    s, targets, places = result.samples, scene.targets(), scene.grid.num_locations
    found = [
        Weights(np.zeros((places, scene.num_classes)), np.zeros((places, scene.num_classes)), np.zeros((places, count)))
        for count in targets.counts
    ]
    spoken = [np.zeros((places, scene.num_classes), dtype=bool) for _ in targets.counts]
    for k in torch.nonzero(s.ok).flatten().tolist():
        image, r, g = int(targets.image[s.gt[k]]), int(s.location[k]), int(s.gt[k])
        part = found[image].pull if s.positive[k] else found[image].push
        part[r, int(targets.labels[g])] += float(s.class_weight[k])
        spoken[image][r, int(targets.labels[g])] = True
        if s.positive[k]:
            assert found[image].mass[r, int(targets.slot[g])] == 0, "a box has a location twice"
            found[image].mass[r, int(targets.slot[g])] = float(s.class_weight[k])
    for image, weights in enumerate(found):
        weights.push[~spoken[image]] = 1
    return found


def textbook(
    scene: Scene, image: int, predictions: Predictions, jitter: int | None = None, **options: object
) -> uot.Result:
    rng = np.random.default_rng(jitter or 0)

    def moved(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values if jitter is None else values + rng.uniform(-ROUNDING, ROUNDING, values.shape)

    return uot.examine(
        scene.points, scene.boxes[image].astype(np.float64), moved(predictions.logits[image].double().numpy()),
        moved(predictions.boxes[image].double().numpy()), labels=scene.labels[image].tolist(), **options,
    )  # fmt: skip


def same(a: Weights | uot.Result, b: Weights | uot.Result) -> NDArray[np.bool_]:
    """Locations of equal weights ``[R]``."""
    near = np.isclose(a.pull, b.pull, rtol=0, atol=CLOSE) & np.isclose(a.push, b.push, rtol=0, atol=CLOSE)
    return np.asarray(near.all(axis=1))


def assert_agree(scene: Scene, predictions: Predictions | None = None, **options: object) -> int:
    """Equal to the textbook; where not, a mass at the least one must decide. Returns the number of positives."""
    predictions, positives = predictions or scene.predictions(features=False), 0
    for image, ours in enumerate(maps(scene, ask(scene, predictions, **options))):
        expected = textbook(scene, image, predictions, **options)
        equal, firm = same(ours, expected), np.ones(len(scene.points), dtype=bool)
        for seed in range(0 if equal.all() else JITTERS):
            firm &= same(textbook(scene, image, predictions, seed, **options), expected)
        assert firm.mean() > 0.98
        assert equal[firm].all()
        positives += int((expected.pull > 0).sum())
    return positives


def predicting(
    scene: Scene, said: dict[tuple[float, float], tuple[float, list[float]]], channel: int = 0
) -> Predictions:
    """Scores and boxes at the points given; elsewhere a score of nothing and a box without area."""
    predictions = scene.predictions(features=False)
    logits, distances = torch.full_like(predictions.logits, -60.0), torch.zeros_like(predictions.distances)
    for (x, y), (score, box) in said.items():
        r = place(scene, (x, y))
        logits[0, r, channel] = log(score / (1 - score))
        distances[0, r] = torch.tensor([x - box[0], y - box[1], box[2] - x, box[3] - y])
    return replace(predictions, logits=logits, distances=distances, boxes=decode(scene.grid.points, distances))


def place(scene: Scene, point: tuple[float, float]) -> int:
    (r,) = np.flatnonzero((scene.points.xy == point).all(axis=1)).tolist()
    return int(r)


def dimensionless(scene: Scene, unit: float) -> float:
    """The option `regularisation` that gives this unit of costs."""
    return unit * (log(2 * scene.grid.num_locations) + 1)


# ---- the rule -------------------------------------------------------------------------------------------------------


def test_equals_the_textbook():
    seen = {"positives": 0}

    @given(scenes(sides=(128, 256), max_images=2), st.booleans())
    @settings(max_examples=15)
    def check(scene, good):
        seen["positives"] += assert_agree(scene, trained(scene) if good else None)

    check()
    assert seen["positives"] > 100


@given(
    scenes(**SMALL), st.sampled_from([0.0, 0.05, 1.0, 100.0]), st.sampled_from([0.0, 0.1, 1000.0]),
    st.sampled_from([0.5, 0.8]), st.sampled_from([0.12, 1.0]), st.sampled_from([1, 5, 70]),
    st.sampled_from([(1.0, 0.0), (0.0, 1.0), (1.0, 5.0)]), st.sampled_from([1.5, 4.0]), st.sampled_from([0.01, 0.5]),
)  # fmt: skip
@settings(max_examples=20)
def test_options_equal_the_textbook(
    scene, reg_target, reg_pred, background_cost, regularisation, iterations, of, radius, least
):
    assert_agree(
        scene, trained(scene), reg_target=reg_target, reg_pred=reg_pred, background_cost=background_cost,
        regularisation=regularisation, iterations=iterations, class_weight=of[0], iou_weight=of[1], radius=radius,
        least=least,
    )  # fmt: skip


@pytest.mark.parametrize("kind", HARD)
def test_hard_boxes_equal_the_textbook(kind):
    for scene in hard_images(kind, 2):
        assert_agree(scene, trained(scene))


@pytest.mark.parametrize("classes", [1, 80])
def test_any_number_of_classes(classes):
    scene = image_of_classes(classes)
    assert_agree(scene, trained(scene))


@pytest.mark.parametrize("name", ["p03_seven_320x416", "p06_tiny_512", "p10_classes80_256", "p11_offset0_384"])
def test_trained_predictions_equal_the_textbook(name):
    scene, predictions, _ = golden_image(name)
    assert assert_agree(scene, predictions) > 5


def test_more_boxes_than_locations():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (400, 2))
    boxes = np.round(np.concatenate((corner, corner + rng.uniform(20, 60, (400, 2))), axis=1) * 8) / 8
    scene = one_image(boxes, labels=rng.integers(0, 5, 400), size=(128, 128))
    assert scene.grid.num_locations < 400
    assert assert_agree(scene, trained(scene), least=0.01) > 100


# ---- by hand --------------------------------------------------------------------------------------------------------

SAID = {A: (0.8, BOX), B: (0.5, HALF), C: (0.2, QUARTER)}
# A misses 0.2 of the score and nothing of the box; B a half and a half; C 0.8 and three quarters.
COSTS = {A: (0.2 + 2 * 0) / 3, B: (0.5 + 2 * 0.5) / 3, C: (0.8 + 2 * 0.75) / 3}


def hand(scene: Scene, **options: object) -> dict[tuple[float, float], tuple[float, float]]:
    """Positive and negative weight by point, with units of costs of 0.1 and a background of 0.6."""
    options = {"background_cost": 0.6, "regularisation": dimensionless(scene, 0.1), "least": 0.01, **options}
    (found,) = maps(scene, ask(scene, predicting(scene, SAID), **options))
    rows = np.flatnonzero(found.pull[:, 0] > 0)
    assert {tuple(xy) for xy in scene.points.xy[rows].tolist()} <= SAID.keys() or options["least"] < 0.01
    return {tuple(scene.points.xy[r].tolist()): (found.pull[r, 0], found.push[r, 0]) for r in rows}


def test_without_regard_to_boxes_each_location_chooses_by_cost():
    """By hand: odds against the background of exp((0.6 - cost) / 0.1), e^5.33, e^1 and e^-1.67."""
    scene = one_image([BOX], labels=[0])
    assert [iou(box, BOX) for box in (HALF, QUARTER)] == [0.5, 0.25]
    found = hand(scene, reg_target=0.0, reg_pred=1e9, least=0.05)
    assert found.keys() == {A, B, C}
    for point, odds in {A: 207.1, B: exp(1), C: 0.18888}.items():
        assert odds == pytest.approx(exp((0.6 - COSTS[point]) / 0.1), rel=1e-3)
        assert found[point] == pytest.approx((odds / (1 + odds), 1 / (1 + odds)), abs=1e-4)


def test_without_regard_to_locations_each_box_chooses_by_cost():
    """By hand: one label in shares of exp(-cost / 0.1): A has 0.513, B 0.00674, and all others, of cost 1, 4.5e-5."""
    scene = one_image([BOX], labels=[0])
    found = hand(scene, reg_target=1e9, reg_pred=0.0, least=0.001)
    assert found.keys() == {A, B}
    others = int(textbook(scene, 0, predicting(scene, SAID)).allowed.sum()) - 3
    shares = [exp(-COSTS[point] / 0.1) for point in (A, B, C)]
    assert shares == pytest.approx([0.51342, 0.0067379, 0.00046818], rel=1e-4)
    total = sum(shares) + others * 4.54e-5
    assert [found[A][0], found[B][0]] == pytest.approx([shares[0] / total, shares[1] / total], rel=1e-3)


def test_one_to_one_shares_a_label_among_equal_candidates():
    scene = one_image([BOX], labels=[0])
    alike = predicting(scene, dict.fromkeys((A, B, C), (0.5, BOX)))
    result = ask(scene, alike, reg_target=1e6, reg_pred=1e6, iterations=300)
    (found,) = maps(scene, result)
    for point in (A, B, C):
        assert found.pull[place(scene, point), 0] == pytest.approx(1 / 3, abs=1e-3)
        assert found.push[place(scene, point), 0] == pytest.approx(2 / 3, abs=1e-3)
    assert float(result.statistics["mass_per_box"][0]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("reg_target", [0.1, 0.25, 0.5])
def test_a_box_takes_as_much_as_pays(reg_target):
    """Of 17 equal candidates, cheaper than the background until 8 of them are taken.

    By hand: a location is indifferent, half of it the box's, where cost + reg_target ln m is background_cost, and the
    background has its own price for what it gives less.
    """
    scene = one_image([[0, 0, 128, 128]], labels=[0], size=(128, 128))
    predictions = scene.predictions(features=False)
    # Overlap 1 and no score: cost 1/3.
    exact = replace(
        predictions, logits=torch.full_like(predictions.logits, -60.0),
        boxes=torch.tensor([0.0, 0, 128, 128]).expand_as(predictions.boxes),
    )  # fmt: skip
    background = 1 / 3 + reg_target * log(8)
    result = ask(
        scene, exact, reg_target=reg_target, background_cost=background, radius=1.0, iterations=2000, reg_pred=1e6,
        regularisation=0.02, least=1e-6,
    )  # fmt: skip
    assert int(result.samples.positive.sum()) == 17  # 4 on each of the levels but the coarsest, which has its one cell
    places = scene.grid.num_locations
    unit, low, high = 0.02 / (log(2 * places) + 1), 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        price = log(17 * share / 8) - log((places - 17 * share) / (places - 1))
        low, high = (share, high) if log(share / (1 - share)) * unit < -reg_target * price else (low, share)
    assert float(result.statistics["mass_per_box"][0]) == pytest.approx(17 * low, rel=1e-3)
    assert 17 * low == pytest.approx(8, abs=0.3)


def test_a_contested_location_learns_both_boxes():
    """Boxes of two classes, one of them twice: three masses at A, and what is left to each class as a negative."""
    scene = one_image([BOX, BOX, BOX], labels=[1, 1, 3])
    predictions = predicting(scene, {A: (0.8, BOX)}, channel=1)
    predictions.logits[0, place(scene, A), 3] = predictions.logits[0, place(scene, A), 1]
    options = {"reg_target": 0.0, "reg_pred": 1e9, "background_cost": COSTS[A], "regularisation": 0.02}
    (found,) = maps(scene, ask(scene, predictions, **options))
    r = place(scene, A)
    np.testing.assert_allclose(found.mass[r], [0.25, 0.25, 0.25], atol=1e-4)
    assert found.pull[r].tolist() == pytest.approx([0, 0.5, 0, 0.25, 0], abs=1e-4)
    assert found.push[r].tolist() == pytest.approx([1, 0.5, 1, 0.75, 1], abs=1e-4)


def test_the_shared_loss_is_weighted_by_the_plan():
    """Sum over locations of P(box) * loss of the box + P(background) * loss of nothing, as the paper has it."""
    scene = one_image([BOX], labels=[2])
    predictions, form = predicting(scene, SAID, channel=2), LossSettings()
    options = {"reg_target": 0.0, "reg_pred": 1e9, "background_cost": 0.6, "regularisation": dimensionless(scene, 0.1)}
    losses, statistics = detection_losses(
        form, scene.grid, scene.targets(), predictions, ask(scene, predictions, **options)
    )
    total, box, mass = form.negative(predictions.logits).sum(), torch.zeros(()), 0.0
    for point, cost in COSTS.items():
        share, r = 1 / (1 + exp((cost - 0.6) / 0.1)), place(scene, point)
        own = predictions.logits[0, r, 2]
        total += share * (form.labelled(own, torch.ones(())) - form.negative(own))
        box += share * giou_loss(predictions.boxes[0, r], torch.tensor(BOX))
        mass += share
    assert losses["class"].item() == pytest.approx(total.item() / 3, rel=1e-4)
    assert losses["box"].item() == pytest.approx(box.item() / mass, rel=1e-4)
    assert [float(term) for term in statistics["mass_per_box"]] == pytest.approx([mass, 1], rel=1e-4)
    by_weights = replace(form, normaliser="weights")
    losses, _ = detection_losses(
        by_weights, scene.grid, scene.targets(), predictions, ask(scene, predictions, **options)
    )
    assert losses["class"].item() == pytest.approx(total.item() / mass, rel=1e-4)


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(**SMALL), st.booleans(), st.sampled_from([0.0, 0.25, 10.0]))
@FEW
def test_weights_are_one_set_of_numbers(scene, good, reg_target):
    result = ask(scene, trained(scene) if good else None, reg_target=reg_target)
    s = result.samples
    assert (result.negative_weight == 1).all()
    assert not result.losses
    assert torch.equal(s.label, s.positive.float())
    for weight in (s.box_weight, s.quality_weight):
        assert torch.equal(weight, torch.where(s.positive, s.class_weight, 0))
    assert (s.class_weight[s.positive] >= 0.05).all()
    assert (s.class_weight <= 1).all()
    assert int(s.positive.sum()) * 2 == int(s.ok.sum())
    given_away, boxes = result.statistics["mass_per_box"]
    assert float(given_away) == pytest.approx(float(s.box_weight.sum()), rel=1e-5)
    assert float(boxes) == len(scene.targets().boxes)


@given(scenes(**SMALL, min_boxes=1))
@FEW
def test_a_location_has_one_unit_to_give(scene):
    """What it gives boxes and the background, whichever class asks; what falls below the least is the background's."""
    for found in maps(scene, ask(scene, trained(scene), reg_pred=1e6, iterations=300)):
        rows = found.pull > 0
        others = found.mass.sum(axis=1, keepdims=True) - found.pull
        assert (found.push[rows] >= others[rows] - 1e-5).all()
        np.testing.assert_allclose((found.pull + found.push)[rows], 1, atol=0.01)


@given(scenes(max_images=1, min_boxes=1, max_boxes=1))
@FEW
def test_a_stricter_box_stays_nearer_to_one_label(scene):
    """Whether its predictions ask for more or for less."""
    options, ratios = {"iterations": 500, "least": 1e-6}, []
    for reg_target in (0.02, 0.25, 1.0, 1000.0):
        masses = ask(scene, trained(scene), reg_target=reg_target, **options).samples.box_weight.double().sum()
        ratios.append(abs(log(max(float(masses), 1e-6))))
    if textbook(scene, 0, trained(scene)).allowed.any():
        assert ratios == pytest.approx(sorted(ratios, reverse=True), abs=0.02)
        assert ratios[-1] == pytest.approx(0, abs=0.02)


@given(scenes(**SMALL, min_boxes=1))
@FEW
def test_equal_boxes_share_alike(scene):
    boxes, labels = scene.boxes[0], scene.labels[0]
    twice = replace(
        scene, boxes=(np.concatenate((boxes, boxes[:1])), *scene.boxes[1:]),
        labels=(np.append(labels, labels[0]), *scene.labels[1:]),
    )  # fmt: skip
    if len(boxes):
        found = maps(twice, ask(twice, trained(scene)))[0]
        np.testing.assert_array_equal(found.mass[:, 0], found.mass[:, -1])


@given(scenes(**SMALL))
@FEW
def test_the_quality_branch_does_not_matter(scene):
    predictions = trained(scene)
    other = replace(predictions, quality=-predictions.quality)
    expect_equal(ask(scene, predictions), ask(scene, other), "quality")


# ---- edge cases -----------------------------------------------------------------------------------------------------


def test_ignored_places_hold_no_negatives():
    scene = one_image([BOX], labels=[0])
    targets, region = scene.targets(), [torch.tensor([[0.0, 0.0, 32.0, 64.0]])]
    covered = Targets.collate([targets.boxes], [targets.labels], scene.grid, sizes=scene.sizes, ignore=region)
    predictions = predicting(scene, SAID)
    options = {"reg_target": 0.0, "background_cost": 0.6, "regularisation": dimensionless(scene, 0.1)}
    result = build("uot", scene, **options)(scene.grid, covered, predictions, Step())
    plain = ask(scene, predictions, **options).samples
    s, inside = result.samples, scene.grid.points[result.samples.location][:, 0] < 32
    push = s.ok & ~s.positive
    assert (push & inside).any()
    assert (push & ~inside).any()
    assert (s.class_weight[push & inside] == 0).all()
    kept = ~(push & inside)
    torch.testing.assert_close(s.class_weight[kept], plain.class_weight[kept])


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_predictions_that_are_no_numbers_cost_the_most(poison):
    """As if nothing were predicted there: no score, and a box without overlap."""
    scene = one_image([BOX], labels=[0])
    good = predicting(scene, SAID)
    broken = replace(good, boxes=good.boxes.clone(), logits=good.logits.clone())
    nothing = replace(good, boxes=good.boxes.clone(), logits=good.logits.clone())
    r = place(scene, B)
    broken.boxes[0, r], nothing.boxes[0, r] = poison, 0
    broken.logits[0, r], nothing.logits[0, r] = float("nan"), -float("inf")
    expect_equal(ask(scene, broken, background_cost=1.0), ask(scene, nothing, background_cost=1.0), "broken")


def test_a_box_between_the_locations_learns_nothing_and_supplies_nothing():
    scene = one_image([BOX, [5, 5, 7, 7]], labels=[0, 0])
    alone = one_image([BOX], labels=[0])
    (with_it,), (without,) = (maps(each, ask(each, predicting(each, SAID))) for each in (scene, alone))
    assert (with_it.mass[:, 1] == 0).all()
    np.testing.assert_array_equal(with_it.mass[:, 0], without.mass[:, 0])


# ---- options --------------------------------------------------------------------------------------------------------


def test_it_changes_nothing_but_the_assignment_unless_told():
    scene = one_image([])
    assert build("uot", scene).declares == Declares()
    assert build("uot", scene, normaliser="weights").declares == Declares(normaliser="weights")
    assert build("uot", scene).needs == Needs(predictions=True)


@pytest.mark.parametrize(
    "options",
    [
        {"reg_target": -0.1}, {"reg_pred": -1.0}, {"background_cost": -0.1}, {"regularisation": 0.0},
        {"iterations": 0}, {"class_weight": -1.0}, {"iou_weight": -1.0}, {"class_weight": 0.0, "iou_weight": 0.0},
        {"radius": 0.0}, {"least": 0.0}, {"least": 1.5}, {"normaliser": "labels"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))) as caught:
        build("uot", one_image([]), **options)
    assert "\n" not in str(caught.value)


def test_it_needs_predictions():
    scene = one_image([BOX])
    with pytest.raises(ValueError, match="predictions"):
        build("uot", scene)(scene.grid, scene.targets(), None, Step())
