"""Intervals against scipy's tests and hand calculations; rank groups against their definition."""

from __future__ import annotations

import math
import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.comparison.intervals import (
    Interval,
    half_width,
    holm,
    letters,
    mean_interval,
    paired_gap,
    resolvable_gap,
    seeds_needed,
    squared_errors,
)

A = {0: 30.0, 1: 31.0, 2: 30.5, 7: 99.0}
B = {2: 29.9, 0: 29.0, 1: 29.8, 5: 1.0}
D = np.array([1.0, 1.2, 0.6])  # of the shared seeds


def around(values, sd, seed=0, count=400):
    """Replicates of a run by seed, independent of everything."""
    rng = np.random.default_rng(seed)
    return {key: value + sd * rng.normal(size=count) for key, value in values.items()}


def test_mean_interval_is_the_t_interval():
    values = [30.0, 31.5, 29.0, 30.2]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = mean_interval(values)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert found.n == 4


def test_too_few_values_have_no_interval():
    assert mean_interval([]) == Interval(None, None, None, 0)
    assert mean_interval([3.5]) == Interval(3.5, None, None, 1)
    assert mean_interval([3.5, 3.5]) == Interval(3.5, 3.5, 3.5, 2)


def test_without_replicates_the_gap_is_the_paired_t_test_on_shared_seeds():
    gap = paired_gap(A, B)
    expected = stats.ttest_rel([A[s] for s in range(3)], [B[s] for s in range(3)])
    interval = expected.confidence_interval()
    assert (gap.mean, gap.low, gap.high) == pytest.approx((D.mean(), interval.low, interval.high))
    assert gap.p == pytest.approx(expected.pvalue)
    assert gap.se_seed == pytest.approx(stats.sem(D))
    assert (gap.seeds, gap.df, gap.se_image) == (3, 2, None)


def test_the_other_way_round_is_the_negative():
    there, back = paired_gap(A, B, around(A, 1), around(B, 1, 1)), paired_gap(B, A, around(B, 1, 1), around(A, 1))
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert there.p == pytest.approx(back.p)


def test_one_seed_has_the_normal_interval_of_the_image_bootstrap():
    a, b = around({0: 30.0}, 1.0), around({0: 29.0}, 0.5, 1)
    gap = paired_gap({0: 30.0}, {0: 29.0}, a, b)
    error = np.std(a[0] - b[0], ddof=1)
    assert (gap.low, gap.high) == pytest.approx((1 - 1.959964 * error, 1 + 1.959964 * error))
    assert gap.p == pytest.approx(2 * stats.norm.sf(1 / error))
    assert gap.se_image == pytest.approx(error)
    assert (gap.se_seed, gap.df, gap.seeds) == (None, None, 1)


def test_one_seed_without_replicates_tells_nothing():
    gap = paired_gap({0: 30.0}, {0: 29.0})
    assert gap.mean == 1
    assert (gap.low, gap.high, gap.p, gap.se_seed, gap.se_image) == (None,) * 5


def test_noise_that_the_seeds_share_comes_on_top():
    shared = np.random.default_rng(0).normal(0, 0.7, 500)
    a = {seed: A[seed] + shared for seed in range(3)}
    b = {seed: np.full(500, B[seed]) for seed in range(3)}
    gap = paired_gap(A, B, a, b)
    assert gap.se_image == pytest.approx(np.std(shared, ddof=1))
    total = math.hypot(gap.se_seed, gap.se_image)
    share = gap.se_seed**2 / total**2
    critical = share * stats.t.ppf(0.975, 2) + (1 - share) * stats.norm.ppf(0.975)
    assert gap.high - gap.mean == pytest.approx(critical * total)
    assert gap.high > paired_gap(A, B).high


def test_noise_of_each_seed_alone_is_counted_once():
    # It is in the spread of the seeds already: what the bootstrap of the mean shows of it is taken out again.
    replicates = np.random.default_rng(0).normal(0, 1, (3, 200_000))
    _, image = squared_errors(D, replicates)
    assert replicates.mean(axis=0).var() == pytest.approx(1 / 3, rel=0.02)
    assert float(image) == pytest.approx(0, abs=0.01)


def test_replicates_shared_by_both_sides_cancel():
    shift = np.random.default_rng(0).normal(0, 5, 300)
    a, b = ({seed: side[seed] + shift for seed in range(3)} for side in (A, B))
    assert paired_gap(A, B, a, b).se_image == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("missing", ["all", "one side", "one seed"])
def test_without_replicates_of_every_seed_the_interval_is_of_the_seeds(missing):
    a, b = around(A, 1), around(B, 1, 1)
    if missing == "one seed":
        del b[1]
    gap = paired_gap(A, B, {} if missing == "all" else a, {} if missing != "one seed" else b)
    assert gap == paired_gap(A, B)


def test_undefined_replicates_are_left_out():
    a, b = around(A, 1), around(B, 1, 1)
    expected = paired_gap(A, B, {s: v[2:] for s, v in a.items()}, {s: v[2:] for s, v in b.items()})
    a[0][0] = b[2][1] = np.nan
    assert paired_gap(A, B, a, b) == expected
    for values in a.values():
        values[:] = np.nan
    assert paired_gap(A, B, a, b) == paired_gap(A, B)


def test_equal_runs_and_constant_gaps_have_no_width():
    still = {seed: np.full(50, 30.0) for seed in range(3)}
    same = dict.fromkeys(range(3), 30.0)
    for replicates in (None, still):
        gap = paired_gap(same, same, replicates, replicates)
        assert (gap.mean, gap.low, gap.high, gap.p) == (0, 0, 0, 1)
    gap = paired_gap({0: 3.0, 1: 4.0}, {0: 2.0, 1: 3.0})
    assert (gap.mean, gap.low, gap.high, gap.p) == (1, 1, 1, 0)
    one_seed = paired_gap({0: 30.0}, {0: 30.0}, still, still)
    assert (one_seed.low, one_seed.high, one_seed.p) == (0, 0, 1)


def test_values_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="no shared seed"):
        paired_gap({0: 1.0}, {1: 1.0})
    with pytest.raises(ValueError, match="paired"):
        paired_gap(A, B, around(A, 1), around(B, 1, count=300))


@given(
    mean=st.floats(-20, 20),
    spread=st.floats(0.01, 10),
    image=st.floats(0, 10),
    n=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_p_is_below_the_level_exactly_where_the_interval_leaves_zero_out(mean, spread, image, n, seed):
    rng = np.random.default_rng(seed)
    a = dict(enumerate(mean + spread * rng.normal(size=n)))
    b = dict.fromkeys(a, 0.0)
    shared = (image + 0.01) * rng.normal(size=60)
    gap = paired_gap(a, b, {s: value + shared for s, value in a.items()}, {s: np.zeros(60) for s in a})
    assert 0 <= gap.p <= 1
    assert (gap.p < 0.05) == (not gap.low <= 0 <= gap.high)
    assert gap.low <= gap.mean <= gap.high


def test_the_critical_value_lies_between_students_and_the_normal_one():
    parts = np.array([0.0, 0.3, 1.0])
    width = half_width(parts, 1 - parts, 3)
    assert width[[0, 2]] == pytest.approx([stats.norm.ppf(0.975), stats.t.ppf(0.975, 2)])
    assert width[0] < width[1] < width[2]


def test_p_of_a_huge_gap_is_tiny_and_no_error():
    gap = paired_gap({0: 90.0}, {0: 1.0}, {0: 90 + np.array([0.0, 1e-3])}, {0: np.ones(2)})
    assert 0 <= gap.p < 1e-200
    mixed = paired_gap({0: 90.0, 1: 90.001}, dict.fromkeys((0, 1), 1.0),
                       dict.fromkeys((0, 1), np.array([0, 1e-3])), dict.fromkeys((0, 1), np.zeros(2)))  # fmt: skip
    assert 0 < mixed.p < 1e-3


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_letters_of_a_chain():
    told_apart = {(0, 2): True, (0, 3): True, (1, 3): True, (0, 1): False}
    assert letters("abcd", told_apart) == ["a", "ab", "bc", "c"]
    assert letters("abc", {}) == ["a", "a", "a"]
    assert letters("abc", dict.fromkeys(combinations(range(3), 2), True)) == ["a", "b", "c"]
    assert letters([], {}) == []


def marks(word):
    return set(re.findall(r"[a-z]\d*", word))


@given(st.integers(1, 7), st.sets(st.sampled_from([*combinations(range(7), 2)])))
def test_entries_share_a_letter_exactly_where_they_are_not_told_apart(n, chosen):
    told_apart = {(i, j): (i, j) in chosen for i, j in combinations(range(n), 2)}
    words = letters([str(i) for i in range(n)], told_apart)
    assert all(words)
    assert "a" in words[0]
    for (i, j), apart in told_apart.items():
        assert bool(marks(words[i]) & marks(words[j])) != apart
    assert letters([str(i) for i in range(n)], {(j, i): apart for (i, j), apart in told_apart.items()}) == words


def test_more_groups_than_letters():
    words = letters([str(i) for i in range(30)], dict.fromkeys(combinations(range(30), 2), True))
    assert len(set(words)) == 30
    assert words[25:28] == ["z", "a1", "b1"]
    assert all(len(marks(word)) == 1 for word in words)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_resolvable_gap_has_the_power_it_is_for(n):
    for power in (0.5, 0.8):
        shift = resolvable_gap(2.0, n, power) / 2.0 * math.sqrt(n)
        assert stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, shift) == pytest.approx(power, abs=1e-6)


def test_the_resolvable_gap_in_a_simulation():
    rng = np.random.default_rng(0)
    draws = rng.normal(resolvable_gap(1.5, 4), 1.5, (20_000, 4))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.012)  # four standard errors


def test_seeds_needed_is_the_inverse():
    for gap, sd in [(1.0, 1.0), (0.3, 0.5), (2.0, 0.4), (0.1, 1.0)]:
        n = seeds_needed(gap, sd)
        assert resolvable_gap(sd, n) <= gap
        assert n == 2 or resolvable_gap(sd, n - 1) > gap
    assert seeds_needed(resolvable_gap(0.7, 9), 0.7) == 9
    assert seeds_needed(1.0, 1.0) == 10
    assert seeds_needed(1.0, 1.0, power=0.95) == 16


def test_gaps_that_no_number_of_seeds_finds():
    assert resolvable_gap(1.0, 1) is None
    assert resolvable_gap(0.0, 3) == 0
    assert seeds_needed(0.001, 1.0) is None
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(0.5, 0.0) == 2
