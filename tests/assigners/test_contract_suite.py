"""The questions every registered assigner must answer the same way, whatever its rule."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from assigners.contract import Assigner, Assignment, Grid, HeadInfo, Samples, Targets
from assigners.registry import catalogue, create, option_defaults
from tests.assigners.common import (
    assert_close_rows,
    assert_equal,
    build,
    map_tensors,
    permuted,
    pixels,
    rows,
    run,
)
from tests.oracles.iqdet import in_box_points
from tests.strategies import Scene, scenes

NAMES = [entry.name for entry in catalogue()]
ROUNDING = 2e-3  # cells; matrix products round differently for another number of rows, and draws follow

pytestmark = pytest.mark.parametrize("name", NAMES)


def own_parameters(assigner: Assigner) -> dict[str, torch.Tensor]:
    return dict(assigner.named_parameters())


def exact(name: str, scene: Scene) -> bool:
    """Without parameters an assigner has no matrix product, so its answer is exact arithmetic."""
    return not own_parameters(create(name, scene.head))


@given(scenes())
def test_shapes_types_and_ranges(name, scene):
    targets, answer = scene.targets(), run(build(name, scene), scene)
    s, grid = answer.samples, scene.grid
    count = s.gt.shape[0]
    for field, dtype, trailing in (
        ("gt", torch.int64, ()), ("level", torch.int64, ()), ("uv", torch.float32, (2,)), ("ok", torch.bool, ()),
        ("positive", torch.bool, ()), ("label", torch.float32, ()), ("class_weight", torch.float32, ()),
        ("box_weight", torch.float32, ()), ("quality_weight", torch.float32, ()),
    ):  # fmt: skip
        value = getattr(s, field)
        assert (value.dtype, tuple(value.shape)) == (dtype, (count, *trailing)), field
        assert torch.isfinite(value.float()).all(), field
    assert not (s.positive & ~s.ok).any()
    for value in (s.label, s.class_weight, s.box_weight, s.quality_weight):
        assert (value >= 0).all()
        assert (value[~s.ok] == 0).all()
    assert (s.label <= 1).all()
    if targets.num_boxes:
        assert ((s.gt >= 0) & (s.gt < targets.num_boxes)).all()
        limit = torch.stack((grid.level_width[s.level], grid.level_height[s.level]), dim=1) - 1
        assert (s.uv >= 0).all()
        assert (s.uv <= limit).all()
    else:
        assert not s.ok.any()
    assert answer.negative_weight.shape == (scene.num_images, grid.num_locations)
    assert answer.negative_weight.dtype == torch.float32
    assert ((answer.negative_weight >= 0) & (answer.negative_weight <= 1)).all()
    for terms in (answer.losses, answer.statistics):
        for total, divisor in terms.values():
            assert total.ndim == divisor.ndim == 0
            assert torch.isfinite(total)
            assert torch.isfinite(divisor.float())
            assert divisor >= 0
    assert all(total >= 0 for total, _ in answer.losses.values())
    assert not any(total.requires_grad or count.requires_grad for total, count in answer.statistics.values())


@given(scenes())
def test_positives_lie_strictly_inside_their_box(name, scene):
    targets, answer = scene.targets(), run(build(name, scene), scene)
    s = answer.samples
    boxes = targets.boxes.double()[s.gt]
    xy = pixels(answer, scene)
    inside = ((xy > boxes[:, :2]) & (xy < boxes[:, 2:])).all(dim=1)
    for k in torch.nonzero(s.positive & ~inside).flatten().tolist():
        # Only a box that holds no location at all may be read beside itself, at the nearest place the map has.
        assert not in_box_points(scene.points, boxes[k].tolist())
        assert not s.on_grid
        beside = torch.maximum(boxes[k, :2] - xy[k], xy[k] - boxes[k, 2:]).max()
        assert beside <= scene.strides[0] / 2


@given(scenes())
def test_same_input_same_bits_and_nothing_else_touched(name, scene):
    assigner, targets, predictions = build(name, scene), scene.targets(), scene.predictions()
    before = {key: value.clone() for key, value in assigner.state_dict().items()}
    random_state = torch.get_rng_state()
    first = assigner(scene.grid, targets, predictions, scene.step())
    assert torch.equal(random_state, torch.get_rng_state()), "the global random state moved"
    second = run(assigner, scene)
    assert_equal(first, second)
    assert all(torch.equal(before[key], value) for key, value in assigner.state_dict().items())
    for field in fields(Targets):
        mine, fresh = getattr(targets, field.name), getattr(scene.targets(), field.name)
        assert torch.equal(mine, fresh) if isinstance(mine, torch.Tensor) else mine == fresh
    assert torch.equal(predictions.logits, scene.predictions().logits)
    assert torch.equal(predictions.distances, scene.predictions().distances)


@given(scenes(min_images=2))
@settings(max_examples=15)
def test_images_do_not_see_each_other(name, scene):
    assigner = build(name, scene)
    together = run(assigner, scene)
    table, at = rows(together), 0
    total: dict[str, float] = {}
    for image in range(scene.num_images):
        alone = run(assigner, scene.single(image))
        count = len(scene.targets().boxes[scene.targets().image == image])
        mine = table[(table[:, 0] >= at) & (table[:, 0] < at + count)].copy()
        mine[:, 0] -= at
        at += count
        assert_close_rows(mine, rows(alone), atol=0.0 if exact(name, scene) else ROUNDING)
        torch.testing.assert_close(together.negative_weight[image], alone.negative_weight[0], rtol=0, atol=1e-5)
        for key, (value, _) in alone.losses.items():
            total[key] = total.get(key, 0.0) + value.item()
    for key, value in total.items():
        assert together.losses[key][0].item() == pytest.approx(value, rel=1e-4, abs=1e-5)


@given(scenes())
@settings(max_examples=15)
def test_boxes_without_a_pixel_change_nothing(name, scene):
    width = scene.canvas[1]
    nothing = np.array(
        [[5, 5, 5, 90], [width + 3, 4, width + 50, 60], [-40, -40, 0.5, 20], [30, 30, 30.5, 31]], dtype=np.float32
    )
    padded = replace(
        scene,
        boxes=tuple(np.concatenate((boxes, nothing)) for boxes in scene.boxes),
        labels=tuple(np.concatenate((labels, np.arange(4))) for labels in scene.labels),
    )
    assigner = build(name, scene)
    assert_equal(run(assigner, scene), run(assigner, padded))


@given(scenes(max_boxes=8))
def test_order_of_boxes_does_not_matter(name, scene):
    targets = scene.targets()
    rng = np.random.default_rng(scene.seed)
    start, parts = 0, []
    for count in targets.counts:
        parts.append(start + rng.permutation(count))
        start += count
    order = torch.from_numpy(np.concatenate(parts)).long()
    assigner = build(name, scene)
    plain = assigner(scene.grid, targets, scene.predictions(), scene.step())
    shuffled = assigner(scene.grid, permuted(targets, order), scene.predictions(), scene.step())
    if exact(name, scene):
        # Boxes equal in everything are interchangeable: let the first of each name all its twins.
        keys = torch.cat((targets.boxes, targets.labels[:, None].float(), targets.image[:, None].float()), dim=1)
        twin = (keys[:, None] == keys[None]).all(dim=2).float().argmax(dim=1) if len(keys) else order
        np.testing.assert_array_equal(rows(plain, twin), rows(shuffled, twin[order]))
    else:
        assert_close_rows(rows(plain), rows(shuffled, order), atol=ROUNDING)
    torch.testing.assert_close(plain.negative_weight, shuffled.negative_weight, rtol=0, atol=1e-5)


@given(scenes(min_boxes=1, max_boxes=5))
def test_classes_are_only_names(name, scene):
    kinds = [tuple(map(tuple, b)) for b in scene.boxes]
    if any(len(set(k)) < len(k) for k in kinds):
        return  # the class orders boxes that are equal otherwise
    table = np.array([2, 0, 4, 1, 3])
    renamed = replace(scene, labels=tuple(table[labels] for labels in scene.labels))
    assigner = build(name, scene)
    inverse = torch.from_numpy(np.argsort(table))
    predictions = scene.predictions()
    swapped = replace(predictions, logits=predictions.logits[..., inverse])
    plain = assigner(scene.grid, scene.targets(), predictions, scene.step())
    assert_equal(plain, assigner(scene.grid, renamed.targets(), swapped, scene.step()))


@given(scenes())
def test_batch_without_boxes(name, scene):
    scene = scene.empty()
    assigner = build(name, scene)
    answer = run(assigner, scene)
    assert not answer.samples.ok.any()
    assert (answer.negative_weight == 1).all()
    assert_connected(assigner, answer)
    assert all(total == 0 for total, _ in answer.losses.values())


@given(scenes(min_boxes=1))
@settings(max_examples=10)
def test_every_parameter_is_reached(name, scene):
    assigner = build(name, scene)
    assert_connected(assigner, run(assigner, scene))


def assert_connected(assigner: Assigner, answer: Assignment) -> None:
    """Every parameter gets a finite gradient, zero or not: DistributedDataParallel waits for all of them."""
    parameters = own_parameters(assigner)
    if not parameters:
        return
    torch.stack([total for total, _ in answer.losses.values()]).sum().backward()
    for key, parameter in parameters.items():
        assert parameter.grad is not None, f"{key} is not connected to the losses"
        assert torch.isfinite(parameter.grad).all(), key


@given(scenes())
def test_assignment_carries_no_gradient(name, scene):
    answer = run(build(name, scene), scene)
    for value in (answer.samples.uv, answer.samples.label, answer.samples.class_weight, answer.samples.box_weight,
                  answer.samples.quality_weight, answer.negative_weight):  # fmt: skip
        assert not value.requires_grad


@given(scenes(kinds=("tiny", "flat", "border"), min_boxes=1))
@settings(max_examples=15)
def test_tiny_boxes_and_wild_predictions_stay_finite(name, scene):
    assigner, predictions = build(name, scene), scene.predictions()
    point = scene.grid.points.expand(scene.num_images, -1, -1)
    wild = replace(
        predictions,
        logits=50 * predictions.logits.sign(),
        quality=-50 * predictions.quality.sign(),
        distances=torch.zeros_like(predictions.distances),
        boxes=torch.cat((point, point), dim=2),
    )
    answer = assigner(scene.grid, scene.targets(), wild, scene.step())
    for value in (answer.samples.uv, answer.samples.label, answer.negative_weight):
        assert torch.isfinite(value).all()
    assert_connected(assigner, answer)
    assert all(torch.isfinite(total) for total, _ in answer.losses.values())


@given(scenes())
def test_declared_needs_are_all_that_is_read(name, scene):
    assigner = build(name, scene)
    if assigner.needs.predictions:
        return
    nan = map_tensors(scene.predictions(), lambda t: torch.full_like(t, torch.nan))
    blind = assigner(scene.grid, scene.targets(), None, scene.step())
    assert_equal(run(assigner, scene), blind)
    assert_equal(blind, assigner(scene.grid, scene.targets(), nan, scene.step()))


@given(scenes(min_boxes=1))
@settings(max_examples=15)
def test_ignore_regions_hold_no_negatives(name, scene):
    height, width = scene.canvas
    region = torch.tensor([[0.3 * width, 0.2 * height, 0.8 * width, 0.7 * height]])
    targets = Targets.collate(
        [torch.from_numpy(b) for b in scene.boxes],
        [torch.from_numpy(label) for label in scene.labels],
        scene.grid,
        sizes=scene.sizes,
        image_ids=scene.image_ids,
        ignore=[region] + [torch.zeros(0, 4)] * (scene.num_images - 1),
    )
    assigner = build(name, scene)
    plain = run(assigner, scene)
    answer = assigner(scene.grid, targets, scene.predictions(), scene.step())
    np.testing.assert_array_equal(rows(plain), rows(answer))
    held = in_box_points(scene.points, region[0].double().tolist())
    assert held
    expected = plain.negative_weight.clone()
    expected[0, held] = 0
    assert torch.equal(answer.negative_weight, expected)


@given(scenes(min_boxes=1, max_boxes=6))
@settings(max_examples=10)
def test_mixed_precision_maps(name, scene):
    assigner = build(name, scene)
    half = map_tensors(scene.predictions(), lambda t: t.detach().bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = assigner(scene.grid, scene.targets(), half, scene.step())
    full = assigner(scene.grid, scene.targets(), map_tensors(half, torch.Tensor.float), scene.step())
    assert_equal(low, full)  # the arithmetic of an assignment is float32 whatever surrounds it


@given(scenes())
@settings(max_examples=3)
def test_nothing_depends_on_data(name, scene):
    """With tensors that have shapes but no values, ``.item()``, ``nonzero`` and branches on values raise."""
    assigner, targets, predictions = build(name, scene), scene.targets(), scene.predictions()
    mode = FakeTensorMode(allow_non_fake_inputs=False)

    def fake(data):
        changed = {
            f.name: mode.from_tensor(value)
            for f in fields(data)
            if isinstance(value := getattr(data, f.name), torch.Tensor)
        }
        return replace(data, **changed)

    state = {key: mode.from_tensor(value) for key, value in (*assigner.named_parameters(), *assigner.named_buffers())}
    maps = map_tensors(predictions, lambda t: mode.from_tensor(t.detach()))
    grid: Grid = fake(scene.grid)
    with mode:
        answer = functional_call(assigner, state, (grid, fake(targets), maps, scene.step()))
    real = assigner(scene.grid, targets, predictions, scene.step())
    for field in fields(Samples):
        shaped, value = getattr(answer.samples, field.name), getattr(real.samples, field.name)
        if isinstance(value, torch.Tensor):
            assert (shaped.shape, shaped.dtype) == (value.shape, value.dtype), field.name
    assert answer.negative_weight.shape == real.negative_weight.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@given(scenes(min_boxes=1))
@settings(max_examples=5)
def test_no_synchronisation_on_a_gpu_and_the_answer_of_the_cpu(name, scene):
    assigner = build(name, scene)
    expected = run(assigner, scene)
    assigner = assigner.cuda()
    grid = Grid.build(scene.shapes, scene.strides, offset=scene.offset, device="cuda")
    targets = scene.targets().to("cuda")
    predictions = map_tensors(scene.predictions(), lambda t: t.detach().cuda())
    assigner(grid, targets, predictions, scene.step())  # the first call sets up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        answer = assigner(grid, targets, predictions, scene.step())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    samples = {
        f.name: v.cpu() if isinstance(v := getattr(answer.samples, f.name), torch.Tensor) else v
        for f in fields(Samples)
    }
    on_host = Assignment(Samples(**samples), answer.negative_weight.cpu())
    assert_close_rows(rows(expected), rows(on_host), atol=ROUNDING)
    torch.testing.assert_close(on_host.negative_weight, expected.negative_weight, rtol=0, atol=1e-5)


def test_thousands_of_boxes_in_one_image(name):
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 360, (3000, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(2, 24, (3000, 2))), axis=1).astype(np.float32)
    scene = Scene(
        boxes=(boxes,),
        labels=(rng.integers(0, 5, 3000),),
        sizes=((384, 384),),
        image_ids=(1,),
        canvas=(384, 384),
        seed=1,
    )
    answer = run(build(name, scene), scene)
    assert answer.samples.positive.any()
    assert torch.isfinite(answer.samples.label).all()


def test_single_level_and_odd_pyramids(name):
    """Other strides and uneven maps than the usual five."""
    boxes = np.array([[3, 5, 60, 40], [0, 0, 90, 70], [50, 20, 53, 23]], dtype=np.float32)
    for strides in ((8,), (4, 8, 16), (8, 16, 32, 64, 128, 256)):
        scene = Scene(
            boxes=(boxes, boxes[:1]), labels=(np.array([0, 1, 2]), np.array([3])), sizes=((70, 90),) * 2,
            image_ids=(4, 9), canvas=(72, 96), seed=3, strides=strides,
        )  # fmt: skip
        answer = run(build(name, scene), scene)
        assert answer.samples.positive.any()
        assert answer.negative_weight.shape == (2, scene.grid.num_locations)


def test_options_are_recorded_and_have_defaults(name):
    assigner = create(name, HeadInfo(5, 4))
    assert assigner.options == option_defaults(name)
    assert isinstance(assigner, Assigner)
