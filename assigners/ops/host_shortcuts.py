"""Shortcuts on the CPU, where a look at values costs nothing: a GPU would have to be waited for and takes the long way.

They change how much is computed, never what: a test holds both ways to the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def at_hand(values: Tensor) -> bool:
    """Whether a look at the values costs nothing; of subclasses (fake, traced) there may be none to look at."""
    return type(values) is Tensor and values.device.type == "cpu"


def none_left(mask: Tensor) -> bool:
    """Whether no entry is true; False where that is not known."""
    return at_hand(mask) and not bool(torch.any(mask))


def worth_keeping(ok: Tensor) -> Tensor | slice:
    """What to index lists with to drop the rows without `ok` ``[P]``; all rows where they are not known."""
    return ok.nonzero().squeeze(1) if at_hand(ok) else slice(None)
