"""PAA's batched mixture against one bag at a time in NumPy, and against scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.parts.gaussian_split import split
from harness.verify.published.oracles import paa

SHAPES = ("uniform", "clusters", "heavy", "near", "equal", "steps", "spread")
LAST_BITS = 1e-9  # of a log density
MOST = 45  # candidates of a box: 9 on each of 5 levels


def bag(shape: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Scores of one box's candidates."""
    if shape == "uniform":
        return rng.uniform(0, rng.uniform(0.1, 10), size)
    if shape == "clusters":
        near = rng.random(size) < rng.uniform(0.1, 0.9)
        return np.abs(np.where(near, rng.normal(0.8, 0.1, size), rng.normal(rng.uniform(1, 4), 0.4, size)))
    if shape == "heavy":
        return np.abs(rng.standard_t(1.5, size))
    if shape == "near":
        return 1.5 + rng.normal(0, 10.0 ** rng.uniform(-6, -2), size)
    if shape == "equal":
        return np.full(size, rng.uniform(0, 5))
    if shape == "steps":  # many equal values among few
        return rng.integers(1, 5, size) / 4
    return np.exp(rng.normal(0, rng.uniform(0.2, 2), size))


def bags(count: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for index in range(count):
        yield bag(SHAPES[index % len(SHAPES)], int(rng.integers(2, MOST + 1)), rng)


def product(given: list[np.ndarray]) -> list[list[int]]:
    """Positions of the positives of each bag, from one batch padded with values that must not count."""
    scores = torch.full((len(given), MOST), -7.0, dtype=torch.float64)
    ok = torch.zeros(scores.shape, dtype=torch.bool)
    for row, values in enumerate(given):
        scores[row, : len(values)] = torch.from_numpy(values)
        ok[row, : len(values)] = True
    positive = split(scores, ok)
    assert not (positive & ~ok).any()
    return [torch.nonzero(row).flatten().tolist() for row in positive]


def undecided(values: np.ndarray) -> bool:
    """Does the last bit choose a value's component, or the densest value of component 0?

    A component of two values is as dense at one as at the other, and two components on top of each other are equally
    likely everywhere.
    """
    ascending = np.sort(values)
    fitted = paa.fit(ascending)
    front = fitted.labels == 0
    top = ascending[front][fitted.log_density[front] >= fitted.log_density[front].max(initial=-np.inf) - LAST_BITS]
    return len(np.unique(top)) > 1 or bool((np.abs(fitted.lead) < LAST_BITS).any())


def test_equals_one_bag_at_a_time():
    given = list(bags(1400, seed=0))
    ours = product(given)
    theirs = [sorted(paa.split(values.tolist())) for values in given]
    wrong = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    assert len(wrong) <= 0.005 * len(given)
    assert all(undecided(given[i]) for i in wrong)


@given(st.sampled_from(SHAPES), st.integers(1, MOST), st.integers(0, 2**16))
def test_positives_are_a_prefix_and_never_none(shape, size, seed):
    values = bag(shape, size, np.random.default_rng(seed))
    (positive,) = product([values])
    assert positive
    rest = np.delete(values, positive)
    assert len(rest) == 0 or values[positive].max() <= rest.min()


@given(st.sampled_from(SHAPES), st.integers(2, MOST), st.integers(0, 2**16), st.sampled_from([-3.0, 0.5, 100.0]))
def test_a_constant_changes_nothing(shape, size, seed, constant):
    values = bag(shape, size, np.random.default_rng(seed))
    if not undecided(values):
        assert product([values]) == product([values + constant])


@given(st.integers(0, 2**16))
@settings(max_examples=6)
def test_order_and_neighbours_change_nothing(seed):
    """A bag is frozen when it is done, whatever the other bags of the batch still do."""
    rng = np.random.default_rng(seed)
    given = [bag(shape, int(rng.integers(2, MOST + 1)), rng) for shape in SHAPES if shape not in ("equal", "steps")]
    together, alone = product(given), [product([values])[0] for values in given]
    assert together == alone
    for values, positive in zip(given, alone, strict=True):
        order = rng.permutation(len(values))
        (shuffled,) = product([values[order]])
        assert sorted(order[shuffled].tolist()) == positive


def test_equal_scores_go_by_position():
    assert product([np.full(7, 1.25)]) == [[0]]
    (positive,) = product([np.array([2.0, 1.0, 5.0, 1.0])])
    assert 1 in positive


def test_one_candidate_is_positive_and_none_is_none():
    ok = torch.tensor([[False, True, False], [False, False, False]])
    assert torch.equal(split(torch.tensor([[9.0, 3.0, 1.0], [1.0, 2.0, 3.0]], dtype=torch.float64), ok), ok)
    assert split(torch.zeros(0, 9, dtype=torch.float64), torch.zeros(0, 9, dtype=torch.bool)).shape == (0, 9)


@pytest.mark.parametrize("largest", [1e4, 0.0])
def test_extreme_scores(largest):
    """Scores at the ends of the range that the assigner clamps them to."""
    values = np.array([0.0, 0.0, 1e-7, 0.3, largest, largest])
    (positive,) = product([values])
    assert positive == sorted(paa.split(values.tolist()))


def test_the_iteration_cap_is_out_of_reach():
    assert max(paa.fit(values).iterations for values in bags(700, seed=3)) < paa.MOST_ITERATIONS


@pytest.mark.slow
def test_equals_scikit_learn():
    mixture = pytest.importorskip("sklearn.mixture", reason="compares with scikit-learn, which is not installed")
    sklearn = pytest.importorskip("sklearn")
    given = list(bags(10_000, seed=1))
    theirs = []
    for values in given:
        ascending = np.sort(values)[:, None]
        model = mixture.GaussianMixture(
            2,
            weights_init=[0.5, 0.5],
            means_init=[ascending[0], ascending[-1]],
            precisions_init=[[[1.0]], [[1.0]]],
        )
        with warnings.catch_warnings(), sklearn.config_context(skip_parameter_validation=True):
            warnings.simplefilter("ignore")  # equal values are said to be no two clusters
            labels = model.fit(ascending).predict(ascending)
        density = np.where(labels == 0, model.score_samples(ascending), -np.inf)
        count = int(density.argmax()) + 1 if (labels == 0).any() else len(values)
        theirs.append(sorted(np.argsort(values, kind="stable")[:count].tolist()))
    equal = sum(a == b for a, b in zip(product(given), theirs, strict=True))
    assert equal >= 0.995 * len(given)
