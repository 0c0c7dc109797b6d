"""Running an assigner on a scene, and comparing its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assigners.contract import Assigner, Assignment, Predictions, Samples, Targets
from harness.verify.scenes import Scene

Factory = Callable[[Scene], Assigner]
"""Builds the assigner in question for a scene's detector."""

Table = NDArray[np.float64]

ROUNDING = 2e-3  # cells; matrix products round differently for another number of rows, and draws follow
WEIGHTS = 1e-5  # of negative weights
COLUMNS = ("box", "level", "column", "row", "positive", "label", "class weight", "box weight", "quality weight")


class Violation(AssertionError):  # noqa: N818 - named for what the user sees
    """An assigner breaks its contract; the message says what was expected."""


def expect(condition: bool | Tensor, message: str) -> None:
    """Hold the contract, also where Python runs without assertions.

    Raises:
        Violation: with the message, if the condition does not hold.
    """
    if not bool(condition):
        raise Violation(message)


def perturbed(assigner: Assigner, seed: int) -> Assigner:
    """The assigner with its own parameters, where it has any, moved away from their uniform start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in assigner.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return assigner


def run(assigner: Assigner, scene: Scene, *, index: int = 0, seed: int = 0) -> Assignment:
    """The answer to a scene."""
    answer: Assignment = assigner(scene.grid, scene.targets(), scene.predictions(), scene.step(index=index, seed=seed))
    return answer


def own_parameters(assigner: Assigner) -> dict[str, Tensor]:
    """Parameters by name."""
    return dict(assigner.named_parameters())


def tolerance(assigner: Assigner, answer: Assignment) -> float:
    """How far coordinates and labels may move between batches that should not matter.

    On the grid and without parameters there is neither a matrix product nor a coordinate to round: exact arithmetic.
    """
    return 0.0 if answer.samples.on_grid and not own_parameters(assigner) else ROUNDING


def expect_equal(a: Assignment, b: Assignment, what: str) -> None:
    """Bit for bit, losses and statistics included."""
    for name in (f.name for f in fields(a.samples)):
        left, right = getattr(a.samples, name), getattr(b.samples, name)
        same = torch.equal(left, right) if isinstance(left, Tensor) else left == right
        expect(same, f"{what}: expected the same samples bit for bit, but `{name}` differs")
    expect(torch.equal(a.negative_weight, b.negative_weight), f"{what}: expected the same negative weights")
    for mine, yours in ((a.losses, b.losses), (a.statistics, b.statistics)):
        expect(mine.keys() == yours.keys(), f"{what}: expected the same terms, got {sorted(mine)} and {sorted(yours)}")
        for key in mine:
            same = all(torch.equal(x, y) for x, y in zip(mine[key], yours[key], strict=True))
            expect(same, f"{what}: expected the same {key!r}")


def rows(assignment: Assignment, gt_order: Tensor | None = None) -> Table:
    """The existing samples, one per row, sorted: gt, level, u, v, positive, label and the three weights."""
    s = assignment.samples
    gt = s.gt if gt_order is None else gt_order[s.gt]
    columns = [gt, s.level, *s.uv.unbind(1), s.positive, s.label, s.class_weight, s.box_weight, s.quality_weight]
    table: Table = torch.stack([c.detach().double() for c in columns], dim=1)[s.ok].cpu().numpy()
    return table[np.lexsort(table.T[::-1])]


def expect_close_rows(a: Table, b: Table, atol: float, what: str) -> None:
    """The same samples, each number within `atol`."""
    expect(a.shape == b.shape, f"{what}: expected the same samples, got {len(a)} and {len(b)} of them")
    wrong = np.argwhere(~(np.abs(a - b) <= atol))
    if len(wrong):
        row, column = wrong[0].tolist()
        where = f"box {a[row, 0]:g} level {a[row, 1]:g} ({a[row, 2]:g}, {a[row, 3]:g})"
        raise Violation(
            f"{what}: expected the same samples within {atol:g}, but {COLUMNS[column]} of the sample at {where} is "
            f"{a[row, column]:.6g} and {b[row, column]:.6g}"
        )


def expect_close(a: Tensor, b: Tensor, what: str, rtol: float = 0.0, atol: float = WEIGHTS) -> None:
    """The same numbers up to rounding."""
    expect(a.shape == b.shape, f"{what}: expected one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    expect(torch.allclose(a, b, rtol=rtol, atol=atol), f"{what}: expected the same up to {max(rtol, atol):g}")


def expect_finite(answer: Assignment, what: str) -> None:
    """No NaN and no infinity in anything that training reads."""
    for name in (f.name for f in fields(answer.samples)):
        value = getattr(answer.samples, name)
        if isinstance(value, Tensor):
            expect(torch.isfinite(value.float()).all(), f"{what}: expected finite samples, but `{name}` is not")
    expect(torch.isfinite(answer.negative_weight).all(), f"{what}: expected finite negative weights")
    for kind, terms in (("loss", answer.losses), ("statistic", answer.statistics)):
        for key, (total, count) in terms.items():
            finite = torch.isfinite(total).all() and torch.isfinite(count.float()).all()
            expect(finite, f"{what}: expected a finite {kind} {key!r}, got {total.item():g} / {count.item():g}")


def expect_connected(assigner: Assigner, answer: Assignment) -> None:
    """Every parameter gets a finite gradient, zero or not: DistributedDataParallel waits for all of them."""
    parameters = own_parameters(assigner)
    if not parameters:
        return
    expect(bool(answer.losses), "an assigner with parameters must return a loss that reaches them, also without boxes")
    total = torch.stack([total for total, _ in answer.losses.values()]).sum()
    expect(total.requires_grad, "no loss reaches the assigner's parameters; add 0 * their sum where it has none")
    total.backward()
    for key, parameter in parameters.items():
        expect(parameter.grad is not None, f"parameter {key} is not connected to the losses; add 0 * its sum to one")
        expect(torch.isfinite(parameter.grad).all(), f"the gradient of parameter {key} is not finite")  # type: ignore[arg-type]


def pixels(assignment: Assignment, scene: Scene) -> Tensor:
    """Pixel position ``[S, 2]`` of the samples, in float64."""
    s = assignment.samples
    return (s.uv.double() + scene.offset) * scene.grid.level_stride[s.level].double().unsqueeze(1)


def map_tensors(predictions: Predictions, change: Callable[[Tensor], Tensor]) -> Predictions:
    """The predictions with `change` applied to every map."""
    return Predictions(
        logits=change(predictions.logits),
        quality=change(predictions.quality),
        distances=change(predictions.distances),
        boxes=change(predictions.boxes),
        features=tuple(change(f) for f in predictions.features),
    )


def permuted(targets: Targets, order: Tensor) -> Targets:
    """The boxes in another order within their images, each keeping the slot that names it."""
    return replace(
        targets,
        boxes=targets.boxes[order],
        labels=targets.labels[order],
        image=targets.image[order],
        slot=targets.slot[order],
    )


def on_host(answer: Assignment) -> Assignment:
    """Samples and negative weights on the CPU; losses and statistics are left out."""
    samples: dict[str, Any] = {
        f.name: v.cpu() if isinstance(v := getattr(answer.samples, f.name), Tensor) else v for f in fields(Samples)
    }
    return Assignment(Samples(**samples), answer.negative_weight.cpu())
