"""The integer hash behind all that is drawn: for images without torch, on tensors in `assigners.ops.noise`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

MASK = 0xFFFFFFFF
GOLDEN = 0x9E3779B1  # 2**32 / golden ratio, odd: spreads consecutive counters over the whole range
SALT = 0x85EBCA6B

Bits = TypeVar("Bits", int, "Tensor")


def mix(x: Bits) -> Bits:
    """Two multiply-xorshift rounds on 32 bits, kept in 64 (constants: C. Wellons' "lowbias32" search).

    The product may wrap around 64 bits; its low 32 bits, all that is kept, are right either way.
    """
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & MASK
    return x ^ (x >> 16)


def hash32(*words: int) -> int:
    """A 32-bit hash of integers, of which the low 64 bits count, and of their order."""
    state = 0
    for word in words:
        for part in (word & MASK, (word >> 32) & MASK):
            state = mix((state * GOLDEN + part + SALT) & MASK)
    return state
