"""POTO against loops over all locations and against the optimal matching, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Declares, Predictions, Step
from assigners.rules.poto import match
from harness.verify.published.oracles import poto
from tests.assigners.common import assigned, build, rows, run
from tests.assigners.images import one_image
from tests.support.strategies import KINDS, Scene, draw_box, scenes
from tests.verify import test_oracles as golden

ROUNDING = 1e-6  # of a quality, relative
JITTERS = 16  # each has an even chance to miss a tie
SMALL = {"sides": (128, 256), "max_images": 2}
FEW = settings(max_examples=10)


def answer(scene: Scene, predictions: Predictions | None = None, **options: object) -> np.ndarray:
    """Slot of the box that each location learns ``[B, R]``, -1 where none."""
    predictions = predictions or scene.predictions(features=False)
    result = build("poto", scene, **options)(scene.grid, scene.targets(), predictions, scene.step())
    return assigned(result, scene.targets(), scene)


def table(scene: Scene, image: int = 0, **options: float) -> np.ndarray:
    predictions = scene.predictions(features=False)
    return poto.qualities(
        scene.points,
        scene.boxes[image].astype(np.float64),
        predictions.logits[image].double().numpy(),
        predictions.boxes[image].double().numpy(),
        labels=scene.labels[image].tolist(),
        **options,
    )


def take_turns(scene: Scene, image: int, values: np.ndarray, rounds: int = 3) -> list[int | None]:
    boxes, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
    return poto.take_turns(values, scene.points, boxes, labels, rounds)


def as_map(matched: list[int | None], length: int) -> np.ndarray:
    result = np.full(length, -1, dtype=np.int64)
    for g, r in enumerate(matched):
        if r is not None:
            result[r] = g
    return result


def matching(ours: np.ndarray, boxes: int) -> list[int | None]:
    """Location of each box in a map of boxes."""
    return [next(iter(np.flatnonzero(ours == g).tolist()), None) for g in range(boxes)]


def assert_agree(scene: Scene, rounds: int = 3, **options: float) -> None:
    """Equal to the loops; where not, a change of the qualities by what float32 rounds off must change the answer."""
    ours = answer(scene, rounds=rounds, **options)
    for image in range(scene.num_images):
        values = table(scene, image, **options)
        expected = as_map(take_turns(scene, image, values, rounds), len(scene.points))
        firm = np.ones(len(expected), dtype=bool)
        rng = np.random.default_rng(0)
        for _ in range(JITTERS if (ours[image] != expected).any() else 0):
            shaken = np.where(values > 0, values * (1 + ROUNDING * rng.choice([-1, 1], values.shape)), values)
            firm &= as_map(take_turns(scene, image, shaken, rounds), len(expected)) == expected
        np.testing.assert_array_equal(ours[image][firm], expected[firm])


def crowded(boxes: int, seed: int) -> Scene:
    """One image with boxes of all kinds."""
    rng = np.random.default_rng(seed)
    drawn: list[np.ndarray] = []
    for _ in range(boxes):
        drawn.append(draw_box(str(rng.choice(KINDS)), 256, 256, drawn, rng))
    return replace(one_image(drawn, labels=rng.integers(0, 5, boxes)), seed=seed, image_ids=(seed,))


# ---- the rule -------------------------------------------------------------------------------------------------------


@given(scenes(), st.integers(1, 4))
def test_equals_loops(scene, rounds):
    assert_agree(scene, rounds)


@given(scenes(**SMALL), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.7, 2.5]))
@FEW
def test_options_equal_loops(scene, alpha, radius):
    assert_agree(scene, alpha=alpha, radius=radius)


@pytest.mark.parametrize("name", golden.CASES)
def test_golden_images_get_the_optimal_matching(name):
    """As the authors' code, which solves it exactly, wherever a box has a location that the rule allows."""
    case = golden.load(name)
    if not len(case.logits):
        pytest.skip("no predictions")
    values = poto.qualities(case.points, case.boxes, case.logits, case.predicted, labels=case.labels)
    turns = poto.take_turns(values, case.points, case.boxes, case.labels, 3)
    best = [r if values[g, r] != poto.FORBIDDEN else None for g, r in enumerate(poto.optimal(values))]
    comparable = case.comparable("defcn_poto")
    same = [g for g, r in enumerate(best) if r is None or comparable[r]]
    assert [turns[g] for g in same] == [best[g] for g in same]


@given(scenes(**SMALL, min_boxes=1))
def test_the_optimal_matching_is_at_least_as_good(scene):
    for image, ours in enumerate(answer(scene)):
        values = table(scene, image)
        found, best = matching(ours, len(values)), poto.optimal(values)
        ours_total, best_total = poto.total(values, found), poto.total(values, list(best))
        assert ours_total <= best_total + 1e-9
        favourites = [int(row.argmax()) for row in values if row.max() != poto.FORBIDDEN]
        if len(set(favourites)) == len(favourites):
            assert ours_total == pytest.approx(best_total)


def test_in_a_crowd_the_rounds_come_near_the_optimum():
    ours = best = one_round = 0.0
    for seed in range(8):
        scene = crowded(30, seed)
        values = np.maximum(table(scene), 0)
        everyone = range(len(values))
        ours += sum(values[g, r] for g, r in enumerate(matching(answer(scene)[0], 30)) if r is not None)
        one_round += sum(values[g, r] for g, r in enumerate(matching(answer(scene, rounds=1)[0], 30)) if r is not None)
        best += values[everyone, poto.optimal(values)].sum()
    assert 0.98 * best < ours <= best
    assert one_round < 0.9 * best


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes())
def test_one_location_each_and_near_the_center(scene):
    result = run(build("poto", scene), scene)
    got = rows(result)
    assert len(np.unique(got[:, 0])) == len(got)  # a box has at most one location, and `answer` holds the converse
    assert (got[:, 4:] == 1).all()
    assert (result.negative_weight == 1).all()
    assert not result.losses
    for image, ours in enumerate(answer(scene)):
        allowed = table(scene, image) != poto.FORBIDDEN
        for location in np.flatnonzero(ours >= 0).tolist():
            assert allowed[ours[location], location]


@given(scenes(**SMALL, min_boxes=1))
@FEW
def test_the_first_claim_on_every_location_is_served(scene):
    """A box without a location lost each of its allowed ones, or ran out of rounds."""
    for image, ours in enumerate(answer(scene, rounds=12)):
        allowed = table(scene, image) != poto.FORBIDDEN
        for g in set(range(len(allowed))) - set(ours.tolist()):
            assert (ours[allowed[g]] >= 0).all()


def tables(seed: int, boxes: int = 9, candidates: int = 6, cells: int = 14):
    """Random input of `match`: few cells, so that boxes contest them, and qualities with ties."""
    generator = torch.Generator().manual_seed(seed)
    quality = torch.randint(0, 6, (boxes, candidates), generator=generator) / 8
    cell = torch.rand(boxes, cells, generator=generator).argsort(dim=1)[:, :candidates]
    ok = torch.rand(boxes, candidates, generator=generator) < 0.8
    distance = torch.randint(0, 3, (boxes, candidates), generator=generator).float()
    return quality, distance, ok, cell, torch.randperm(boxes, generator=generator), cells


@given(st.integers(0, 999), st.sampled_from([0.25, 4.0, 1024.0]), st.integers(1, 5))
def test_the_unit_of_quality_does_not_matter(seed, unit, rounds):
    quality, *others = tables(seed)
    for a, b in zip(match(quality, *others, rounds), match(unit * quality, *others, rounds), strict=True):
        assert torch.equal(a, b)


@given(st.integers(0, 999), st.integers(1, 5), st.sampled_from([0.0625, 1.0]))
def test_a_better_match_stays_matched(seed, rounds, better):
    quality, *others = tables(seed)
    chosen, found = match(quality, *others, rounds)
    for box in torch.nonzero(found).flatten().tolist():
        raised = quality.clone()
        raised[box, chosen[box]] += better
        again, still = match(raised, *others, rounds)
        assert still[box]
        assert again[box] == chosen[box]


@given(st.integers(0, 999))
def test_enough_rounds_leave_nobody_who_could_be_served(seed):
    quality, distance, ok, cell, rank, cells = tables(seed)
    chosen, found = match(quality, distance, ok, cell, rank, cells, len(quality) + 1)
    mine = cell.gather(1, chosen[:, None]).squeeze(1)[found]
    assert len(mine.unique()) == len(mine)
    assert ok.gather(1, chosen[:, None]).squeeze(1)[found].all()
    taken = torch.isin(cell, mine)
    assert (taken | ~ok)[~found].all()


# ---- edge cases -----------------------------------------------------------------------------------------------------


def test_without_overlap_the_nearest_location_is_as_good_as_any():
    """At the start of training nothing overlaps: all qualities are 0."""
    scene = one_image([[33, 40, 95, 101], [150, 150, 158, 158]])
    nowhere = replace(scene.predictions(features=False), boxes=torch.zeros(1, len(scene.points), 4))
    (ours,) = answer(scene, nowhere)
    for g, box in enumerate(scene.boxes[0].astype(np.float64)):
        center = (box[:2] + box[2:]) / 2
        (location,) = np.flatnonzero(ours == g).tolist()
        inside = (scene.points.xy > box[:2]).all(axis=1) & (scene.points.xy < box[2:]).all(axis=1)
        distance = np.where(inside, ((scene.points.xy - center) ** 2).sum(axis=1), np.inf)
        assert location == distance.argmin()


def test_a_diverging_detector_is_as_good_as_none():
    scene = one_image([[33, 40, 95, 101]])
    predictions = scene.predictions(features=False)
    nothing = replace(predictions, boxes=torch.zeros_like(predictions.boxes))
    broken = replace(predictions, logits=torch.full_like(predictions.logits, torch.nan))
    np.testing.assert_array_equal(answer(scene, broken), answer(scene, nothing))


def test_twins_learn_two_locations():
    scene = one_image([[10, 10, 90, 90]] * 2, labels=[3, 3])
    (ours,) = answer(scene)
    assert sorted(ours[ours >= 0].tolist()) == [0, 1]
    values = table(scene)
    first, second = np.argsort(-values[0], kind="stable")[:2].tolist()
    assert {int(np.flatnonzero(ours == g)[0]) for g in (0, 1)} == {first, second}


def test_more_boxes_than_locations():
    scene = one_image([[2, 2, 6, 6]] * 3)  # they hold the one point (4, 4)
    (ours,) = answer(scene, rounds=5)
    assert (ours >= 0).sum() == 1
    assert ours[0] == 0


def test_a_box_between_the_locations_learns_nothing():
    scene = one_image([[5, 5, 7, 7]])
    assert (answer(scene) == -1).all()


# ---- options --------------------------------------------------------------------------------------------------------


def test_without_nms_is_declared():
    scene = one_image([])
    assert build("poto", scene).declares == Declares()
    assert build("poto", scene, nms=False).declares == Declares(nms=False)


@pytest.mark.parametrize(
    "options", [{"alpha": -0.1}, {"alpha": 1.5}, {"radius": 0.0}, {"radius": -1.0}, {"rounds": 0}], ids=str
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build("poto", one_image([]), **options)


def test_it_needs_predictions():
    scene = one_image([[10, 10, 90, 90]])
    with pytest.raises(ValueError, match="predictions"):
        build("poto", scene)(scene.grid, scene.targets(), None, Step())
