"""The parts that likelihood assigners share, against formulas written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assigners.parts import class_cost
from assigners.parts.likelihood import group_logsumexp, match_map, own_and_negative


def inputs(seed: int, rows: int, classes: int, spread: float = 3.0):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(spread * rng.standard_normal((rows, classes))).requires_grad_()
    objectness = torch.from_numpy(spread * rng.standard_normal(rows)).requires_grad_()
    match = torch.from_numpy(rng.uniform(0, 1, (rows, classes)) * rng.integers(0, 2, (rows, classes)))
    return logits, objectness, match, torch.from_numpy(rng.integers(0, 2, rows).astype(np.float64))


def negative_focal(logits, objectness, match, weight, gamma):
    """The loss alone."""
    return own_and_negative(logits, objectness, match, weight, torch.zeros(0, dtype=torch.long), gamma)[1]


def written_out(logits, objectness, match, weight, gamma):
    there = 1.0 if objectness is None else objectness.sigmoid()[:, None]
    u = logits.sigmoid() * there * (1 - match)
    return (weight[:, None] * u.pow(gamma) * -torch.log1p(-u)).sum()


@given(st.integers(0, 99), st.integers(0, 40), st.integers(1, 7), st.sampled_from([0.0, 1.0, 2.0, 2.5]), st.booleans())
def test_value_and_gradient_of_negative_focal(seed, rows, classes, gamma, certain):
    logits, objectness, match, weight = inputs(seed, rows, classes)
    given_objectness = None if certain else objectness
    expected = written_out(logits, given_objectness, match, weight, gamma)
    wanted = torch.autograd.grad(expected, [logits] if certain else [logits, objectness])
    total = negative_focal(logits, given_objectness, match.clone(), weight, gamma)
    got = torch.autograd.grad(3 * total, [logits] if certain else [logits, objectness])
    torch.testing.assert_close(total, expected)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, 3 * theirs)


@given(st.integers(0, 99), st.integers(1, 9), st.integers(0, 30))
def test_own_logits_and_their_gradient(seed, rows, pairs):
    """Channels repeat where boxes of a class share a location; the loss has its part in the same gradient."""
    logits, objectness, match, weight = inputs(seed, rows, 3)
    rng = np.random.default_rng(seed)
    channel, slope = torch.from_numpy(rng.integers(0, rows * 3, pairs)), torch.from_numpy(rng.standard_normal(pairs))
    expected = written_out(logits, objectness, match, weight, 2.0)
    own, total = own_and_negative(logits, objectness, match.clone(), weight, channel, 2.0)
    assert torch.equal(own, logits.flatten()[channel])
    wanted = torch.autograd.grad((slope * logits.flatten()[channel]).sum() + 2 * expected, (logits, objectness))
    got = torch.autograd.grad((slope * own).sum() + 2 * total, (logits, objectness), retain_graph=True)
    torch.testing.assert_close(got, wanted)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(total, (logits, objectness))


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_do_not_matter(block, monkeypatch):
    logits, objectness, match, weight = inputs(0, 50, 3)
    whole = negative_focal(logits, objectness, match.clone(), weight, 2.0)
    expected = torch.autograd.grad(whole, (logits, objectness))
    monkeypatch.setattr(class_cost, "CPU_BLOCK", block)
    parts = negative_focal(logits, objectness, match.clone(), weight, 2.0)
    torch.testing.assert_close(parts, whole)
    for ours, theirs in zip(torch.autograd.grad(parts, (logits, objectness)), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_confident_negatives_in_float32():
    """A score of nearly 1 lacks less than float32 can subtract from 1."""
    logits = torch.tensor([[30.0], [50.0], [-50.0], [1000.0]], requires_grad=True)
    total = negative_focal(logits, None, torch.zeros(4, 1), torch.tensor([1.0, 1, 1, 0]), 2.0)
    assert total.item() == pytest.approx(80.0, rel=1e-6)
    (gradient,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(gradient, torch.tensor([[1.0], [1.0], [0.0], [0.0]]), atol=1e-6, rtol=0)


def test_without_gradient_the_match_stays():
    logits, objectness, match, weight = inputs(1, 9, 2)
    before = match.clone()
    with torch.no_grad():
        total = negative_focal(logits, objectness, match, weight, 2.0)
    torch.testing.assert_close(total, written_out(logits, objectness, match, weight, 2.0).detach())
    assert torch.equal(match, before)


@given(st.integers(0, 99), st.integers(0, 30), st.sampled_from([1.0, 300.0]))
def test_group_logsumexp(seed, count, spread):
    """Also where every exponential on its own is 0 or infinite."""
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(spread * rng.standard_normal(count)).float().requires_grad_()
    group = torch.from_numpy(rng.integers(0, 4, count))
    got = group_logsumexp(values, group, 5)
    for index in range(5):
        own = values[group == index]
        expected = torch.logsumexp(own, 0) if len(own) else torch.tensor(0.0)
        torch.testing.assert_close(got[index], expected)
        if len(own):
            gradient = torch.autograd.grad(got[index], values, retain_graph=True)[0]
            wanted = torch.zeros(count).masked_scatter(group == index, own.softmax(0).detach())
            torch.testing.assert_close(gradient, wanted)


def test_match_map_keeps_the_largest():
    match = match_map(torch.tensor([0.2, 0.9, 0.5]), torch.tensor([4, 4, 0]), torch.zeros(1, 2, 3))
    assert torch.equal(match, torch.tensor([[0.5, 0, 0], [0, 0.9, 0]]))
