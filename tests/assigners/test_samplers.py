"""The family of quality samplers: draws, rounding, selection and labels, and what links them to each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Assignment
from assigners.rules.iqdet.box_points import BoxPoints, quantise
from assigners.rules.iqdet.grid_variants import UniformSampling
from harness.verify.answers import ROUNDING
from harness.verify.published.oracles import iqdet
from harness.verify.published.oracles import quality_sampling as oracle
from tests.assigners.common import assert_close_rows, build, map_tensors, permuted, pixels, rows, run
from tests.assigners.images import one_image
from tests.assigners.test_iqdet import Seen, assert_masks_equal_the_oracle
from tests.support.strategies import Scene, scenes

LEARNED = ("iqdet", "qd", "uniform")
ROUNDED = ("qd", "uniform")
FREE = ("uniform_center", "fixed_qd")  # no parameters, no predictions
ALL = LEARNED + FREE
UNITS = ("box", "stride", "box_over_ratio")
LABEL_ROUNDING = 5e-3  # a 1 px box magnifies the rounding of coordinates 300 px from the origin
MIDDLE = [70.0, 80.0, 180.0, 170.0]  # of 256 px: no draw is near the border of any level's map


def seen_by(name: str, scene: Scene, **options: object) -> tuple[Assignment, Seen]:
    """The answer of a rule with an encoder, and the mixtures that it saw."""
    assigner = build(name, scene, **options)
    outputs: list = []
    handle = assigner.encoder.register_forward_hook(lambda module, args, out: outputs.append(out))
    answer = run(assigner, scene)
    handle.remove()
    mu, sigma, log_pi = (t.detach().double() for t in (outputs[0].mu, outputs[0].sigma, outputs[0].log_pi))
    return answer, Seen(mu.numpy(), sigma.numpy(), log_pi.exp().numpy(), scene.targets().boxes.double().tolist())


def on_border(scene: Scene, answer: Assignment) -> np.ndarray:
    """Samples at the border of the map, where a float draw may have been moved by up to half a cell ``[S]``."""
    s, grid = answer.samples, scene.grid
    limit = torch.stack((grid.level_width[s.level], grid.level_height[s.level]), dim=1) - 1
    return ((s.uv <= 0) | (s.uv >= limit)).any(dim=1).numpy()


def counts(scene: Scene, answer: Assignment) -> np.ndarray:
    """Positives per box."""
    return torch.bincount(answer.samples.gt[answer.samples.positive], minlength=scene.targets().num_boxes).numpy()


def multiset(table: np.ndarray) -> Counter:
    return Counter(map(tuple, table.tolist()))


# ---- draws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@given(scenes())
@settings(max_examples=5)
def test_every_sample_lies_in_its_box_and_on_its_map(name, scene):
    answer = run(build(name, scene), scene)
    s = answer.samples
    limit = torch.stack((scene.grid.level_width[s.level], scene.grid.level_height[s.level]), dim=1) - 1
    assert ((s.uv >= 0) & (s.uv <= limit)).all()
    boxes, xy = scene.targets().boxes.double()[s.gt], pixels(answer, scene)
    within = torch.minimum(xy - boxes[:, :2], boxes[:, 2:] - xy).amin(dim=1)[s.ok].numpy()
    if name in ROUNDED:
        assert s.on_grid
        assert torch.equal(s.uv, s.uv.round())
        assert torch.equal(scene.grid.location(s.level, s.uv), s.location)
        assert (within > 0).all()
    else:
        assert (within[~on_border(scene, answer)[s.ok.numpy()]] > -1e-3).all()


@pytest.mark.parametrize("name", ALL)
@given(scenes(min_boxes=1))
@settings(max_examples=5)
def test_number_and_levels_of_positives(name, scene):
    answer = run(build(name, scene), scene)
    s = answer.samples
    assert torch.equal(s.positive, s.ok)
    number = counts(scene, answer)
    assert (number <= 12).all() if name in ROUNDED else (number == 12).all()
    gate = "fcos_range" if name == "uniform_center" else "contains_cell"
    for gt, box in enumerate(scene.targets().boxes.double().tolist()):
        allowed = iqdet.allowed_levels(scene.points, box, len(scene.shapes), gate)
        assert set(s.level[s.ok & (s.gt == gt)].tolist()) <= {level for level, yes in enumerate(allowed) if yes}


@pytest.mark.parametrize("name", ROUNDED)
@given(scenes(min_boxes=1), st.sampled_from([0.5, 0.0]))
@settings(max_examples=5)
def test_rounded_draws_are_the_float_draws_at_the_nearest_grid_point(name, scene, offset):
    scene = replace(scene, offset=offset)
    options = {"rejected": "zero", "draws_per_level": 5, "level_gate": "none"}
    rounded = run(build(name, scene, **options), scene).samples
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UniformSampling, "quantised", False)
        floats = run(build("iqdet" if name == "qd" else name, scene, **options), scene)
    assert not floats.samples.on_grid
    assert torch.equal(floats.samples.gt, rounded.gt)
    assert torch.equal(floats.samples.level, rounded.level)
    boxes = scene.targets().boxes.double().tolist()
    compared = 0
    for k, ((x, y), (u, v)) in enumerate(zip(pixels(floats, scene).tolist(), floats.samples.uv.tolist(), strict=True)):
        if min(abs(u % 1 - 0.5), abs(v % 1 - 0.5)) < 1e-3:
            continue  # between two grid points
        box, level = boxes[int(rounded.gt[k])], int(rounded.level[k])
        cell = oracle.quantise((x, y), level, box, scene.shapes, scene.strides, scene.offset)
        assert bool(rounded.ok[k]) == (cell is not None)
        if cell is not None:
            assert rounded.uv[k].tolist() == [cell.column, cell.row]
        compared += 1
    assert compared > 0.95 * len(rounded.gt)


@given(scenes(min_boxes=1))
@settings(max_examples=5)
def test_rounding_twice_is_rounding_once(scene):
    targets, grid = scene.targets(), scene.grid
    shape = (targets.num_boxes, grid.num_levels, 7, 2)
    limit = torch.stack((grid.level_width, grid.level_height), dim=1)[:, None] - 1
    uv = torch.rand(shape, generator=torch.Generator().manual_seed(scene.seed)) * limit
    once = quantise(grid, targets, BoxPoints(uv, torch.zeros(shape), torch.ones(shape[:3], dtype=torch.bool)))
    twice = quantise(grid, targets, once)
    assert ((once.uv - uv).abs() <= 0.5).all()
    assert all(torch.equal(getattr(once, part), getattr(twice, part)) for part in ("uv", "d", "ok", "location"))


@pytest.mark.parametrize("name", ALL)
def test_step_seed_image_and_slot_name_a_draw(name):
    scene = one_image([MIDDLE, MIDDLE], labels=[1, 1])
    assigner, predictions = build(name, scene), scene.predictions()
    base = run(assigner, scene).samples.uv
    assert torch.equal(base, run(assigner, scene).samples.uv)
    elsewhere = replace(scene, image_ids=(2,)).targets()
    others = [run(assigner, scene, index=1), run(assigner, scene, seed=1)]
    others.append(assigner(scene.grid, elsewhere, predictions, scene.step()))
    assert all(not torch.equal(base, other.samples.uv) for other in others)
    first, second = base.view(2, -1, 2)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ALL)
@given(scenes(min_boxes=2, max_boxes=6, max_images=2))
@settings(max_examples=4)
def test_another_box_changes_nothing(name, scene):
    targets, predictions = scene.targets(), scene.predictions()
    keep = torch.arange(0, targets.num_boxes, 2)
    number = tuple(int((targets.image[keep] == i).sum()) for i in range(scene.num_images))
    inside = [scene.points.inside(box) for box in targets.boxes[keep].double().tolist()]
    levels = sum(max(1, len({int(scene.points.level[r]) for r in of})) for of in inside)
    some = replace(permuted(targets, keep), counts=number, num_pairs=sum(map(len, inside)), num_box_levels=levels)
    assigner = build(name, scene)
    whole = rows(assigner(scene.grid, targets, predictions, scene.step()))
    part = rows(assigner(scene.grid, some, predictions, scene.step()), keep)
    whole = whole[np.isin(whole[:, 0], keep)]
    if name in FREE:
        assert_close_rows(whole, part, ROUNDING)
        return
    # The encoder's rounding may depend on how many boxes it sees at once, and can push a draw over a cell's edge.
    left, right = multiset(whole[:, :4].round(2)), multiset(part[:, :4].round(2))
    assert (left - right).total() <= 0.03 * len(whole)


@pytest.mark.parametrize("name", FREE)
@given(scenes(max_images=1, min_boxes=1, max_boxes=5), st.integers(0, 2), st.integers(0, 2))
@settings(max_examples=5)
def test_translation_by_the_coarsest_cell(name, scene, right, down):
    canvas = (1408, 1408)
    here = replace(scene, canvas=canvas, sizes=(canvas,), boxes=(scene.boxes[0] + 512,))
    shift = np.array([right, down, right, down], dtype=np.float32) * 128
    there = replace(here, boxes=(here.boxes[0] + shift,))
    empty = scene.predictions()
    a, b = (build(name, s)(s.grid, s.targets(), empty, s.step()).samples for s in (here, there))
    shifted = a.uv + torch.tensor([right * 128.0, down * 128.0]) / scene.grid.level_stride[a.level][:, None]
    assert torch.equal(a.level, b.level)
    torch.testing.assert_close(shifted, b.uv, rtol=0, atol=1e-3)
    torch.testing.assert_close(a.label, b.label, rtol=0, atol=LABEL_ROUNDING)


# ---- densities ------------------------------------------------------------------------------------------------------


def assert_shares(counted: np.ndarray, expected: np.ndarray, draws: int) -> None:
    """Counted shares within five standard deviations of the expected, which may sum to less than one."""
    assert (np.abs(counted / draws - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws) + 1e-4).all()


@pytest.mark.parametrize("name", ROUNDED)
def test_share_of_each_grid_point(name):
    """A grid point gets the part of the density that is nearer to it than to any other."""
    scene, draws = one_image([MIDDLE]), 20_000
    options = {"rejected": "zero", "draws_per_level": draws, "level_gate": "none"}
    answer, seen = seen_by(name, scene, **options)
    s = answer.samples
    compared = 0
    for level, (height, width) in enumerate(scene.shapes):
        counted, expected = np.zeros((height, width)), np.zeros((height, width))
        column, row = s.uv[s.ok & (s.level == level)].long().unbind(1)
        np.add.at(counted, (row.numpy(), column.numpy()), 1)
        for at in np.ndindex(height, width):
            cell = oracle.Cell(level, *at)
            x, y = oracle.position(cell, scene.strides)
            if not (MIDDLE[0] < x < MIDDLE[2] and MIDDLE[1] < y < MIDDLE[3]):
                continue
            half = scene.strides[level] / 2
            compared += 1
            if name == "uniform":
                expected[at] = oracle.overlap_share(MIDDLE, cell, scene.strides)
            else:
                part = (x - half, y - half, x + half, y + half)
                expected[at] = oracle.mass_share(
                    MIDDLE, part, seen.mu[0, level], seen.sigma[0, level], seen.pi[0, level]
                )
        assert_shares(counted, expected, draws)
    assert compared > 150


def offsets(scene: Scene, answer: Assignment, level: int) -> np.ndarray:
    """Draws of the only box on a level, in half sides from its centre."""
    box, mine = scene.boxes[0][0].tolist(), answer.samples.level == level
    return np.array([iqdet.box_position(point, box) for point in pixels(answer, scene)[mine].tolist()])


@pytest.mark.parametrize("unit", UNITS)
def test_density_of_the_fixed_gaussian(unit):
    scene, draws = one_image([MIDDLE]), 4000
    answer = run(
        build("fixed_qd", scene, d_norm=unit, rejected="zero", draws_per_level=draws, level_gate="none"), scene
    )
    for level, stride in enumerate(scene.strides):
        half = np.array([55.0, 45.0])
        sigma = {"box": np.full(2, 0.5), "stride": 0.5 * stride / half, "box_over_ratio": np.full(2, 0.5 * stride / 8)}
        expected = iqdet.bin_probabilities(np.zeros((1, 2)), sigma[unit][None], [1.0])
        d = offsets(scene, answer, level)
        counted, _, _ = np.histogram2d(d[:, 0], d[:, 1], bins=10, range=[[-1, 1], [-1, 1]])
        assert counted.sum() == draws
        assert_shares(counted, expected, draws)


@pytest.mark.parametrize("box", [MIDDLE, [100, 90, 130, 106], [80, 100, 176, 104]])
@pytest.mark.parametrize("radius", [0.75, 1.5, 4.0])
def test_density_around_the_centre(box, radius):
    scene, draws = one_image([box]), 5000
    answer = run(build("uniform_center", scene, positives=draws, radius=radius), scene)
    level = oracle.fcos_level(scene.points, box, 5)
    assert (answer.samples.level == level).all()
    x1, y1, x2, y2 = oracle.center_square(box, scene.strides[level], radius)
    xy = pixels(answer, scene).numpy()
    counted, _, _ = np.histogram2d(xy[:, 0], xy[:, 1], bins=8, range=[[x1 - 1e-3, x2 + 1e-3], [y1 - 1e-3, y2 + 1e-3]])
    assert counted.sum() == draws
    assert_shares(counted, np.full((8, 8), 1 / 64), draws)


# ---- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNED)
@given(scenes(min_boxes=1))
@settings(max_examples=5)
def test_label_is_the_quality_at_the_point(name, scene):
    answer, seen = seen_by(name, scene)
    s = answer.samples
    known = np.flatnonzero(s.ok.numpy() & ~(on_border(scene, answer) if name == "iqdet" else False))
    xy = pixels(answer, scene).tolist()
    expected = [seen.quality(int(s.gt[k]), int(s.level[k]), xy[k]) for k in known]
    np.testing.assert_allclose(s.label.detach().numpy()[known], expected, atol=LABEL_ROUNDING)


@given(scenes(min_boxes=1), st.sampled_from(UNITS), st.sampled_from([0.2, 0.5, 3.0]))
@settings(max_examples=6)
def test_label_of_the_fixed_gaussian(scene, unit, sigma):
    answer = run(build("fixed_qd", scene, d_norm=unit, sigma=sigma), scene)
    s, boxes = answer.samples, scene.targets().boxes.double().tolist()
    xy = pixels(answer, scene).tolist()
    for k in np.flatnonzero(s.ok.numpy() & ~on_border(scene, answer)):
        stride = scene.strides[int(s.level[k])]
        expected = oracle.fixed_quality(xy[k], boxes[int(s.gt[k])], stride, sigma, unit)
        assert float(s.label[k]) == pytest.approx(expected, abs=LABEL_ROUNDING)


@given(scenes())
@settings(max_examples=5)
def test_samples_around_the_centre_are_hard_positives(scene):
    answer = run(build("uniform_center", scene), scene)
    s = answer.samples
    for weight in (s.label, s.class_weight, s.box_weight, s.quality_weight):
        assert (weight == 1).all()
    assert not answer.losses


@pytest.mark.parametrize("name", FREE)
def test_rules_without_an_encoder_learn_and_read_nothing(name):
    scene = one_image([MIDDLE, [3, 5, 250, 240]])
    assigner = build(name, scene)
    assert not list(assigner.parameters())
    plain = assigner(scene.grid, scene.targets(), None, scene.step())
    broken = map_tensors(scene.predictions(), lambda values: torch.full_like(values, torch.nan))
    for predictions in (scene.predictions(), broken):
        other = assigner(scene.grid, scene.targets(), predictions, scene.step())
        np.testing.assert_array_equal(rows(plain), rows(other))
    assert not plain.losses


@given(scenes(min_boxes=1))
@settings(max_examples=4)
def test_the_sampler_changes_nothing_about_what_quality_learns(scene):
    losses = [run(build(name, scene), scene).losses["iq"] for name in LEARNED]
    for total, count in losses[1:]:
        assert torch.equal(total, losses[0][0])
        assert torch.equal(count, losses[0][1])


# ---- selection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROUNDED)
@given(scenes(min_boxes=1), st.integers(1, 20), st.integers(1, 14))
@settings(max_examples=5)
def test_the_best_draws_over_all_levels_are_kept(name, scene, positives, draws):
    answer, seen = seen_by(name, scene, positives=positives, draws_per_level=draws, rejected="zero")
    s, xy = answer.samples, pixels(answer, scene).tolist()
    assert (s.label[s.ok & ~s.positive] == 0).all()
    for gt in range(scene.targets().num_boxes):
        mine = torch.nonzero(s.ok & (s.gt == gt)).flatten().tolist()
        q = [seen.quality(gt, int(s.level[k]), xy[k]) for k in mine]
        assert iqdet.is_top(q, s.positive[mine].tolist(), positives, slack=LABEL_ROUNDING)


@given(scenes(min_boxes=1), st.sampled_from(UNITS), st.integers(1, 20))
@settings(max_examples=5)
def test_the_best_draws_of_the_fixed_gaussian_are_kept(scene, unit, positives):
    answer = run(build("fixed_qd", scene, d_norm=unit, positives=positives, draws_per_level=9, rejected="zero"), scene)
    s, xy, boxes = answer.samples, pixels(answer, scene).tolist(), scene.targets().boxes.double().tolist()
    moved = on_border(scene, answer)
    for gt, box in enumerate(boxes):
        mine = torch.nonzero(s.ok & (s.gt == gt)).flatten().tolist()
        assert int(s.positive[mine].sum()) == min(positives, len(mine))
        known = [k for k in mine if not moved[k]]
        q = [oracle.fixed_quality(xy[k], box, scene.strides[int(s.level[k])], 0.5, unit) for k in known]
        kept = s.positive[known].tolist()
        assert iqdet.is_top(q, kept, sum(kept), slack=LABEL_ROUNDING)


@pytest.mark.parametrize("name", ["iqdet", "qd", "uniform", "fixed_qd"])
@given(scenes(min_boxes=1))
@settings(max_examples=4)
def test_more_positives_only_add(name, scene):
    few, many = (multiset(rows(run(build(name, scene, positives=n, draws_per_level=12), scene))) for n in (5, 9))
    assert not few - many
    assert many.total() > few.total()


@pytest.mark.parametrize("select", ["joint", "multinomial", "topk_per_level"])
@pytest.mark.parametrize("name", ["qd", "uniform", "fixed_qd"])
def test_other_selections(name, select):
    scene = one_image([MIDDLE, [3, 5, 250, 240], [20, 20, 23, 24]])
    answer = run(build(name, scene, select=select, positives=4), scene)
    s = answer.samples
    assert torch.isfinite(s.label).all()
    assert ((s.label >= 0) & (s.label <= 1)).all()
    number = counts(scene, answer)
    levels = [sum(iqdet.allowed_levels(scene.points, box, 5, "contains_cell")) for box in scene.boxes[0].tolist()]
    most = np.array([4 * n if select == "topk_per_level" else 4 for n in levels])
    assert (number <= most).all()
    if name == "fixed_qd":
        assert (number == most).all()
    assert number[:2].min() > 0


def test_a_flat_quality_favours_no_level():
    scene = one_image([[3, 5, 250, 240]])
    assigner, total = build("fixed_qd", scene, sigma=1e6), torch.zeros(5)
    for index in range(60):
        answer = run(assigner, scene, index=index)
        assert torch.allclose(answer.samples.label, torch.ones(()))
        total += torch.bincount(answer.samples.level, minlength=5)
    assert total.sum() == 60 * 12
    assert (total - 144).abs().max() < 5 * (720 * 0.2 * 0.8) ** 0.5


# ---- links between assigners ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROUNDED)
@given(st.integers(0, 99))
@settings(max_examples=3)
def test_many_draws_without_copies_are_the_best_grid_points(name, seed):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(5, 60, 2), rng.uniform(12, 60, 2)
    box = (np.round(np.concatenate((corner, corner + size)) * 8) / 8).tolist()
    scene = replace(one_image([box], size=(128, 128)), seed=seed)
    # Uniform draws reach every grid point; those from the quality reach the best of them the sooner the better.
    draws = 4000
    answer, seen = seen_by(name, scene, positives=5 * draws, draws_per_level=draws)
    s = answer.samples
    found = {(int(s.level[k]), *s.uv[k].tolist()): float(s.label[k]) for k in torch.nonzero(s.ok).flatten().tolist()}
    ours = sorted(found.values(), reverse=True)[:12]
    levels = scene.points.level

    def quality(location: int) -> float:
        return seen.quality(0, int(levels[location]), scene.points.xy[location])

    allowed = iqdet.allowed_levels(scene.points, box, 5, "contains_cell")
    theirs = [q for q, _ in oracle.best_grid_points(scene.points, box, allowed, quality, 12)]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@given(scenes(max_images=1, min_boxes=1, max_boxes=4, kinds=("plain", "flat", "border", "tiny", "huge")))
@settings(max_examples=6)
def test_many_rounded_draws_around_the_centre_are_the_center_sampling_points(scene):
    """Rounding spreads the draws by up to half a cell; those that stay in the square are FCOS's points of its level."""
    answer = run(build("uniform_center", scene, positives=1500, rounded=True), scene)
    s, xy = answer.samples, pixels(answer, scene).tolist()
    for gt, box in enumerate(scene.boxes[0].astype(np.float64).tolist()):
        level = oracle.fcos_level(scene.points, box, 5)
        x1, y1, x2, y2 = oracle.center_square(box, scene.strides[level], 1.5)
        expected = {
            tuple(point)
            for point, own in zip(scene.points.xy.tolist(), scene.points.level, strict=True)
            if own == level and x1 < point[0] < x2 and y1 < point[1] < y2
        }
        found = {tuple(xy[k]) for k in torch.nonzero(s.ok & (s.gt == gt)).flatten().tolist()}
        assert {(x, y) for x, y in found if x1 < x < x2 and y1 < y < y2} == expected
        half = scene.strides[level] / 2 + 1e-3
        assert all(x1 - half <= x <= x2 + half and y1 - half <= y <= y2 + half for x, y in found)


# ---- masks and extremes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qd", "uniform", "uniform_center", "fixed_qd"])
@given(
    scenes(sides=(128, 256), max_images=2, max_boxes=5),
    st.sampled_from(["ignore", "negative", "negative_no_footprint"]),
)
@settings(max_examples=4)
def test_masks_equal_the_oracle(name, scene, mode):
    assert_masks_equal_the_oracle(scene, run(build(name, scene, inbox=mode), scene), mode)


@pytest.mark.parametrize("name", ALL)
def test_no_boxes(name):
    answer = run(build(name, one_image([])), one_image([]))
    assert not answer.samples.ok.any()
    assert (answer.negative_weight == 1).all()
    assert all(float(total.detach()) == 0 for total, _ in answer.losses.values())


@pytest.mark.parametrize("name", ALL)
def test_boxes_between_the_grid_points(name):
    """Without a grid point inside, rounding leaves nothing; float samples still find the box on the finest level."""
    scene = one_image([[21, 21, 23.5, 23], [100.5, 61, 103.5, 99.5]])
    answer = run(build(name, scene), scene)
    assert counts(scene, answer).tolist() == ([0, 0] if name in ROUNDED else [12, 12])
    assert (answer.samples.level[answer.samples.ok] == 0).all()


@pytest.mark.parametrize("name", FREE)
def test_thousands_of_boxes(name):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 480, (3000, 2))
    boxes = np.concatenate((corner, np.minimum(corner + rng.uniform(2, 120, (3000, 2)), 512)), axis=1)
    scene = one_image(boxes, size=(512, 512))
    answer = build(name, scene)(scene.grid, scene.targets(), None, scene.step())
    assert (counts(scene, answer) == 12).all()
    assert len(answer.samples.gt) == 12 * scene.targets().num_boxes


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qd", {"positives": 0}),
        ("uniform", {"draws_per_level": 0}),
        ("uniform_center", {"positives": 0}),
        ("uniform_center", {"radius": 0.0}),
        ("fixed_qd", {"sigma": 0.0}),
        ("fixed_qd", {"d_norm": "pixel"}),
    ],
)
def test_bad_options(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build(name, one_image([]), **options)
