"""One assigner in somebody else's detector: plain tensors in, plain tensors out.

    answer = assign("atss", points, strides, boxes, labels)
    answer.dense().assigned                      # [B, R]: which box each location learns, -1 background, -2 ignored

Nothing of `detector` or `harness` is needed. Shape letters are those of `assigners.contract`; S counts the rows of
the answer. Boxes are read on the host and rows are selected by a mask, so a call waits for the device; a detector
that minds implements `assigners.contract` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from assigners.adapters.plain_input import Truth, grid_of, read_truth, visible
from assigners.contract import Assigner, Assignment, HeadInfo, Step, Term
from assigners.grid import Grid
from assigners.registry import create

BACKGROUND, IGNORED = -1, -2  # in `DenseAssignment.assigned`


@dataclass(frozen=True)
class DenseAssignment:
    """What every location learns, in the form that most detectors' losses take.

    Attributes:
        assigned: ``[B, R]`` int64 position of the box in its image's list, `BACKGROUND` or `IGNORED`.
        class_id: ``[B, R]`` int64 class of that box, -1 where there is none.
        label: ``[B, R]`` target of that class in [0, 1], 0 where there is none.
        class_weight: ``[B, R]`` of the location in the class loss, over all classes; 0 where ignored.
        box_weight, quality_weight: ``[B, R]``, 0 where there is no box.
    """

    assigned: Tensor
    class_id: Tensor
    label: Tensor
    class_weight: Tensor
    box_weight: Tensor
    quality_weight: Tensor


@dataclass(frozen=True)
class PlainAssignment:
    """An assigner's answer as flat rows, one per sample; all of them exist.

    Attributes:
        image: ``[S]`` int64 position in the batch.
        gt: ``[S]`` int64 position of the box in the list that was given for its image.
        class_id: ``[S]`` int64 class of that box.
        level: ``[S]`` int64.
        uv: ``[S, 2]`` (column, row) in cells of the level; whole numbers where `on_grid`.
        xy: ``[S, 2]`` the same place in pixels.
        positive: ``[S]`` bool; the other rows are negatives that the assigner put there itself.
        label: ``[S]`` target of the own class in [0, 1].
        class_weight, box_weight, quality_weight: ``[S]`` >= 0.
        negative_weight: ``[B, R]`` weight of every location as a negative of every class, 0 = ignored.
        losses: the assigner's further losses as ``(sum, count)``, not divided.
        replaces: of ``class``, ``box`` and ``quality``, the losses of a detector that these stand for.
        on_grid: every row stands on a location. Otherwise interpolate the maps at `uv`, bilinearly.
        all_classes: a row supervises the other classes as zero at its own place too.
        grid: the locations.
        name: of the assigner.
    """

    image: Tensor
    gt: Tensor
    class_id: Tensor
    level: Tensor
    uv: Tensor
    xy: Tensor
    positive: Tensor
    label: Tensor
    class_weight: Tensor
    box_weight: Tensor
    quality_weight: Tensor
    negative_weight: Tensor
    losses: dict[str, Term]
    replaces: frozenset[str]
    on_grid: bool
    all_classes: bool
    grid: Grid = field(repr=False)
    name: str

    @property
    def location(self) -> Tensor:
        """``[S]`` int64 index of the row's location among all R.

        Raises:
            ValueError: if the rows stand between the locations.
        """
        if not self.on_grid:
            raise ValueError(f"{self.name} samples between the locations: use level and uv, there is no location")
        return self.grid.location(self.level, self.uv)

    def dense(self) -> DenseAssignment:
        """The answer of a grid assigner, by location.

        Raises:
            ValueError: if the answer has no such form: losses in place of the detector's, rows between the locations,
                negatives among the rows, two boxes at one location.
        """
        if self.replaces:
            terms = " and ".join(sorted(self.replaces))
            raise ValueError(f"{self.name} has losses in place of the {terms} loss: use these, there is no dense form")
        if not self.on_grid:
            raise ValueError(f"{self.name} samples between the locations: use its rows, there is no dense form")
        if not bool(self.positive.all()):
            raise ValueError(f"{self.name} puts negatives on its positives' locations: use its rows")
        place, negative = (self.image, self.location), self.negative_weight
        claims = torch.zeros_like(negative).index_put(place, torch.ones_like(self.label), accumulate=True)
        if bool((claims > 1).any()):
            raise ValueError(f"{self.name} gives one location to two boxes: use its rows, there is no dense form")
        unassigned = torch.where(negative > 0, BACKGROUND, IGNORED)
        nothing = torch.zeros_like(negative)
        return DenseAssignment(
            assigned=unassigned.index_put(place, self.gt),
            class_id=torch.full_like(unassigned, -1).index_put(place, self.class_id),
            label=nothing.index_put(place, self.label),
            class_weight=negative.index_put(place, self.class_weight),
            box_weight=nothing.index_put(place, self.box_weight),
            quality_weight=nothing.index_put(place, self.quality_weight),
        )


def assign(
    assigner: str | Assigner,
    points: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    logits: Tensor | None = None,
    predicted_boxes: Tensor | None = None,
    quality: Tensor | None = None,
    features: Sequence[Tensor] = (),
    ignore: Sequence[Tensor] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    image_ids: Sequence[int] | None = None,
    step: Step | None = None,
    **options: object,
) -> PlainAssignment:
    """Assign one batch.

    Args:
        assigner: a registered name, or an object of `assigners.create`. One with parameters of its own (``iqdet``)
            must be an object: it lives from step to step, and its parameters belong to your optimiser.
        points: per level ``[n_l, 2]`` x, y in pixels of the network input, row by row, at
            ``((column + o) * stride, (row + o) * stride)`` with one ``o`` in [0, 1] for all levels.
        strides: pixels per cell, per level.
        boxes: per image ``[n, 4]`` xyxy pixels. They are clipped; what is left below 1 px takes part in nothing.
        labels: per image ``[n]`` class ids ``0..C-1``.
        logits: ``[B, R, C]`` class logits. These four are for assigners that read them.
        predicted_boxes: ``[B, R, 4]`` decoded xyxy pixels.
        quality: ``[B, R]`` logit of the auxiliary branch.
        features: per level ``[B, D, H_l, W_l]``.
        ignore: per image ``[m, 4]`` regions without negatives.
        sizes: per image ``(height, width)`` in pixels to clip boxes to; where absent, the extent of the points.
        image_ids: per image, for assigners with randomness; the position in the batch where absent.
        step: where training stands, for schedules and randomness.
        **options: of the assigner, together with a name.

    Raises:
        ValueError: for tensors of a wrong shape, points off the grid, boxes that are not finite, a prediction that
            the assigner reads and did not get.
        RegistryError: for an unknown name or option.
    """
    grid = grid_of(points, strides)
    truth = read_truth(grid, boxes, labels, logits, ignore=ignore, sizes=sizes, image_ids=image_ids)
    name, chosen = type(assigner).__name__, assigner
    if isinstance(chosen, str):
        head = HeadInfo(
            num_classes=logits.shape[-1] if logits is not None else truth.num_classes,
            channels=features[0].shape[1] if features else 1,
            strides=grid.strides,
        )
        name, chosen = chosen, _parameterless(chosen, head, options).to(grid.points.device)
    elif options:
        raise ValueError(f"option {next(iter(options))!r} goes to assigners.create, which made the {name} object")
    given = {"logits": logits, "boxes": predicted_boxes, "quality": quality}
    predictions = visible(name, chosen.needs, grid, len(boxes), given, features)
    with torch.autocast(grid.points.device.type, enabled=False):
        answer = chosen(grid, truth.targets, predictions, step or Step())
    return _plain(name, chosen.declares.replaces, grid, truth, answer)


def _parameterless(name: str, head: HeadInfo, options: dict[str, object]) -> Assigner:
    built = create(name, head, **options)
    if next(built.parameters(), None) is not None:
        raise ValueError(
            f"assigner {name!r} learns parameters of its own, which a name cannot keep: build it once with "
            f"assigners.create({name!r}, HeadInfo(...)), give its parameters to your optimiser, and pass the object"
        )
    return built


def _plain(name: str, replaces: frozenset[str], grid: Grid, truth: Truth, answer: Assignment) -> PlainAssignment:
    rows, targets = answer.samples.select(answer.samples.ok), truth.targets
    return PlainAssignment(
        image=targets.image[rows.gt], gt=truth.position[rows.gt], class_id=targets.labels[rows.gt], level=rows.level,
        uv=rows.uv, xy=grid.pixels(rows.level, rows.uv), positive=rows.positive, label=rows.label,
        class_weight=rows.class_weight, box_weight=rows.box_weight, quality_weight=rows.quality_weight,
        negative_weight=answer.negative_weight, losses=answer.losses, replaces=replaces, on_grid=rows.on_grid,
        all_classes=rows.all_classes, grid=grid, name=name,
    )  # fmt: skip
