"""Sampled negatives beside any rule: how many, which, and that nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from assigners.contract import HeadInfo, Predictions, Step, Targets
from assigners.grid import Grid
from assigners.registry import BadOption, UnknownName, create, resolve_options
from harness.cli import main
from harness.training.build import resolve_assigner
from tests.assigners.common import build, rows, run
from tests.support.strategies import scenes

RULES = ("center", "atss", "paa", "iqdet", "max_iou")
SAMPLERS = st.sampled_from(["random", "ohem"])
SMALL = {"max_images": 3, "max_boxes": 6, "sides": (128,)}


def read_cells(scene, answer):
    """Cells that a sample reads ``[B, R]``, one at a time."""
    s, grid, targets = answer.samples, scene.grid, scene.targets()
    taken = np.zeros((scene.num_images, grid.num_locations), bool)
    for k in torch.nonzero(s.ok).flatten().tolist():
        image, level = int(targets.image[s.gt[k]]), int(s.level[k])
        height, width = grid.shapes[level]
        u, v = s.uv[k].double().tolist()
        for column in {int(np.floor(u)), int(np.ceil(u))}:
            for row in {int(np.floor(v)), int(np.ceil(v))}:
                column, row = min(max(column, 0), width - 1), min(max(row, 0), height - 1)
                taken[image, grid.starts[level] + row * width + column] = True
    return taken


@given(scenes(**SMALL), st.sampled_from(RULES), SAMPLERS, st.sampled_from([0.5, 3.0]), st.sampled_from([0, 16]))
def test_positives_stay_and_so_many_negatives_are_drawn(scene, name, negatives, ratio, count):
    whole = run(build(name, scene), scene)
    answer = run(build(name, scene, negatives=negatives, negative_ratio=ratio, negative_count=count), scene)
    np.testing.assert_array_equal(rows(answer), rows(whole))
    before, after = whole.negative_weight.numpy(), answer.negative_weight.numpy()
    taken = read_cells(scene, whole)
    np.testing.assert_array_equal(after[taken], before[taken])
    assert ((after == before) | (after == 0)).all()
    positives = [int((whole.samples.positive & (scene.targets().image[whole.samples.gt] == i)).sum())
                 for i in range(scene.num_images)]  # fmt: skip
    candidates = ((before > 0) & ~taken).sum(1)
    drawn = ((after > 0) & ~taken).sum(1)
    wanted = [max(ratio * n, count) for n in positives]
    np.testing.assert_array_equal(drawn, np.minimum(candidates, np.ceil(wanted)))
    total, per = answer.statistics["negatives_per_positive"]
    assert (int(total), int(per)) == (drawn.sum(), sum(positives))


@given(scenes(**SMALL), st.sampled_from(RULES))
def test_the_hardest_are_taken(scene, name):
    whole, answer = (run(build(name, scene, **o), scene) for o in ({}, {"negatives": "ohem"}))
    loss = torch.nn.functional.softplus(scene.predictions().logits.double()).sum(-1).numpy()
    open_to_draw = (whole.negative_weight.numpy() > 0) & ~read_cells(scene, whole)
    for image in range(scene.num_images):
        drawn = open_to_draw[image] & (answer.negative_weight[image].numpy() > 0)
        left = open_to_draw[image] & ~drawn
        if drawn.any() and left.any():
            assert loss[image][drawn].min() >= loss[image][left].max() - 1e-5


@given(scenes(max_images=2, max_boxes=4, sides=(128,)), SAMPLERS)
def test_an_image_alone_has_the_negatives_that_it_has_in_a_batch(scene, negatives):
    together = run(build("center", scene, negatives=negatives), scene).negative_weight
    for image in range(scene.num_images):
        alone = scene.single(image)
        assert torch.equal(run(build("center", alone, negatives=negatives), alone).negative_weight[0], together[image])


@given(scenes(max_images=1, max_boxes=4, sides=(128,)))
def test_random_negatives_move_with_seed_and_step_alone(scene):
    assigner = build("center", scene, negatives="random")
    first, again, later, other = (
        run(assigner, scene, **words).negative_weight for words in ({}, {}, {"index": 1}, {"seed": 1})
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)


def test_hand_worked():
    """One box on one location: three negatives of nine, by loss."""
    head = HeadInfo(num_classes=2, channels=4, strides=(8,))

    grid = Grid.build([(3, 3)], [8])
    targets = Targets.collate([torch.tensor([[8.0, 8.0, 16.0, 16.0]])], [torch.tensor([0])], grid, sizes=[(24, 24)])
    logits = torch.tensor([[-1.0, -9], [0, -9], [-2, -9], [-9, 3], [9, 9], [-9, -9], [-9, -9], [-3, -9], [-4, -9]])
    maps = Predictions(logits[None], torch.zeros(1, 9), torch.ones(1, 9, 4), torch.zeros(1, 9, 4))
    assigner = create("center", head, negatives="ohem", negative_count=0)
    weight = assigner(grid, targets, maps, Step()).negative_weight[0]
    # Losses: softplus of -1, 0, -2, 3, (the positive), ...: the largest three are those of locations 3, 1 and 0.
    assert weight.tolist() == [1, 1, 0, 1, 1, 0, 0, 0, 0]


def test_a_rule_that_is_left_alone_is_the_same_run():
    plain = resolve_assigner("atss", {})
    assert resolve_assigner("atss", {"negatives": "all"}) == plain
    sampled = resolve_assigner("atss", {"negatives": "ohem", "topk": "9"})
    assert (sampled.changed, sampled.name) == ({"negatives": "ohem"}, "atss[negatives=ohem]")
    assert (sampled.options["negative_ratio"], sampled.options["negative_count"]) == (3.0, 16)
    fewer = resolve_assigner("atss", {"negatives": "random", "negative_ratio": "1"})
    assert fewer.changed == {"negatives": "random", "negative_ratio": 1.0}
    assert {key: value for key, value in sampled.options.items() if key in plain.options} == plain.options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negative_ratio": 2}, "negative_ratio is of negatives=random or negatives=ohem"),
        ({"negatives": "hard"}, "allowed: random, ohem"),
        ({"negatives": "ohem", "negative_ratio": -1}, "neither may be negative"),
        ({"negatives": "ohem", "negative_ratio": 0, "negative_count": 0}, "one must be above 0"),
    ],
)
def test_what_is_no_sampler(options, message):
    with pytest.raises(BadOption, match=message):
        create("atss", HeadInfo(num_classes=2, channels=4), **options)


def test_a_slip_is_told():
    with pytest.raises(UnknownName, match="did you mean 'negatives'"):
        resolve_options("atss", {"negative": "ohem"})


def test_own_class_losses_leave_nothing_to_sample():
    with pytest.raises(BadOption, match="the assigner's own losses stand for the class loss"):
        create("auto_assign", HeadInfo(num_classes=2, channels=4), negatives="ohem")


@pytest.mark.parametrize("spec", ["center[negatives=random]", "atss[negatives=ohem]"])
def test_the_contract_is_kept(spec):
    done = CliRunner().invoke(main, ["verify", spec, "--json"])
    assert done.exit_code == 0, done.output
