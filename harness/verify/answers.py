"""Running an assigner on a scene, and comparing its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assigners.contract import Assigner, Assignment, Predictions, Step, Targets
from assigners.ops.records import map_tensors, tensors
from harness.verify.scenes import VerifyScene

Factory = Callable[[VerifyScene], Assigner]
"""Builds the assigner in question for a scene's detector."""

Table = NDArray[np.float64]
Terms = dict[str, tuple[float, float]]

ROUNDING = 2e-3  # cells; matrix products round differently for another number of rows, and draws follow
WEIGHTS = 1e-5  # of labels and weights; kernels round otherwise at another place of another shape
LOSSES = 1e-4  # relative; sums are taken in another order
TAUGHT = {"class": "logits", "quality": "quality", "box": "distances"}  # what a shared term teaches
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


def run(
    assigner: Assigner, scene: VerifyScene, *, targets: Targets | None = None, maps: Predictions | None = None,
    index: int = 0, seed: int = 0, progress: float = 0.5,
) -> Assignment:  # fmt: skip
    """The answer to a scene, or to other targets or predictions in place of its own, at a moment of training."""
    targets = scene.targets() if targets is None else targets
    maps = scene.predictions(grads=assigner.needs.grads) if maps is None else maps
    answer: Assignment = assigner(scene.grid, targets, maps, Step(seed=seed, index=index, progress=progress))
    return answer


def run_with_maps(assigner: Assigner, scene: VerifyScene) -> tuple[Assignment, Predictions]:
    """The answer to a scene, and the predictions that it was given."""
    maps = scene.predictions(grads=assigner.needs.grads)
    return run(assigner, scene, maps=maps), maps


def total_loss(answer: Assignment) -> Tensor:
    """The sum of all losses."""
    return torch.stack([total for total, _ in answer.losses.values()]).sum()


def tolerance(assigner: Assigner, answer: Assignment) -> float:
    """How far coordinates, labels and weights may move between inputs of other shapes that should not matter.

    On the grid and without parameters there is neither a matrix product nor a coordinate to round: whole numbers, and
    labels and weights that differ by their rounding alone.
    """
    return WEIGHTS if answer.samples.on_grid and not [*assigner.parameters()] else ROUNDING


def expect_equal(a: Assignment, b: Assignment, what: str) -> None:
    """Bit for bit, losses and statistics included: of the same computation on the same shapes alone."""
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
    """The same samples, each number within `atol`; a weight above 1 within as much of itself."""
    expect(a.shape == b.shape, f"{what}: expected the same samples, got {len(a)} and {len(b)} of them")
    size = np.maximum(np.abs(b), 1)
    size[:, : COLUMNS.index("label")] = 1
    wrong = np.argwhere(~(np.abs(a - b) <= atol * size))
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


def expect_finite(answer: Assignment, what: str, *, terms: bool = True) -> None:
    """No NaN and no infinity in anything that training reads, losses and statistics (`terms`) included."""
    for name, value in tensors(answer.samples).items():
        expect(torch.isfinite(value.float()).all(), f"{what}: expected finite samples, but `{name}` is not")
    expect(torch.isfinite(answer.negative_weight).all(), f"{what}: expected finite negative weights")
    for kind, named in (("loss", answer.losses), ("statistic", answer.statistics)) if terms else ():
        for key, (total, count) in named.items():
            finite = torch.isfinite(total).all() and torch.isfinite(count.float()).all()
            expect(finite, f"{what}: expected a finite {kind} {key!r}, got {total.item():g} / {count.item():g}")


def expect_close_losses(a: Terms, b: Terms, what: str) -> None:
    """The same terms up to rounding: sums and the counts that divide them."""
    expect(a.keys() == b.keys(), f"{what}: expected the same losses, got {sorted(a)} and {sorted(b)}")
    for key in a:
        for part, mine, yours in zip(("sum", "count"), a[key], b[key], strict=True):
            near = abs(mine - yours) <= max(LOSSES * abs(mine), 1e-5)
            expect(near, f"{what}: expected the same {part} of loss {key!r}, got {mine:.6g} and {yours:.6g}")


def loss_values(answer: Assignment) -> Terms:
    """Sum and count of each loss, as numbers."""
    return {key: (float(total.detach()), float(count.detach())) for key, (total, count) in answer.losses.items()}


def expect_connected(assigner: Assigner, answer: Assignment, maps: Predictions) -> None:
    """Every parameter, and every map whose shared term is replaced, gets a finite gradient, zero or not.

    DistributedDataParallel waits for all of them, also in a batch without boxes.
    """
    taught = [name for term, name in TAUGHT.items() if term in assigner.declares.replaces]
    reached: dict[str, Tensor] = {f"parameter {key}": value for key, value in assigner.named_parameters()}
    reached |= {f"predictions.{name}": getattr(maps, name) for name in taught}
    if not reached:
        return
    expect(
        bool(answer.losses), f"an assigner with {', '.join(reached)} to teach must return a loss, also without boxes"
    )
    total = total_loss(answer)
    expect(total.requires_grad, f"no loss reaches {', '.join(reached)}; add 0 * their sum where it has none")
    gradients = torch.autograd.grad(total, tuple(reached.values()), allow_unused=True)
    for key, gradient in zip(reached, gradients, strict=True):
        if gradient is None:
            raise Violation(f"{key} is not connected to the losses; add 0 * its sum to one")
        expect(torch.isfinite(gradient).all(), f"the gradient of {key} is not finite")


def expect_positives(assigner: Assigner, answer: Assignment, maps: Predictions, boxes: int) -> None:
    """At least one positive; of an assigner that replaces the box term, a location whose distances are taught."""
    any_positive = bool(answer.samples.positive.any())
    if not any_positive and "box" in assigner.declares.replaces:
        any_positive = bool((torch.autograd.grad(total_loss(answer), maps.distances)[0] != 0).any())
    expect(any_positive, f"expected a positive for at least one of {boxes} boxes")


def pixels(assignment: Assignment, scene: VerifyScene) -> Tensor:
    """Pixel position ``[S, 2]`` of the samples, in float64."""
    s = assignment.samples
    return (s.uv.double() + scene.offset) * scene.grid.level_stride[s.level].double().unsqueeze(1)


def permuted(targets: Targets, order: Tensor) -> Targets:
    """The boxes in another order within their images, each keeping the slot that names it."""
    return replace(targets, **{name: getattr(targets, name)[order] for name in ("boxes", "labels", "image", "slot")})


def on_host(answer: Assignment) -> Assignment:
    """Samples and negative weights on the CPU; losses and statistics are left out."""
    return Assignment(map_tensors(answer.samples, Tensor.cpu), answer.negative_weight.cpu())
