"""Sparse optimal transport against the dense log-domain textbook, and what a plan must satisfy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from assigners.parts.sinkhorn import Plan, transport
from harness.verify.published.oracles.ota import sinkhorn


@dataclass(frozen=True)
class Problem:
    """Boxes of a batch with their candidates.

    Attributes:
        advantage, cell, ok: ``[G, n]``; supply, image: ``[G]``; shape: (B, R).
    """

    advantage: torch.Tensor
    cell: torch.Tensor
    ok: torch.Tensor
    supply: torch.Tensor
    image: torch.Tensor
    shape: tuple[int, int]

    def solve(self, iterations: int) -> Plan:
        return transport(self.advantage, self.cell, self.ok, self.supply, self.image, self.shape, iterations)

    def dense(self, plan: Plan) -> NDArray[np.float64]:
        """``[G, B, R]`` of the boxes' labels."""
        table = torch.zeros(len(self.supply), self.shape[0] * self.shape[1], dtype=torch.float64)
        return table.scatter_add(1, self.cell, plan.boxes).view(-1, *self.shape).numpy()

    def select(self, rows: torch.Tensor) -> Problem:
        return replace(
            self, advantage=self.advantage[rows], cell=self.cell[rows], ok=self.ok[rows], supply=self.supply[rows],
            image=self.image[rows],
        )  # fmt: skip


@st.composite
def problems(draw: st.DrawFn, *, spread: tuple[float, ...] = (1.0, 30.0, 400.0), full: bool = False) -> Problem:
    """Random candidates; with `full`, supplies that some positive plan meets exactly."""
    images, places = draw(st.integers(1, 3)), draw(st.integers(8, 30))
    boxes = draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    location = np.stack([rng.permutation(places)[:8] for _ in range(boxes)])
    image = np.sort(rng.integers(0, images, boxes))
    ok = np.ones((boxes, 8), bool) if full else rng.random((boxes, 8)) < 0.7
    advantage = draw(st.sampled_from(spread)) * rng.uniform(-1, 1, (boxes, 8))
    supply = rng.integers(1, 5, boxes).astype(float)
    if full:
        share = rng.uniform(0.5, 1.5, (boxes, 8))
        total = np.ones((images, places))  # of which the background's part is 1
        np.add.at(total, (image[:, None], location), share)
        supply = (share / total[image[:, None], location]).sum(axis=1)
    return Problem(
        torch.from_numpy(advantage), torch.from_numpy(image[:, None] * places + location), torch.from_numpy(ok),
        torch.from_numpy(supply), torch.from_numpy(image), (images, places),
    )  # fmt: skip


def textbook(problem: Problem, image: int, iterations: int, common: float = 0.0) -> NDArray[np.float64]:
    """Plan ``[n + 1, R]`` of one image's boxes that have candidates; every location costs something on top for all."""
    rng = np.random.default_rng(0)
    places = problem.shape[1]
    rows = np.flatnonzero((problem.image.numpy() == image) & problem.ok.any(1).numpy())
    cost = np.full((len(rows) + 1, places), np.inf)
    cost[-1] = 0
    for i, row in enumerate(rows):
        for a, cell, ok in zip(problem.advantage[row], problem.cell[row], problem.ok[row], strict=True):
            if ok:
                cost[i, int(cell) - image * places] = -float(a)
    supply = problem.supply.numpy()[rows]
    cost += common * rng.uniform(-1, 1, places)
    return sinkhorn(cost, np.array([*supply, max(places - supply.sum(), 1)]), 1.0, iterations)


@given(problems(), st.sampled_from([1, 2, 7, 50]), st.sampled_from([0.0, 50.0]))
def test_equals_the_textbook_after_any_number_of_steps(problem, iterations, common):
    """Also where a location's costs have a part in common, which the sparse form never sees."""
    plan = problem.solve(iterations)
    table = problem.dense(plan)
    for image in range(problem.shape[0]):
        theirs = textbook(problem, image, iterations, common)
        rows = np.flatnonzero((problem.image.numpy() == image) & problem.ok.any(1).numpy())
        np.testing.assert_allclose(table[rows, image], theirs[:-1], rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(plan.background[image], theirs[-1], rtol=1e-5, atol=1e-9)


@given(problems(), st.sampled_from([1, 50]))
def test_suppliers_give_away_exactly_what_they_have(problem, iterations):
    plan = problem.solve(iterations)
    has = problem.ok.any(1)
    given_away = torch.where(has, problem.supply, 0)
    torch.testing.assert_close(plan.boxes.sum(1), given_away, rtol=1e-9, atol=1e-9)
    of_image = torch.zeros(problem.shape[0], dtype=torch.float64).index_add(0, problem.image, given_away)
    rest = (problem.shape[1] - of_image).clamp(min=1)
    torch.testing.assert_close(plan.background.sum(1), rest, rtol=1e-9, atol=1e-9)
    assert (plan.boxes[~problem.ok] == 0).all()
    assert (plan.boxes >= 0).all()


@given(problems(spread=(1.0, 3.0), full=True))
def test_every_location_gets_one_label_in_the_limit(problem):
    def worst(iterations: int) -> float:
        plan = problem.solve(iterations)
        return float(np.abs(problem.dense(plan).sum(0) + plan.background.numpy() - 1).max())

    assert worst(500) < 1e-6
    assert worst(50) < 0.2


@given(problems(spread=(1.0, 3.0), full=True), st.floats(-20, 20))
def test_a_constant_on_top_of_a_boxes_costs_changes_nothing_in_the_limit(problem, constant):
    first = torch.arange(len(problem.supply))[:, None] == 0
    dearer = replace(problem, advantage=problem.advantage - torch.where(first, constant, 0.0))
    plain, shifted = problem.solve(500), dearer.solve(500)
    torch.testing.assert_close(plain.boxes, shifted.boxes, rtol=0, atol=1e-6)
    torch.testing.assert_close(plain.background, shifted.background, rtol=0, atol=1e-6)


@given(problems())
@settings(max_examples=10)
def test_images_do_not_see_each_other(problem):
    together = problem.solve(20)
    for image in range(problem.shape[0]):
        rows = problem.image == image
        part = problem.select(rows)
        shape = (1, problem.shape[1])
        alone = replace(part, cell=part.cell - image * shape[1], image=torch.zeros_like(part.image), shape=shape)
        plan = alone.solve(20)
        torch.testing.assert_close(plan.boxes, together.boxes[rows], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(plan.background[0], together.background[image], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e5, 3e7])
@pytest.mark.parametrize("sign", [1, -1, 0])
def test_costs_beyond_the_range_of_numbers(size, sign):
    """Costs that exp cannot hold, all of one sign or of both: the plan is finite and the suppliers are served."""
    rng = np.random.default_rng(0)
    advantage = torch.from_numpy(size * (rng.uniform(0.5, 1, (40, 8)) * sign if sign else rng.uniform(-1, 1, (40, 8))))
    cell = torch.from_numpy(np.stack([rng.permutation(20)[:8] for _ in range(40)]))
    supply, image = torch.full((40,), 3.0), torch.zeros(40, dtype=torch.long)
    plan = transport(advantage, cell, torch.ones_like(cell, dtype=torch.bool), supply, image, (1, 20), 50)
    assert torch.isfinite(plan.boxes).all()
    assert torch.isfinite(plan.background).all()
    torch.testing.assert_close(plan.boxes.sum(1), supply.double(), rtol=1e-9, atol=0)


def test_boxes_that_contest_one_location_for_long():
    """No plan can serve them: their potentials grow with every step."""
    one = torch.ones(40, 1)
    plan = transport(
        one, torch.zeros(40, 1, dtype=torch.long), one.bool(), one[:, 0], torch.zeros(40).long(), (1, 99), 500
    )
    torch.testing.assert_close(plan.boxes, one.double())
    assert plan.background.sum().item() == pytest.approx(59)


def test_the_background_has_a_label_left_where_boxes_outnumber_locations():
    one = torch.ones(30, 1)
    plan = transport(
        one, torch.zeros(30, 1, dtype=torch.long), one.bool(), one[:, 0], torch.zeros(30).long(), (1, 9), 5
    )
    assert plan.background.sum().item() == pytest.approx(1)


def test_without_boxes_the_background_has_it_all():
    nothing = torch.zeros(0, 5)
    plan = transport(nothing, nothing.long(), nothing.bool(), nothing[:, 0], nothing[:, 0].long(), (2, 7), 50)
    torch.testing.assert_close(plan.background, torch.ones(2, 7, dtype=torch.float64))
