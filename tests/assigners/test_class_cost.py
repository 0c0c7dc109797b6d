"""Sums over all classes, block by block."""

from __future__ import annotations

import pytest
import torch

from assigners.parts import class_cost
from assigners.parts.class_cost import background_and_own, focal_negative


@pytest.mark.parametrize("pairs", [5, 400], ids=["few pairs", "more pairs than locations"])
@pytest.mark.parametrize("block", [1, 21, 2**17])
def test_blocks_do_not_matter(pairs, block, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 50, 7, generator=generator)
    cell = torch.randint(0, 100, (pairs,), generator=generator)
    channel = torch.randint(0, 7, (pairs,), generator=generator)
    monkeypatch.setattr(class_cost, "CPU_BLOCK", block)
    background, own = background_and_own(logits, cell, channel, focal_negative)
    rows = logits.flatten(0, 1)[cell]
    torch.testing.assert_close(background, focal_negative(rows).sum(dim=1))
    assert torch.equal(own, rows[torch.arange(pairs), channel])


def test_without_pairs_nothing_is_asked():
    none = torch.zeros(0, dtype=torch.long)
    background, own = background_and_own(torch.zeros(1, 4, 3), none, none, focal_negative)
    assert background.shape == own.shape == (0,)
