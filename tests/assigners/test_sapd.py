"""SAPD against brute force, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Assignment, Declares, Step
from assigners.parts import roi_features
from detector.loss import LossSettings, detection_losses
from detector.postprocess import InferenceSettings
from detector.settings import effective_settings
from harness.verify.published.oracles import sapd
from tests.assigners.common import assigned, build, rows
from tests.assigners.images import one_image
from tests.support.strategies import Scene, scenes

EARLY, LATE = 0.25, 0.5  # of training; the warm-up ends at half of it
SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 6}
ROUNDING = 1e-5


def answer(scene: Scene, progress: float = LATE, **options: object) -> Assignment:
    assigner = build("sapd", scene, **options)
    return assigner(scene.grid, scene.targets(), scene.predictions(), Step(progress=progress))


def level_logits(scene: Scene, **options: object) -> np.ndarray:
    """What the network says of every box of the batch ``[G, L]``."""
    assigner = build("sapd", scene, **options)
    with torch.no_grad():
        return assigner.network(scene.predictions().features, scene.grid, scene.targets()).double().numpy()


def oracle(
    scene: Scene, image: int, progress: float = LATE, logits: np.ndarray | None = None, **options
) -> sapd.Result:
    logits = level_logits(scene) if logits is None else logits
    predictions, mine = scene.predictions(features=False), scene.targets().image.numpy() == image
    return sapd.assign(
        scene.points,
        scene.boxes[image].astype(np.float64),
        scene.labels[image].tolist(),
        predictions.logits[image].double().numpy(),
        predictions.boxes[image].double().numpy(),
        logits[mine],
        hard=progress < 0.5,
        **options,
    )


def decided_by_rounding(result: sapd.Result, levels: int) -> bool:
    """Is a level's loss, or the last share that is kept, so near another that float32 may decide otherwise?"""
    for losses, share in zip(result.losses, result.share, strict=True):
        finite = np.sort(np.array(losses)[np.isfinite(losses)])
        ordered = np.sort(share[share > 0])[::-1]
        near = levels < len(ordered) and ordered[levels - 1] - ordered[levels] < ROUNDING
        if near or (len(finite) > 1 and finite[1] - finite[0] < ROUNDING * (1 + finite[0])):
            return True
    return False


def weights(result: Assignment, scene: Scene) -> np.ndarray:
    """Class weight of the sample at each location ``[B, R]``, 0 where none."""
    s, grid = result.samples, scene.grid
    location = grid.level_start[s.level] + (s.uv[:, 1] * grid.level_width[s.level] + s.uv[:, 0]).long()
    cell = scene.targets().image[s.gt] * grid.num_locations + location
    table = torch.zeros(scene.num_images * grid.num_locations).index_add(0, cell, s.class_weight)
    return table.view(scene.num_images, -1).double().numpy()


# ---- the rule -------------------------------------------------------------------------------------------------------


@given(
    scenes(**SMALL), st.sampled_from([EARLY, LATE]), st.sampled_from([0.2, 0.55, 1.0]),
    st.sampled_from([0.0, 1.0, 2.5]), st.sampled_from([1, 3, 5]),
)  # fmt: skip
def test_equals_brute_force(scene, progress, shrink, eta, levels):
    result = answer(scene, progress, shrink=shrink, eta=eta, levels=levels)
    ours, weight = assigned(result, scene.targets(), scene), weights(result, scene)
    logits = level_logits(scene)
    for image in range(scene.num_images):
        theirs = oracle(scene, image, progress, logits, shrink=shrink, eta=eta, levels=levels)
        if decided_by_rounding(theirs, levels):
            continue
        kept = (theirs.owner >= 0) & (theirs.weight > 0)
        np.testing.assert_array_equal(ours[image], np.where(kept, theirs.owner, -1))
        np.testing.assert_allclose(weight[image], np.where(kept, theirs.weight, 0), atol=ROUNDING)
        np.testing.assert_allclose(result.negative_weight[image].numpy(), theirs.weight, atol=ROUNDING)


@given(scenes(**SMALL, min_boxes=1), st.sampled_from([0.1, 2.0]))
@settings(max_examples=10)
def test_the_network_learns_the_level_of_smallest_loss(scene, weight):
    result = answer(scene, select_weight=weight)
    results = [oracle(scene, image) for image in range(scene.num_images)]
    if any(decided_by_rounding(r, 3) for r in results):
        return
    total, count = result.losses["select"]
    assert total.item() == pytest.approx(weight * sum(r.entropy for r in results), rel=1e-4, abs=1e-6)
    assert count.item() == sum(r.count for r in results)


@pytest.mark.parametrize("offset", [0.5, 0.0])
def test_the_network_equals_nested_loops(offset):
    boxes = [[3, 5, 60, 40], [0, 0, 128, 128], [50.5, 20, 53, 100]]
    scene = replace(one_image(boxes, size=(128, 128)), offset=offset)
    state = {k: v.detach().double().numpy() for k, v in build("sapd", scene, hidden=6).network.named_parameters()}
    maps = [f[0].detach().double().numpy() for f in scene.predictions().features]
    ours = level_logits(scene, hidden=6)
    for g, box in enumerate(boxes):
        theirs = sapd.network(state, sapd.pool(maps, scene.strides, offset, box))
        np.testing.assert_allclose(ours[g], theirs, atol=1e-4)


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(**SMALL), st.sampled_from([EARLY, LATE]))
@settings(max_examples=10)
def test_weights_and_partition(scene, progress):
    """Every location is a weighted positive, weighs as much as a negative of the other classes, or is a negative."""
    result = answer(scene, progress)
    table, weight = rows(result), weights(result, scene)
    assert ((table[:, 6] > 0) & (table[:, 6] <= 1)).all()
    assert (table[:, 4:6] == 1).all()
    np.testing.assert_array_equal(table[:, 6:7].repeat(2, axis=1), table[:, 7:9])
    negative = result.negative_weight.double().numpy()
    positive = assigned(result, scene.targets(), scene) >= 0
    np.testing.assert_array_equal(negative[positive], weight[positive])
    assert (np.isin(negative[~positive], (0.0, 1.0))).all()


@given(scenes(max_images=1, min_boxes=1, max_boxes=6, sides=(128, 256)))
@settings(max_examples=10)
def test_the_cells_of_a_level_are_a_rectangle_around_the_centre(scene):
    for box in scene.boxes[0]:
        alone = one_image([box], size=scene.canvas)
        ours = assigned(answer(alone, levels=5), alone.targets(), alone)[0] == 0
        for (height, width), start in zip(alone.shapes, alone.grid.starts, strict=True):
            level = slice(start, start + height * width)
            found = ours[level].reshape(height, width)
            held = [min(p - box[:2]) > 0 and min(box[2:] - p) > 0 for p in alone.points.xy[level]]
            assert found.any() == any(held)  # at least one, wherever the box holds a location
            assert found.sum() == found.any(axis=0).sum() * found.any(axis=1).sum()


@given(scenes(max_images=1, min_boxes=1, max_boxes=4, sides=(128, 256)), st.sampled_from([1, 2, 3, 5]))
@settings(max_examples=10)
def test_the_shares_of_the_levels(scene, levels):
    """With all levels they add up to one; with fewer, the largest are left as they are."""
    for box in scene.boxes[0]:
        alone = one_image([box], size=scene.canvas)
        central = np.array([
            sapd.centrality(p, box) if min(p - box[:2]) > 0 and min(box[2:] - p) > 0 else np.inf
            for p in alone.points.xy
        ])  # fmt: skip
        everything, few = (weights(answer(alone, levels=k), alone)[0] / central for k in (5, levels))
        share = np.array([everything[alone.points.level == level].max() for level in range(5)])
        kept = np.array([few[alone.points.level == level].max() for level in range(5)])
        assert share.sum() == pytest.approx(float(np.isfinite(central).any()), abs=1e-4)
        assert (kept > 0).sum() == min(levels, (share > 0).sum())
        np.testing.assert_allclose(kept[kept > 0], np.sort(share)[::-1][: (kept > 0).sum()][_rank(kept)], atol=1e-4)


def _rank(kept: np.ndarray) -> np.ndarray:
    values = kept[kept > 0]
    return np.argsort(np.argsort(-values))


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=10)
def test_one_level_per_box_during_the_warm_up(scene):
    table = rows(answer(scene, EARLY))
    for g in np.unique(table[:, 0]):
        assert len(np.unique(table[table[:, 0] == g, 1])) == 1


def test_the_warm_up_ends_at_its_share_of_training():
    scene = one_image([[10, 20, 200, 220]])
    levels = {p: len(np.unique(rows(answer(scene, p, warmup=0.3))[:, 1])) for p in (0.0, 0.29, 0.3, 1.0)}
    assert levels == {0.0: 1, 0.29: 1, 0.3: 3, 1.0: 3}


def test_only_the_very_centre_weighs_one():
    """The point of P3 at (36, 36) is the centre of the box; its neighbours are not."""
    scene = one_image([[4, 4, 68, 68]])
    weight = weights(answer(scene, EARLY, shrink=1.0), scene)[0]
    alike = weights(answer(scene, EARLY, shrink=1.0, eta=0.0), scene)[0]
    assert set(alike.tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(weight > 0, alike > 0)
    exact = (scene.points.xy == 36).all(axis=1)
    np.testing.assert_array_equal(weight == 1, exact & (alike > 0))


def test_levels_without_weight_are_ignored_and_not_negative():
    scene = one_image([[10, 20, 200, 220]])
    result, every = answer(scene, levels=1), answer(scene, levels=5)
    muted = (result.negative_weight == 0)[0].numpy()
    positive = assigned(result, scene.targets(), scene)[0] == 0
    covered = assigned(every, scene.targets(), scene)[0] == 0
    assert muted.any()
    np.testing.assert_array_equal(covered, positive | muted)
    assert (result.negative_weight[0].numpy()[~covered] == 1).all()


@pytest.mark.parametrize("progress", [EARLY, LATE])
def test_the_smallest_box_takes_what_both_cover(progress):
    outer, inner = [0, 0, 256, 256], [96, 96, 160, 160]
    both, alone = one_image([outer, inner]), one_image([inner])
    result, single = answer(both, progress), answer(alone, progress, levels=5)
    ours = assigned(result, both.targets(), both)[0]
    covered = sapd.covered(both.points, inner)
    assert not (ours[covered] == 0).any()
    assert (ours[np.setdiff1d(np.arange(len(ours)), covered)] != 1).all()
    assert (assigned(single, alone.targets(), alone)[0] == 0).any()


def test_a_box_between_the_points_of_all_levels_asks_for_nothing():
    lonely, large = [12.5, 12.5, 15.5, 15.5], [40, 30, 200, 190]
    for found, scene in ((0, one_image([lonely])), (1, one_image([lonely, large]))):
        result = answer(scene)
        total, count = result.losses["select"]
        assert torch.isfinite(total)
        assert count.item() == found
        assert len(np.unique(rows(result)[:, 0])) == found


# ---- what divides the losses ----------------------------------------------------------------------------------------


def shared_losses(scene: Scene, progress: float, **options: object) -> dict[str, torch.Tensor]:
    """The shared loss as the assigner's declarations have it."""
    assigner, targets, predictions = build("sapd", scene, **options), scene.targets(), scene.predictions()
    result = assigner(scene.grid, targets, predictions, Step(progress=progress))
    settings_, _ = effective_settings(LossSettings(), InferenceSettings(), assigner.declares)
    return detection_losses(settings_, scene.grid, targets, predictions, result)[0]


@given(scenes(**SMALL, min_boxes=1), st.sampled_from([EARLY, LATE]))
@settings(max_examples=10)
def test_the_papers_normaliser_is_the_sum_of_the_weights(scene, progress):
    logits = level_logits(scene)
    results = [oracle(scene, image, progress, logits) for image in range(scene.num_images)]
    if any(decided_by_rounding(r, 3) for r in results):
        return
    weight = sum(float(r.weight[r.owner >= 0].sum()) for r in results)
    positives = sum(int(((r.owner >= 0) & (r.weight > 0)).sum()) for r in results)
    ours, papers = (shared_losses(scene, progress, normaliser=n) for n in ("protocol", "weights"))
    assert papers["class"].item() * max(weight, 1) == pytest.approx(ours["class"].item() * max(positives, 1), rel=1e-4)
    for name in ours.keys() - {"class"}:
        assert torch.equal(ours[name], papers[name])


def test_four_positives_by_hand():
    """Of a box of 128 px P6 covers four cells 32 px from two sides and 96 from the others, each 1/9; eta 0.5 makes 1/3.

    In the warm-up one level counts. Four weights of 1/3 make 4/3 where four positives make 4: three times the loss.
    """
    scene = one_image([[0, 0, 128, 128]], size=(128, 128))
    maps, fitting = scene.predictions(), torch.from_numpy(scene.points.level == 3)
    maps.logits.fill_(-4.0)[0, fitting, 0] = 4.0
    maps.boxes[0, fitting] = torch.tensor([0.0, 0.0, 128.0, 128.0])
    found = {}
    for normaliser in ("protocol", "weights"):
        assigner = build("sapd", scene, normaliser=normaliser, shrink=0.9, eta=0.5)
        result = assigner(scene.grid, scene.targets(), maps, Step(progress=EARLY))
        s = result.samples
        assert s.level[s.ok].tolist() == [3] * 4
        torch.testing.assert_close(s.class_weight[s.ok], torch.full((4,), 1 / 3))
        settings_, _ = effective_settings(LossSettings(), InferenceSettings(), assigner.declares)
        losses, _ = detection_losses(settings_, scene.grid, scene.targets(), maps, result)
        found[normaliser] = losses["class"].item()
    assert found["weights"] == pytest.approx(3 * found["protocol"], rel=1e-5)


def test_the_normaliser_is_declared():
    scene = one_image([])
    assert build("sapd", scene).declares == Declares()
    assert build("sapd", scene, normaliser="weights").declares == Declares(normaliser="weights")


# ---- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [EARLY, LATE])
def test_the_network_learns_from_its_own_loss_alone_and_so_do_the_features(progress):
    scene = one_image([[10, 20, 200, 220], [100, 100, 140, 130]])
    assigner, predictions = build("sapd", scene), scene.predictions()
    maps = replace(predictions, logits=predictions.logits.requires_grad_(), boxes=predictions.boxes.requires_grad_())
    result = assigner(scene.grid, scene.targets(), maps, Step(progress=progress))
    assert not result.samples.class_weight.requires_grad
    assert not result.negative_weight.requires_grad
    result.losses["select"][0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in assigner.parameters())
    assert all(f.grad is not None and f.grad.abs().sum() > 0 for f in predictions.features)
    assert maps.logits.grad is None
    assert maps.boxes.grad is None


def test_training_the_network_raises_the_share_of_the_target():
    scene = one_image([[10, 20, 200, 220], [100, 100, 140, 130], [30, 150, 60, 190]])
    assigner = build("sapd", scene, hidden=16)
    optimiser = torch.optim.Adam(assigner.parameters(), lr=1e-2)
    losses, hits = [], []
    for _ in range(25):
        result = assigner(scene.grid, scene.targets(), scene.predictions(features=True), Step(progress=1.0))
        total, count = result.losses["select"]
        losses.append(total.item())
        hits.append((result.statistics["level_found"][0] / count).item())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    assert losses[-1] < 0.2 * losses[0]
    assert hits[-1] == 1.0


def test_crowds_are_looked_at_in_parts_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 90, (7, 2))
    scene = one_image(np.concatenate((corner, corner + rng.uniform(10, 30, (7, 2))), axis=1), size=(128, 128))
    found = []
    for chunk in (100, 3):
        monkeypatch.setattr(roi_features, "CHUNK", chunk)
        assigner, predictions = build("sapd", scene), scene.predictions()
        total = assigner(scene.grid, scene.targets(), predictions, Step(progress=1.0)).losses["select"][0]
        total.backward()
        found.append(
            [total.detach(), *(p.grad for p in assigner.parameters()), *(f.grad for f in predictions.features)]
        )
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [{"shrink": 0.0}, {"shrink": 1.5}, {"eta": -1.0}, {"levels": 0}, {"select_weight": -0.1}, {"warmup": 1.5},
     {"warmup": -0.5}, {"hidden": 0}, {"normaliser": "positives"}],
)  # fmt: skip
def test_bad_options(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        build("sapd", one_image([]), **option)


@pytest.mark.parametrize("features", [True, False])
def test_it_needs_predictions_and_features(features):
    scene = one_image([[10, 20, 200, 220]])
    with pytest.raises(ValueError, match="needs the detector's predictions and one feature map per level"):
        build("sapd", scene)(
            scene.grid, scene.targets(), scene.predictions(features=False) if features else None, Step()
        )
