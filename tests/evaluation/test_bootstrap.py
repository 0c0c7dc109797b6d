"""Weights that stay the same for ever, and replicates as a file holds them."""

from __future__ import annotations

import json

import numpy as np

from harness.evaluation.bootstrap import image_weights, replicates
from harness.evaluation.match_table import MatchTable
from tests.support.fakes import MemorySet, found, objects

BOX, ELSEWHERE = [10, 10, 50, 50], [500, 500, 600, 600]


def test_every_replicate_draws_as_many_images_as_there_are():
    weights = image_weights(50, 400)
    assert weights.shape == (400, 50)
    assert weights.dtype == np.float64
    assert (weights.sum(axis=1) == 50).all()
    assert (weights >= 0).all()
    assert (weights == weights.round()).all()
    assert abs(weights.mean(axis=0) - 1).max() < 0.25  # sd of a column's mean: 0.05
    assert abs(weights.var(axis=0).mean() - 49 / 50) < 0.05  # of a multinomial count


def test_fewer_replicates_are_the_first_of_more():
    assert np.array_equal(image_weights(7, 20)[:5], image_weights(7, 5))


def test_the_stream_is_frozen():
    # A change of these numbers breaks the pairing with every file of details written before.
    expected = [[1, 2, 0, 0, 0, 1, 4, 0], [1, 2, 2, 1, 1, 0, 0, 1], [0, 1, 1, 1, 2, 1, 1, 1]]
    assert image_weights(8, 3).astype(int).tolist() == expected


def test_no_images_and_no_replicates():
    assert image_weights(0, 4).shape == (4, 0)
    assert image_weights(4, 0).shape == (0, 4)


def test_replicates_are_json_and_vary_with_the_images():
    truths = [objects([BOX])] * 6
    detections = [found([BOX])] * 3 + [found([ELSEWHERE])] * 3
    values = replicates(MatchTable.build(MemorySet(truths), detections), 50)
    assert set(values) == {"AP", "AP50"}
    assert all(len(series) == 50 for series in values.values())
    assert len(set(values["AP"])) > 3
    assert all(value == round(value, 4) for value in values["AP"])
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_a_replicate_without_objects_is_null():
    values = replicates(MatchTable.build(MemorySet([objects([BOX]), objects()]), [found([BOX]), found()]), 60)
    assert {None, 100.0} == set(values["AP"])


def test_replicates_of_two_runs_are_paired():
    # The second run lacks one image of the first: under every weight it is worse by that image's share alone.
    truths = [objects([BOX])] * 4
    full = replicates(MatchTable.build(MemorySet(truths), [found([BOX])] * 4), 40)
    less = replicates(MatchTable.build(MemorySet(truths), [found([BOX])] * 3 + [found()]), 40)
    share = image_weights(4, 40)[:, 3] / 4
    reached = np.floor((1 - share) * 100 + 1e-9) + 1
    lost = np.where(share < 1, 100 - 100 * reached / 101, 100)
    assert np.allclose(np.subtract(full["AP"], less["AP"]), lost, atol=2e-4)
