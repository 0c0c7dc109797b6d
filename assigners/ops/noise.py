"""Randomness as a pure function: the same draw on any device, in any batch, on any rank, with nothing to checkpoint.

A counter-based integer hash replaces the generator. Its keys name the draw (image, box, level, index), so that
stacking images, splitting a batch over processes or adding a box cannot move any other draw. It works on tensors, on
their device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.ops import mixing
from assigners.ops.mixing import GOLDEN, MASK, SALT, mix


def hash32(seed: int, step: int, stream: int, *keys: Tensor) -> Tensor:
    """A 32-bit hash (in int64) of host numbers and broadcast integer tensors.

    Args:
        seed, step: of the training run.
        stream: tells apart independent uses, such as the noise of draws and the priority of ties.
        keys: int64 tensors, >= 0, that name a draw; each counts with its low 62 bits.
    """
    hashed: Tensor | int = mixing.hash32(seed, step, stream)
    for key in keys:
        hashed = mix(((hashed * GOLDEN) + (key & MASK) + SALT) & MASK)
        hashed = mix(((hashed * GOLDEN) + (key >> 32) + 0xC2B2AE35) & MASK)
    return hashed if isinstance(hashed, Tensor) else torch.tensor(hashed)


def uniform(seed: int, step: int, stream: int, *keys: Tensor) -> Tensor:
    """Uniform float64 strictly inside (0, 1), one per element of the broadcast keys."""
    return (hash32(seed, step, stream, *keys).double() + 0.5) / 2.0**32
