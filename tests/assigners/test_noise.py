"""The hashed noise: a pure function of its keys, uniform, and independent along each of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from assigners.ops.noise import uniform

KEYS = st.integers(0, 2**40)


def draws(seed: int = 0, step: int = 0, stream: int = 0, first: int = 0, count: int = 20_000) -> np.ndarray:
    return uniform(seed, step, stream, torch.arange(first, first + count)).numpy()


@given(KEYS, KEYS, st.integers(0, 100), st.lists(KEYS, min_size=1, max_size=5))
def test_lies_strictly_between_zero_and_one_and_repeats(seed, step, stream, keys):
    tensors = [torch.tensor([k]) for k in keys]
    value = uniform(seed, step, stream, *tensors)
    assert value.dtype == torch.float64
    assert 0 < value.item() < 1
    assert torch.equal(value, uniform(seed, step, stream, *tensors))


@given(KEYS, st.permutations(range(8)))
def test_an_element_does_not_know_its_neighbours(seed, order):
    keys = torch.arange(8) * 12345
    whole = uniform(seed, 3, 1, keys)
    assert torch.equal(whole[list(order)], uniform(seed, 3, 1, keys[list(order)]))
    assert torch.equal(whole[2:3], uniform(seed, 3, 1, keys[2:3]))


def test_broadcasting_equals_single_keys():
    a, b = torch.arange(3)[:, None], torch.arange(4)
    table = uniform(5, 6, 7, a, b)
    assert table.shape == (3, 4)
    assert table[2, 1] == uniform(5, 6, 7, torch.tensor(2), torch.tensor(1))


@pytest.mark.parametrize("changed", [{"seed": 1}, {"step": 1}, {"stream": 1}, {"seed": 2**33}, {"first": 2**34}])
def test_every_key_counts_and_none_correlates(changed):
    base, other = draws(), draws(**changed)
    assert len(np.intersect1d(base, other)) < 10
    assert abs(np.corrcoef(base, other)[0, 1]) < 0.03


def test_order_of_keys_counts():
    a, b = torch.arange(1000), torch.arange(1000) + 5000
    assert (uniform(0, 0, 0, a, b) != uniform(0, 0, 0, b, a)).all()


@pytest.mark.parametrize(("seed", "step", "stream"), [(0, 0, 0), (1, 0, 2), (2**31, 999_999, 3)])
def test_uniform_and_serially_independent(seed, step, stream):
    u = draws(seed, step, stream)
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    pairs, *_ = np.histogram2d(u[:-1], u[1:], bins=10, range=[[0, 1], [0, 1]])
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-4
    assert len(np.unique(u)) > 0.999 * len(u)


def test_consecutive_steps_look_independent():
    keys = torch.arange(50)
    table = np.stack([uniform(0, step, 1, keys).numpy() for step in range(400)])
    assert stats.kstest(table.ravel(), "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < 0.03
    assert table.std(axis=0).min() > 0.2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_bits_on_a_gpu():
    keys = torch.arange(100_000)
    assert torch.equal(uniform(1, 2, 3, keys), uniform(1, 2, 3, keys.cuda()).cpu())
