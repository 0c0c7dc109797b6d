"""Randomness of the data side as a pure function of named integers.

A 32-bit counter-based hash replaces generators: nothing has a state to save, and a draw depends on what it is for
and never on which worker, batch or process asks for it. Integers alone, so that every machine gets the same bits, and
without torch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from assigners.ops.mixing import GOLDEN, MASK, hash32, mix

Words = npt.NDArray[np.uint32]

__all__ = ["Draws", "hash32", "hash_range", "permutation"]


def hash_range(key: int, count: int) -> Words:
    """The hashes ``[count]`` of counters ``0..count-1`` under a 32-bit key. Work in uint32: numpy wraps exactly."""
    x = np.arange(count, dtype=np.uint32) * np.uint32(GOLDEN) + np.uint32(key)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def permutation(key: int, count: int) -> npt.NDArray[np.int64]:
    """A permutation of ``0..count-1`` that is a pure function of the key."""
    # Stable, so that equal hashes (likely beyond 2**16 items) cannot be ordered differently elsewhere.
    return np.argsort(hash_range(key, count), kind="stable").astype(np.int64)


class Draws:
    """A sequence of integer draws under one key."""

    def __init__(self, *words: int) -> None:
        self._key = hash32(*words)
        self._count = 0

    def key(self) -> int:
        """A fresh 32-bit key."""
        self._count += 1
        return mix((self._key + self._count * GOLDEN) & MASK)

    def between(self, low: int, high: int) -> int:
        """A whole number in ``low..high``, both included."""
        return low + ((self.key() * (high - low + 1)) >> 32)
