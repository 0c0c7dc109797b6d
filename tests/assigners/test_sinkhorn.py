"""Sparse optimal transport against the dense log-domain textbook, and what a plan must satisfy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, minimize

from assigners.parts.sinkhorn import Plan, transport, unbalanced
from harness.verify.published.oracles import uot
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

    def relaxed(self, iterations: int, background: float, locations: float, suppliers: float) -> Plan:
        return unbalanced(
            self.advantage, self.cell, self.ok, self.image, self.shape, iterations, background_cost=background,
            location_penalty=locations, supplier_penalty=suppliers,
        )  # fmt: skip

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


def served(problem: Problem, image: int) -> NDArray[np.int64]:
    """Boxes of an image that have candidates."""
    return np.flatnonzero((problem.image.numpy() == image) & problem.ok.any(1).numpy())


def costs(problem: Problem, image: int, background: float = 0.0) -> NDArray[np.float64]:
    """``[n + 1, R]`` of one image's boxes that have candidates, and of its background."""
    places, rows = problem.shape[1], served(problem, image)
    cost = np.full((len(rows) + 1, places), np.inf)
    cost[-1] = background
    for i, row in enumerate(rows):
        for a, cell, ok in zip(problem.advantage[row], problem.cell[row], problem.ok[row], strict=True):
            if ok:
                cost[i, int(cell) - image * places] = background - float(a)
    return cost


def textbook(problem: Problem, image: int, iterations: int, common: float = 0.0) -> NDArray[np.float64]:
    """Plan ``[n + 1, R]`` of one image's boxes that have candidates; every location costs something on top for all."""
    rng = np.random.default_rng(0)
    places, rows, cost = problem.shape[1], served(problem, image), costs(problem, image)
    supply = problem.supply.numpy()[rows]
    cost += common * rng.uniform(-1, 1, places)
    return sinkhorn(cost, np.array([*supply, max(places - supply.sum(), 1)]), 1.0, iterations)


@given(problems(), st.sampled_from([1, 2, 7, 50]), st.sampled_from([0.0, 50.0]))
def test_equals_the_textbook_after_any_number_of_steps(problem, iterations, common):
    """Also where a location's costs have a part in common, which the sparse form never sees."""
    plan = problem.solve(iterations)
    table = problem.dense(plan)
    for image in range(problem.shape[0]):
        theirs, rows = textbook(problem, image, iterations, common), served(problem, image)
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


# ---- soft sums ------------------------------------------------------------------------------------------------------


@given(
    problems(), st.sampled_from([1, 2, 7, 70]), st.sampled_from([0.0, 40.0]), st.sampled_from([0.0, 0.5, 20.0, 1e5]),
    st.sampled_from([0.0, 0.5, 20.0, 1e5]),
)  # fmt: skip
def test_soft_sums_equal_the_textbook_after_any_number_of_steps(problem, iterations, background, locations, suppliers):
    plan = problem.relaxed(iterations, background, locations, suppliers)
    table = problem.dense(plan)
    for image in range(problem.shape[0]):
        theirs = uot.transport(
            costs(problem, image, background), reg=1.0, reg_pred=locations, reg_target=suppliers, iterations=iterations
        )
        np.testing.assert_allclose(table[served(problem, image), image], theirs[:-1], rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(plan.background[image], theirs[-1], rtol=1e-5, atol=1e-9)
    assert (plan.boxes[~problem.ok] == 0).all()


# Costs of Figure 1b, 1 - GIoU of five predictions with two boxes; the background costs 0.8. The plans are what the
# authors' public code gives for these costs, in float64 with 70 iterations. It divides costs by the largest.
FIGURE = np.array([[0.61, 0.96], [1.34, 0.88], [0.88, 0.89], [0.40, 0.65], [1.11, 0.73]])
DEFAULT_REG = 0.12 / (np.log(10) + 1)
PUBLIC = {
    "both penalties 1": (
        1.34, DEFAULT_REG, 1.0, 1.0,
        [[0.23298250, 0.00805344, 0.53762266], [0.00000010, 0.05540187, 0.71522259],
         [0.00122439, 0.04563434, 0.72344579], [0.67383849, 0.18163021, 0.02082401],
         [0.00000445, 0.49954507, 0.29616261]],
    ),
    "each prediction to its closest box": (
        1.34, DEFAULT_REG, 1e3, 1e-3,
        [[0.97839560, 0.00075256, 0.02045522], [0.00001237, 0.15975141, 0.83970468],
         [0.13915126, 0.11540585, 0.74491570], [0.99352222, 0.00595909, 0.00027818],
         [0.00032233, 0.80490313, 0.19429616]],
    ),
    "each box to its closest predictions": (
        1.34, DEFAULT_REG, 0.05, 1e3,
        [[0.04194803, 0.00358507, 0.72228044], [0.00000001, 0.01892686, 0.73740786],
         [0.00016769, 0.01545243, 0.73930426], [0.95761484, 0.63819133, 0.22082049],
         [0.00000117, 0.32340428, 0.57864682]],
    ),
    "one to one, softly": (
        1.34, DEFAULT_REG, 1e3, 1e3,
        [[0.26167844, 0.01072981, 0.72711820], [0.00000010, 0.07086313, 0.92865432],
         [0.00132089, 0.05839870, 0.93979753], [0.73668362, 0.23554788, 0.02741399],
         [0.00000469, 0.62400313, 0.37554261]],
    ),
    "between, with more entropy": (
        1.0, 0.1, 0.2, 1e4,
        [[0.22247352, 0.04142599, 0.65044619], [0.00017262, 0.10589386, 0.74709120],
         [0.01708069, 0.09530185, 0.74307667], [0.75889111, 0.38412145, 0.27170279],
         [0.00135397, 0.37321057, 0.58750971]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_plans_of_the_authors_code(name):
    largest, reg, reg_pred, reg_target, expected = PUBLIC[name]
    cost = np.column_stack((FIGURE, np.full(5, 0.8))).T / largest
    theirs = uot.transport(cost, reg=reg, reg_pred=reg_pred, reg_target=reg_target, iterations=70)
    np.testing.assert_allclose(theirs.T, expected, rtol=0, atol=2e-8)
    plan = unbalanced(
        torch.from_numpy((cost[-1] - cost[:-1]) / reg), torch.arange(5).expand(2, 5),
        torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, dtype=torch.long), (1, 5), 70,
        background_cost=0.8 / largest / reg, location_penalty=reg_pred / reg, supplier_penalty=reg_target / reg,
    )  # fmt: skip
    np.testing.assert_allclose(torch.cat((plan.boxes, plan.background)).T, expected, rtol=0, atol=2e-8)


@pytest.mark.parametrize(("locations", "suppliers"), [(0.5, 2.0), (3.0, 0.2), (5.0, 5.0)])
def test_the_plan_minimises_the_objective(locations, suppliers):
    """Found by a general optimiser over the logarithms of its 3 x 4 numbers, from anywhere."""
    cost = np.array([[0.2, 1.4, 0.9, 2.0], [1.1, 0.3, 0.8, 0.7], [1.0, 1.0, 1.0, 1.0]])
    supply = np.array([1.0, 1.0, 2.0])

    def divergence(p: NDArray[np.float64], q: NDArray[np.float64] | float) -> float:
        return float((p * np.log(p / q) - p + q).sum())

    def objective(flat: NDArray[np.float64]) -> float:
        plan = np.exp(flat.reshape(3, 4))
        sums = locations * divergence(plan.sum(0), 1.0) + suppliers * divergence(plan.sum(1), supply)
        return divergence(plan, 4 * np.exp(-cost)) + sums

    best = minimize(objective, np.zeros(12), method="BFGS", options={"gtol": 1e-7})
    plan = unbalanced(
        torch.from_numpy(1 - cost[:-1]), torch.arange(4).expand(2, 4), torch.ones(2, 4, dtype=torch.bool),
        torch.zeros(2, dtype=torch.long), (1, 4), 500, background_cost=1.0, location_penalty=locations,
        supplier_penalty=suppliers,
    )  # fmt: skip
    np.testing.assert_allclose(torch.cat((plan.boxes, plan.background)), np.exp(best.x.reshape(3, 4)), rtol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_strict_sums_with_little_entropy_are_the_hungarian_matching(seed):
    """And with one of the sums free, the nearest box of every location, the nearest location of every box."""
    cost = np.random.default_rng(seed).random((4, 9))

    def solve(locations: float, suppliers: float) -> NDArray[np.float64]:
        plan = unbalanced(
            torch.from_numpy(500 * (0.3 - cost)), torch.arange(9).expand(4, 9), torch.ones(4, 9, dtype=torch.bool),
            torch.zeros(4, dtype=torch.long), (1, 9), 4000, background_cost=150.0, location_penalty=locations,
            supplier_penalty=suppliers,
        )  # fmt: skip
        return torch.cat((plan.boxes, plan.background)).numpy()

    rows, columns = linear_sum_assignment(cost)
    matched = np.zeros((4, 9), dtype=bool)
    matched[rows, columns] = True
    np.testing.assert_array_equal(solve(1e9, 1e9)[:-1] > 0.5, matched)
    nearest = np.append(cost, np.full((1, 9), 0.3), axis=0).argmin(axis=0)
    np.testing.assert_array_equal(solve(1e9, 0.0).argmax(axis=0), nearest)
    np.testing.assert_array_equal(solve(0.0, 1e9)[:-1].argmax(axis=1), cost.argmin(axis=1))


@given(problems(spread=(1.0, 3.0), full=True))
@settings(max_examples=20)
def test_strict_sums_are_those_of_optimal_transport(problem):
    """Where every box supplies one label, and both penalties are beyond measure."""
    one = replace(problem, supply=torch.ones_like(problem.supply))
    ours, theirs = one.relaxed(2000, 5.0, 1e12, 1e12), one.solve(2000)
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.background, theirs.background, rtol=0, atol=1e-4)


@given(problems(spread=(1.0, 30.0), full=True), st.sampled_from([0.2, 1.0, 5.0]))
@settings(max_examples=20)
def test_a_label_more_costs_a_box_the_penalty_times_the_logarithm_of_what_it_has(problem, suppliers):
    """How a box competes with the background once nothing changes any more: what makes masses grow, and ends it."""
    plan = problem.relaxed(1000, 10.0, 1e3, suppliers)
    supply = problem.shape[1] - np.bincount(problem.image, minlength=problem.shape[0])
    price = suppliers * plan.boxes.sum(1).log()
    rest = suppliers * (plan.background.sum(1) / torch.from_numpy(supply).clamp(min=1)).log()
    odds = problem.advantage - price[:, None] + rest[problem.image][:, None]
    expected = plan.background.flatten()[problem.cell].log() + odds
    seen = expected > -80
    torch.testing.assert_close(plan.boxes.log()[seen], expected[seen], rtol=0, atol=1e-3)


@given(problems())
@settings(max_examples=10)
def test_images_do_not_see_each_other_with_soft_sums(problem):
    together = problem.relaxed(20, 8.0, 50.0, 3.0)
    for image in range(problem.shape[0]):
        rows = problem.image == image
        part = problem.select(rows)
        shape = (1, problem.shape[1])
        alone = replace(part, cell=part.cell - image * shape[1], image=torch.zeros_like(part.image), shape=shape)
        plan = alone.relaxed(20, 8.0, 50.0, 3.0)
        torch.testing.assert_close(plan.boxes, together.boxes[rows], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(plan.background[0], together.background[image], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e5, 3e7])
@pytest.mark.parametrize("sign", [1, -1, 0])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 1e8])
def test_soft_sums_beyond_the_range_of_numbers(size, sign, penalty):
    rng = np.random.default_rng(0)
    advantage = torch.from_numpy(size * (rng.uniform(0.5, 1, (40, 8)) * sign if sign else rng.uniform(-1, 1, (40, 8))))
    cell = torch.from_numpy(np.stack([rng.permutation(20)[:8] for _ in range(40)]))
    image, ok = torch.zeros(40, dtype=torch.long), torch.ones(40, 8, dtype=torch.bool)
    for locations, suppliers in ((penalty, 1.0), (1.0, penalty), (penalty, penalty)):
        plan = unbalanced(
            advantage, cell, ok, image, (1, 20), 50, background_cost=size, location_penalty=locations,
            supplier_penalty=suppliers,
        )  # fmt: skip
        for part in (plan.boxes, plan.background):
            assert torch.isfinite(part).all()
            assert (part >= 0).all()


def test_without_boxes_the_background_gives_one_label_each():
    nothing = torch.zeros(0, 5)
    plan = unbalanced(
        nothing, nothing.long(), nothing.bool(), nothing[:, 0].long(), (2, 7), 200, background_cost=9.0,
        location_penalty=1e3, supplier_penalty=1e3,
    )  # fmt: skip
    torch.testing.assert_close(plan.background, torch.ones(2, 7, dtype=torch.float64), rtol=0, atol=0.02)
