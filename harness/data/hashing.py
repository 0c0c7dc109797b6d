"""Randomness of the data side as a pure function of named integers.

A 32-bit counter-based hash replaces generators: nothing has a state to save, and a draw depends on what it is for
and never on which worker, batch or process asks for it. Integers alone, so that every machine gets the same bits. The
hash is that of `assigners.ops.noise`, which works on tensors: data are listed and hashed without torch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B1  # 2**32 / golden ratio, odd: spreads consecutive counters over the whole range


def _mix(x: int) -> int:
    # Two multiply-xorshift rounds; constants of C. Wellons' "lowbias32" search.
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def hash32(*words: int) -> int:
    """A 32-bit hash of integers, of which the low 64 bits count, and of their order."""
    state = 0
    for word in words:
        for part in (word & _MASK, (word >> 32) & _MASK):
            state = _mix((state * _GOLDEN + part + 0x85EBCA6B) & _MASK)
    return state


def hash_range(key: int, count: int) -> Words:
    """The hashes ``[count]`` of counters ``0..count-1`` under a 32-bit key. Work in uint32: numpy wraps exactly."""
    x = np.arange(count, dtype=np.uint32) * np.uint32(_GOLDEN) + np.uint32(key)
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
        return _mix((self._key + self._count * _GOLDEN) & _MASK)

    def between(self, low: int, high: int) -> int:
        """A whole number in ``low..high``, both included."""
        return low + ((self.key() * (high - low + 1)) >> 32)
