"""Equality up to rounding, for numbers that two ways of computing need not round alike.

The bits of a float hang on more than its formula: a kernel treats the last elements of an array otherwise than the
first, and sums in another order for another shape, number of threads or instruction set. Bit equality may be asked only
of the same shapes in one process; everything else is compared here, or within a tolerance that fits the computation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Numbers = Tensor | NDArray[np.floating]


def assert_close_in_ulps(a: Numbers, b: Numbers, ulps: float = 8, size: float = 0.0) -> None:
    """The same numbers, each within some units in the last place of float32.

    Args:
        a, b: of one shape.
        ulps: of the larger of the two numbers.
        size: where the numbers come of terms larger than themselves, as ``1 - exp(-x)`` does: of so large a number.
    """
    first, second = (np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float64) for x in (a, b))
    assert first.shape == second.shape
    largest = np.maximum(np.maximum(np.abs(first), np.abs(second)), size).astype(np.float32)
    with np.errstate(invalid="ignore"):  # of infinities
        apart = np.where(first == second, 0, np.abs(first - second) / np.spacing(largest))
    assert (apart <= ulps).all(), f"{np.nanmax(apart):.3g} ulps apart, {int((~(apart <= ulps)).sum())} of {apart.size}"
