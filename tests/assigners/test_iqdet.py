"""IQDet: draws, levels, selection, masks, L_IQ and gradients, against the oracle's loops."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Assignment
from assigners.rules.iqdet.encoder import Mixture
from assigners.rules.iqdet.iqdet import IQDet
from harness.verify.published.oracles import iqdet
from tests.assigners.common import build, permuted, pixels, rows, run
from tests.assigners.images import one_image
from tests.support.strategies import Scene, scenes

GATES = st.sampled_from(["contains_grid", "contains_cell", "none", "fcos_range"])
EVERY_POINT = 48  # columns of the largest map: the lattice of L_IQ then is the whole grid
SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 6}


@dataclass(frozen=True)
class Seen:
    """The mixtures that an assigner saw, in float64 for the oracle.

    Attributes:
        mu, sigma: ``[G, L, K, 2]``; pi: ``[G, L, K]``.
        boxes: ``[G, 4]``.
    """

    mu: np.ndarray
    sigma: np.ndarray
    pi: np.ndarray
    boxes: list[list[float]]

    def quality(self, gt: int, level: int, point) -> float:
        """The oracle's Q of a pixel position."""
        d = iqdet.box_position(point, self.boxes[gt])
        return iqdet.quality(d, self.mu[gt, level], self.sigma[gt, level], self.pi[gt, level])


def traced(scene: Scene, **options: object) -> tuple[IQDet, Assignment, Seen]:
    """The assigner, its answer, and the mixtures that it saw."""
    assigner = build("iqdet", scene, **options)
    assert isinstance(assigner, IQDet)
    outputs: list[Mixture] = []
    handle = assigner.encoder.register_forward_hook(lambda module, args, out: outputs.append(out))
    answer = run(assigner, scene)
    handle.remove()
    mu, sigma, log_pi = (t.detach().double() for t in (outputs[0].mu, outputs[0].sigma, outputs[0].log_pi))
    boxes = scene.targets().boxes.double().tolist()
    return assigner, answer, Seen(mu.numpy(), sigma.numpy(), log_pi.exp().numpy(), boxes)


def sample_qualities(scene: Scene, answer: Assignment, seen: Seen) -> np.ndarray:
    """The oracle's Q at every sample; NaN where the coordinate was moved onto the map's border."""
    s, xy = answer.samples, pixels(answer, scene).tolist()
    grid = scene.grid
    limit = torch.stack((grid.level_width[s.level], grid.level_height[s.level]), dim=1) - 1
    moved = ((s.uv <= 0) | (s.uv >= limit)).any(dim=1).tolist()
    keys = zip(s.gt.tolist(), s.level.tolist(), xy, moved, strict=True)
    return np.array([np.nan if away else seen.quality(gt, level, point) for gt, level, point, away in keys])


def pair_list(scene: Scene, boxes: torch.Tensor) -> list[tuple[int, int]]:
    """Every (box, location strictly inside it)."""
    return [(g, r) for g, box in enumerate(boxes.double().tolist()) for r in scene.points.inside(box)]


# ---- draws and levels -----------------------------------------------------------------------------------------------


@given(scenes(), GATES)
def test_exactly_twelve_positives_on_allowed_levels(scene, gate):
    _, answer, _ = traced(scene, level_gate=gate)
    s = answer.samples
    assert torch.equal(s.positive, s.ok)
    counts = torch.bincount(s.gt[s.ok], minlength=scene.targets().num_boxes)
    assert (counts == 12).all()
    for gt, box in enumerate(scene.targets().boxes.double().tolist()):
        allowed = iqdet.allowed_levels(scene.points, box, len(scene.shapes), gate)
        used = set(s.level[s.ok & (s.gt == gt)].tolist())
        assert used <= {level for level, yes in enumerate(allowed) if yes}


@given(scenes(min_boxes=1))
@settings(max_examples=15)
def test_label_is_the_quality_at_the_point(scene):
    _, answer, seen = traced(scene)
    q = sample_qualities(scene, answer, seen)
    known = answer.samples.ok.numpy() & ~np.isnan(q)
    # A 1 px box magnifies the rounding of coordinates 300 px from the origin.
    np.testing.assert_allclose(answer.samples.label.numpy()[known], q[known], atol=5e-3)
    assert (answer.samples.class_weight[answer.samples.ok] == 1).all()
    assert (answer.samples.box_weight[answer.samples.ok] == 1).all()


@given(scenes(min_boxes=1))
@settings(max_examples=10)
def test_other_labels_stand_at_the_same_samples(scene):
    names = ("quality", "best_is_one", "one")
    quality, scaled, hard = (run(build("iqdet", scene, label=name), scene) for name in names)
    for other in (scaled, hard):
        for name in ("gt", "level", "uv", "ok", "positive"):
            assert torch.equal(getattr(other.samples, name), getattr(quality.samples, name))
    s = quality.samples
    best = torch.zeros(scene.targets().num_boxes).index_reduce(0, s.gt[s.ok], s.label[s.ok], "amax")
    torch.testing.assert_close(scaled.samples.label[s.ok], (s.label / best[s.gt])[s.ok])
    assert (hard.samples.label[s.ok] == 1).all()


@given(scenes(min_boxes=1), st.integers(1, 20), st.integers(1, 14))
@settings(max_examples=15)
def test_the_best_draws_over_all_levels_are_kept(scene, positives, draws):
    _, answer, seen = traced(scene, positives=positives, draws_per_level=draws, rejected="zero")
    s = answer.samples
    q = sample_qualities(scene, answer, seen)
    assert (s.label[s.ok & ~s.positive] == 0).all()
    assert (s.class_weight[s.ok] == 1).all()
    for weight in (s.box_weight, s.quality_weight):
        assert torch.equal(weight, s.positive.float())
    for gt, box in enumerate(scene.targets().boxes.double().tolist()):
        mine = (s.ok & (s.gt == gt)).numpy()
        levels = sum(iqdet.allowed_levels(scene.points, box, len(scene.shapes), "contains_cell"))
        assert mine.sum() == levels * draws
        assert s.positive.numpy()[mine].sum() == min(positives, levels * draws)
        known = mine & ~np.isnan(q)
        kept = s.positive.numpy()[known]
        assert iqdet.is_top(q[known], kept, int(kept.sum()), slack=5e-3)


@given(scenes(min_boxes=1))
@settings(max_examples=15)
def test_more_positives_only_add(scene):
    few, many = (
        {tuple(r) for r in rows(run(build("iqdet", scene, positives=n, draws_per_level=12), scene))} for n in (5, 9)
    )
    assert few < many


@given(scenes(min_boxes=2, max_boxes=6))
@settings(max_examples=15)
def test_a_draw_knows_its_own_box_alone(scene):
    targets = scene.targets()
    keep = torch.arange(0, targets.num_boxes, 2)
    some = replace(
        permuted(targets, keep), counts=tuple(int((targets.image[keep] == i).sum()) for i in range(scene.num_images))
    )
    pairs = pair_list(scene, some.boxes)
    levels = {(box, int(scene.points.level[location])) for box, location in pairs}
    alone = some.num_boxes - len({box for box, _ in pairs})  # boxes without a location, on one level each
    some = replace(some, num_pairs=len(pairs), num_box_levels=len(levels) + alone)
    assigner = build("iqdet", scene)
    whole = rows(assigner(scene.grid, targets, scene.predictions(), scene.step()))
    part = rows(assigner(scene.grid, some, scene.predictions(), scene.step()), keep)
    np.testing.assert_allclose(whole[np.isin(whole[:, 0], keep)], part, rtol=0, atol=2e-3)


@given(scenes(min_boxes=1))
@settings(max_examples=15)
def test_step_and_seed_move_the_draws_and_nothing_else(scene):
    assigner = build("iqdet", scene, lattice_side=EVERY_POINT)
    base = run(assigner, scene)
    for other in (run(assigner, scene, index=1), run(assigner, scene, seed=1)):
        assert not torch.equal(base.samples.uv, other.samples.uv)
        assert torch.equal(base.samples.gt, other.samples.gt)
        assert torch.equal(base.samples.ok, other.samples.ok)
        assert torch.equal(base.negative_weight, other.negative_weight)
        assert torch.equal(base.losses["iq"][0], other.losses["iq"][0])


def test_draws_of_a_box_follow_its_image_and_slot():
    scene = one_image([[20, 30, 120, 150]] * 2, labels=[1, 1])
    first = run(build("iqdet", scene), scene).samples.uv.view(2, -1)
    assert not torch.equal(first[0], first[1])
    elsewhere = replace(scene, image_ids=(2,))
    predictions = scene.predictions()
    moved = build("iqdet", scene)(scene.grid, elsewhere.targets(), predictions, scene.step()).samples.uv.view(2, -1)
    assert not torch.equal(first, moved)


def test_equal_qualities_do_not_favour_a_level():
    """An untrained or flat encoder must not send every sample to the finest level."""
    scene = one_image([[3, 5, 250, 240]])
    assigner = build("iqdet", scene)
    with torch.no_grad():
        for layer in (assigner.encoder.mu, assigner.encoder.sigma, assigner.encoder.pi, assigner.encoder.gate):
            layer.weight.zero_()
        assigner.encoder.sigma.bias.fill_(1e5)
    counts = torch.zeros(5)
    for index in range(60):
        counts += torch.bincount(run(assigner, scene, index=index).samples.level, minlength=5)
    assert counts.sum() == 60 * 12
    assert (counts - 144).abs().max() < 5 * (720 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize("corner", [0.0, 1000.0, 1300.0])
def test_one_pixel_boxes_far_from_the_origin(corner):
    scene = one_image(
        [[corner + 3.5, 7.5, corner + 4.5, 8.5], [corner + 15.25, 11.5, corner + 16.5, 13]], size=(128, 1408)
    )
    answer = run(build("iqdet", scene), scene)
    boxes = scene.targets().boxes.double()[answer.samples.gt]
    xy = pixels(answer, scene)
    assert ((xy >= boxes[:, :2]) & (xy <= boxes[:, 2:])).all()


# ---- other readings of the selection --------------------------------------------------------------------------------


@given(scenes(min_boxes=1))
def test_best_of_each_level(scene):
    _, answer, _ = traced(scene, select="topk_per_level", positives=4, draws_per_level=9)
    s = answer.samples
    for gt, box in enumerate(scene.targets().boxes.double().tolist()):
        allowed = iqdet.allowed_levels(scene.points, box, len(scene.shapes), "contains_cell")
        counts = torch.bincount(s.level[s.ok & (s.gt == gt)], minlength=len(allowed))
        assert counts.tolist() == [4 * yes for yes in allowed]


@given(scenes(min_boxes=1), st.sampled_from(["joint", "multinomial"]))
@settings(max_examples=15)
def test_random_selections_keep_the_number_and_the_levels(scene, select):
    _, answer, seen = traced(scene, select=select)
    s = answer.samples
    assert (torch.bincount(s.gt[s.ok], minlength=scene.targets().num_boxes) == 12).all()
    q = sample_qualities(scene, answer, seen)
    known = s.ok.numpy() & ~np.isnan(q)
    np.testing.assert_allclose(s.label.numpy()[known], q[known], atol=5e-3)


def test_joint_selection_visits_levels_by_their_share_of_the_integral():
    scene = one_image([[3, 5, 250, 240]])
    assigner, _, seen = traced(scene, select="joint")
    axis = np.linspace(-1, 1, 101)
    lattice = [(x, y) for x in axis for y in axis]
    parts = [(seen.mu[0, level], seen.sigma[0, level], seen.pi[0, level]) for level in range(5)]
    mass = [sum(iqdet.quality(d, *part) for d in lattice) for part in parts]
    expected = np.array(mass) / sum(mass)
    counts = np.zeros(5)
    steps = 120
    for index in range(steps):
        counts += np.bincount(run(assigner, scene, index=index).samples.level.numpy(), minlength=5)
    share = counts / (12 * steps)
    assert (np.abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / (12 * steps)) + 5e-3).all()


def test_multinomial_prefers_quality_but_is_not_greedy():
    scene = one_image([[3, 5, 250, 240]])
    greedy, random = build("iqdet", scene), build("iqdet", scene, select="multinomial")
    best, drawn, pool = [], [], []
    for index in range(20):
        best.append(run(greedy, scene, index=index).samples.label.mean())
        drawn.append(run(random, scene, index=index).samples.label.mean())
        everything = run(build("iqdet", scene, positives=60, draws_per_level=12), scene, index=index)
        pool.append(everything.samples.label.mean())
    assert np.mean(best) > np.mean(drawn) > np.mean(pool)


@given(scenes(min_boxes=1))
@settings(max_examples=15)
def test_rejected_draws_of_other_levels(scene):
    _, answer, _ = traced(scene, rejected="zero_other_levels")
    s = answer.samples
    for gt in range(scene.targets().num_boxes):
        mine = s.ok & (s.gt == gt)
        taken = set(s.level[mine & s.positive].tolist())
        assert not taken & set(s.level[mine & ~s.positive].tolist())
        assert int((mine & s.positive).sum()) == 12


@given(scenes(min_boxes=1), st.sampled_from(["cls", "reg", "comb"]))
@settings(max_examples=15)
def test_selection_by_loss_takes_grid_points_inside(scene, target):
    _, answer, _ = traced(scene, select_by="loss", iq_target=target, level_gate="contains_grid")
    s = answer.samples
    assert s.on_grid
    assert torch.equal(s.uv, s.uv.round())
    assert torch.equal(scene.grid.location(s.level, s.uv), s.location)
    xy, boxes = pixels(answer, scene), scene.targets().boxes.double()[s.gt]
    assert ((xy > boxes[:, :2]) & (xy < boxes[:, 2:])).all(dim=1)[s.ok].all()
    for gt in range(scene.targets().num_boxes):
        labels = s.label[s.ok & (s.gt == gt)]
        if len(labels) > 1:
            assert labels.max() == pytest.approx(1, abs=1e-5)


# ---- in-box cells ---------------------------------------------------------------------------------------------------


def negatives_of_grid(scene: Scene, answer: Assignment, image: int) -> np.ndarray:
    """Weight of every (location, class) as a negative once the loss has taken out what samples own."""
    targets, s = scene.targets(), answer.samples
    weight = np.repeat(answer.negative_weight[image].numpy()[:, None], scene.num_classes, axis=1).astype(np.float64)
    mine = s.ok & (targets.image[s.gt] == image)
    columns = (s.level[mine].tolist(), targets.labels[s.gt][mine].tolist(), s.uv[mine].tolist())
    for level, label, (u, v) in zip(*columns, strict=True):
        height, width = scene.shapes[level]
        for row, column in iqdet.corner_weights(u, v, height, width):
            weight[scene.grid.starts[level] + row * width + column, label] = 0
    return weight


def effective_negatives(scene: Scene, answer: Assignment, image: int) -> np.ndarray:
    """Those of the grid and, on it, samples of target zero."""
    targets, s = scene.targets(), answer.samples
    weight, mine = negatives_of_grid(scene, answer, image), s.ok & (targets.image[s.gt] == image)
    for k in torch.nonzero(mine & ~s.positive & (s.label == 0)).flatten().tolist():
        location = scene.grid.location(s.level[k], s.uv[k])
        weight[int(location), int(targets.labels[s.gt[k]])] += float(s.class_weight[k])
    return weight


def assert_masks_equal_the_oracle(scene: Scene, answer: Assignment, mode: str) -> None:
    targets, s = scene.targets(), answer.samples
    for image in range(scene.num_images):
        offset = sum(targets.counts[:image])
        mine = torch.nonzero(s.positive & (targets.image[s.gt] == image)).flatten().tolist()
        positives = [(int(s.gt[k]) - offset, int(s.level[k]), *s.uv[k].tolist()) for k in mine]
        expected = iqdet.negatives(
            scene.points, scene.shapes, scene.boxes[image].astype(np.float64), scene.labels[image].tolist(), positives,
            scene.num_classes, mode,
        )  # fmt: skip
        # Rows that read one cell share its weight: a sum of thirds is 1 up to its rounding.
        np.testing.assert_allclose(effective_negatives(scene, answer, image), expected, rtol=0, atol=1e-6)


@given(scenes(**SMALL), st.sampled_from(["ignore", "negative", "negative_no_footprint"]))
def test_masks_equal_the_oracle(scene, mode):
    assert_masks_equal_the_oracle(scene, traced(scene, inbox=mode)[1], mode)


@given(scenes(**SMALL))
@settings(max_examples=15)
def test_readings_of_the_mask_contain_each_other(scene):
    a, b, c = (
        effective_negatives(scene, traced(scene, inbox=mode)[1], 0) > 0
        for mode in ("ignore", "negative", "negative_no_footprint")
    )
    assert (c <= b).all()
    assert (a <= c).all()


@given(scenes(**SMALL))
@settings(max_examples=15)
def test_in_box_weights_of_one_minus_q(scene):
    _, answer, seen = traced(scene, inbox="one_minus_q", level_gate="contains_grid")
    expected = np.ones((scene.num_images, len(scene.points)))
    image = scene.targets().image.tolist()
    for gt, location in pair_list(scene, scene.targets().boxes):
        q = seen.quality(gt, int(scene.points.level[location]), scene.points.xy[location])
        at = (image[gt], location)
        expected[at] = min(expected[at], 1 - min(q, 1.0))
    np.testing.assert_allclose(answer.negative_weight.numpy(), expected, atol=1e-4)


@given(scenes(**SMALL))
@settings(max_examples=15)
def test_soft_in_box_labels(scene):
    _, answer, seen = traced(scene, inbox="soft", level_gate="contains_grid")
    s = answer.samples
    grid_rows = torch.nonzero(s.ok & ~s.positive).flatten()
    pairs = pair_list(scene, scene.targets().boxes)
    location = scene.grid.level_start[s.level] + (s.uv[:, 1] * scene.grid.level_width[s.level] + s.uv[:, 0]).long()
    gt_of, label_of, location = s.gt.tolist(), s.label.tolist(), location.tolist()
    of_image, labels = scene.targets().image.tolist(), scene.targets().labels.tolist()
    ours = {(gt_of[k], location[k]): label_of[k] for k in grid_rows.tolist()}
    assert len(grid_rows) == len(ours) == len(pairs)
    for gt, r in pairs:
        q = seen.quality(gt, int(scene.points.level[r]), scene.points.xy[r])
        assert abs(ours[gt, r] - min(q, 1.0)) < 1e-4
    for image in range(scene.num_images):
        weight = negatives_of_grid(scene, answer, image)
        for gt, r in pairs:
            if of_image[gt] == image:
                assert weight[r, labels[gt]] == 0, "a cell is taught Q and zero at once"


# ---- L_IQ -----------------------------------------------------------------------------------------------------------


@given(scenes(**SMALL))
@settings(max_examples=20)
def test_loss_equals_the_oracle_over_all_points(scene):
    _, answer, seen = traced(scene, lattice_side=EVERY_POINT)
    predictions = scene.predictions()
    total, count, start = 0.0, 0, 0
    for image, boxes in enumerate(scene.boxes):
        part = slice(start, start + len(boxes))
        start += len(boxes)
        value, pairs = iqdet.iq_loss(
            scene.points, boxes.astype(np.float64), predictions.boxes[image].double().numpy(),
            seen.mu[part], seen.sigma[part], seen.pi[part], len(scene.shapes),
        )  # fmt: skip
        total, count = total + value, count + pairs
    ours, number = answer.losses["iq"]
    assert number.item() == count
    assert ours.item() == pytest.approx(total, rel=1e-3, abs=1e-4)


def test_thinned_loss_is_unbiased():
    scene = one_image([[3, 5, 250, 240], [60, 40, 190, 250]])
    whole = run(build("iqdet", scene, lattice_side=EVERY_POINT), scene).losses["iq"]
    thinned = build("iqdet", scene, lattice_side=8)
    values = [run(thinned, scene, index=i).losses["iq"] for i in range(60)]
    assert all(count == whole[1] for _, count in values)
    sums = np.array([total.item() for total, _ in values])
    assert sums.std() > 0
    assert abs(sums.mean() - whole[0].item()) < 5 * sums.std() / np.sqrt(len(sums))


def test_loss_weight_scales():
    scene = one_image([[3, 5, 250, 240]])
    one, three = (run(build("iqdet", scene, iq_weight=w), scene).losses["iq"] for w in (1.0, 3.0))
    assert three[0].item() == pytest.approx(3 * one[0].item())
    assert three[1] == one[1]


# ---- gradients ------------------------------------------------------------------------------------------------------


def gradients(scene: Scene, value, **options: object):
    """Gradients of `value(answer)` in the encoder, the features and the predicted maps."""
    assigner = build("iqdet", scene, **options)
    predictions = scene.predictions()
    predictions = replace(
        predictions,
        **{k: getattr(predictions, k).clone().requires_grad_() for k in ("logits", "quality", "distances", "boxes")},
    )
    answer = assigner(scene.grid, scene.targets(), predictions, scene.step())
    value(answer).backward()
    encoder = sum(float(p.grad.abs().sum()) for p in assigner.encoder.parameters() if p.grad is not None)
    features = sum(float(f.grad.abs().sum()) for f in predictions.features if f.grad is not None)
    maps = [getattr(predictions, k).grad for k in ("logits", "quality", "distances", "boxes")]
    return encoder, features, maps


@given(
    scenes(min_boxes=1), st.sampled_from(["iou", "cls", "reg", "comb"]), st.sampled_from(["grid", "draws", "positives"])
)
@settings(max_examples=15)
def test_loss_teaches_encoder_and_backbone_and_no_head(scene, target, points):
    encoder, features, maps = gradients(scene, lambda a: a.losses["iq"][0], iq_target=target, iq_points=points)
    held = any(pair_list(scene, scene.targets().boxes))
    assert (encoder > 0) == (features > 0)
    assert encoder > 0 or not held
    assert all(g is None or not g.any() for g in maps)


def test_label_reaches_the_encoder_only_when_asked():
    scene = one_image([[30, 40, 150, 160]])
    encoder, features, maps = gradients(scene, lambda a: a.samples.label.sum(), detach_label=False)
    assert encoder > 0
    assert features > 0
    assert all(g is None for g in maps)
    free = run(build("iqdet", scene, detach_label=False), scene)
    fixed = run(build("iqdet", scene), scene)
    assert free.samples.label.requires_grad
    assert not free.samples.uv.requires_grad
    assert not fixed.samples.label.requires_grad
    assert torch.equal(free.samples.label, fixed.samples.label)


# ---- warm-up and options --------------------------------------------------------------------------------------------


@given(scenes(max_boxes=5))
@settings(max_examples=10)
def test_warm_up_assigns_by_atss_and_trains_the_encoder(scene):
    assigner = build("iqdet", scene, warmup=0.3)
    early = assigner(scene.grid, scene.targets(), scene.predictions(), scene.step(progress=0.1))
    np.testing.assert_array_equal(rows(early), rows(run(build("atss", scene), scene)))
    late = assigner(scene.grid, scene.targets(), scene.predictions(), scene.step(progress=0.3))
    assert torch.equal(early.losses["iq"][0], late.losses["iq"][0])
    np.testing.assert_array_equal(rows(late), rows(run(build("iqdet", scene), scene)))


@pytest.mark.parametrize(
    "options",
    [
        {"peak": "softmax"}, {"peak": "sigmoid"}, {"components": 1}, {"components": 4}, {"roi": 3}, {"hidden": 8},
        {"inbox": "ignore", "rejected": "zero"}, {"select": "joint", "positives": 30}, {"draws_per_level": 3},
        {"iq_points": "positives", "iq_target": "comb"}, {"select_by": "loss", "iq_target": "reg", "inbox": "soft"},
        {"select_by": "loss", "iq_target": "cls", "select": "topk_per_level", "rejected": "zero"},
        {"level_gate": "none", "select": "multinomial"}, {"label": "best_is_one", "rejected": "zero"},
    ],
    ids=str,
)  # fmt: skip
@given(scenes(max_boxes=5))
@settings(max_examples=5)
def test_every_reading_gives_a_sound_assignment(options, scene):
    answer = run(build("iqdet", scene, **options), scene)
    s = answer.samples
    assert not (s.positive & ~s.ok).any()
    assert torch.isfinite(s.label).all()
    assert ((s.label >= 0) & (s.label <= 1)).all()
    assert torch.isfinite(s.uv).all()
    assert torch.isfinite(answer.losses["iq"][0])
    assert ((answer.negative_weight >= 0) & (answer.negative_weight <= 1)).all()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"positives": 0}, "positives"),
        ({"warmup": 1.5}, "warmup"),
        ({"select_by": "loss"}, "iq_target"),
        ({"select_by": "loss", "iq_target": "cls", "select": "joint"}, "draws"),
    ],
)
def test_bad_options_name_themselves(options, word):
    with pytest.raises(ValueError, match=word):
        build("iqdet", one_image([]), **options)


def test_without_features_it_says_so():
    scene = one_image([[1, 2, 30, 40]])
    with pytest.raises(ValueError, match="feature"):
        build("iqdet", scene)(scene.grid, scene.targets(), scene.predictions(features=False), scene.step())
