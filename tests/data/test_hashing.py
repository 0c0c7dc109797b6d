from __future__ import annotations

import numpy as np

from harness.data.hashing import Draws, hash32, hash_range, permutation


def test_hash_depends_on_every_word_and_their_order() -> None:
    words = [(1, 2), (2, 1), (1, 2, 0), (1 + 2**32, 2), (-1, 2)]
    assert len({hash32(*w) for w in words}) == len(words)
    assert hash32(1, 2) == hash32(1, 2)


def test_known_values_hold_on_every_machine() -> None:
    assert hash32(0, 1, 2) == 4058915386
    assert hash_range(hash32(5), 3).tolist() == [999520570, 1993180225, 3046238882]
    assert permutation(7, 8).tolist() == [4, 3, 5, 7, 0, 6, 1, 2]


def test_permutation_is_one_and_differs_by_key() -> None:
    assert sorted(permutation(3, 100_000).tolist()) == list(range(100_000))
    assert not np.array_equal(permutation(3, 50), permutation(4, 50))


def test_hash_range_is_even() -> None:
    share = hash_range(9, 1 << 16).astype(np.float64) / 2**32
    counts = np.histogram(share, bins=16, range=(0, 1))[0]
    assert np.abs(counts - 4096).max() < 250  # four standard deviations
    assert abs(np.corrcoef(share[:-1], share[1:])[0, 1]) < 0.02


def test_draws_cover_their_range() -> None:
    draws = Draws(1, 2)
    values = [draws.between(-2, 2) for _ in range(400)]
    assert set(values) == {-2, -1, 0, 1, 2}
    other = Draws(1, 2)
    assert [other.between(-2, 2) for _ in range(400)] == values
