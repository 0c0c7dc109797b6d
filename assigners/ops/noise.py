"""Randomness as a pure function: the same draw on any device, in any batch, on any rank, with nothing to checkpoint.

A counter-based integer hash replaces the generator. Its keys name the draw (image, box, level, index), so that
stacking images, splitting a batch over processes or adding a box cannot move any other draw. It works on tensors, on
their device; `harness.data.hashing` has it for the images, in NumPy.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


Bits = TypeVar("Bits", int, Tensor)


def _mix(x: Bits) -> Bits:
    # Two multiply-xorshift rounds on 32 bits kept in int64 (constants: C. Wellons' "lowbias32" search). The product
    # may wrap around 64 bits; its low 32 bits, all that is kept, are right either way.
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def hash32(seed: int, step: int, stream: int, *keys: Tensor) -> Tensor:
    """A 32-bit hash (in int64) of host numbers and broadcast integer tensors.

    Args:
        seed, step: of the training run.
        stream: tells apart independent uses, such as the noise of draws and the priority of ties.
        keys: int64 tensors, >= 0, that name a draw; each counts with its low 62 bits.
    """
    state = 0
    for word in (seed, step, stream):
        for part in (word & _MASK, (word >> 32) & _MASK):
            state = _mix((state * 0x9E3779B1 + part + 0x85EBCA6B) & _MASK)
    hashed: Tensor | int = state
    for key in keys:
        hashed = _mix(((hashed * 0x9E3779B1) + (key & _MASK) + 0x85EBCA6B) & _MASK)
        hashed = _mix(((hashed * 0x9E3779B1) + (key >> 32) + 0xC2B2AE35) & _MASK)
    return hashed if isinstance(hashed, Tensor) else torch.tensor(hashed)


def uniform(seed: int, step: int, stream: int, *keys: Tensor) -> Tensor:
    """Uniform float64 strictly inside (0, 1), one per element of the broadcast keys."""
    return (hash32(seed, step, stream, *keys).double() + 0.5) / 2.0**32
