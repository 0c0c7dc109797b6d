"""All assigners on the same frozen predictions of one batch: what they choose, and how far they agree.

    freeze: images -> detector -> Frozen      ask: assigner -> Assignment      compare: -> Insight -> JSON

Training compares assigners through detectors that have grown apart; here the detector, the images and the boxes are
the same, so that whatever differs is the rule. Measures: `harness.analysis.measures`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from assigners import registry
from assigners.contract import Assigner, Assignment, Step
from assigners.registry import AssignerSpec
from detector import FCOS
from harness.analysis import measures
from harness.analysis.measures import Floats, Footprint, Strata
from harness.analysis.one_image import as_many_classes
from harness.core.errors import UserError
from harness.data.base import ImageSet
from harness.evaluation.coco_metrics import BINS
from harness.inspection.forward import ForwardPass, forward
from harness.protocol.protocol import Protocol
from harness.records.schema import RunRecord
from harness.runs.trained import TrainedRun
from harness.training.build import attach_assigner, resolve_assigner

SCHEMA = 1
SEED = 0  # of the draws and of parameters that nothing has trained
STEP = Step(seed=SEED, index=0, progress=1.0)  # schedules stand at their end


@dataclass(frozen=True)
class FrozenBatch(ForwardPass):
    """One batch as every assigner meets it, B images with G boxes.

    Attributes:
        area: ``[G]`` square pixels in the original image.
        attributes: ``[G]`` each, those that all of the images have.
        image_ids: ``[B]``.
    """

    area: Floats
    attributes: dict[str, Floats]
    image_ids: tuple[int, ...]


@dataclass(frozen=True)
class Subject(AssignerSpec):
    """An assigner to ask."""

    of_run: bool  # it is the run's, options included


@dataclass(frozen=True)
class Insight:
    """What `compare` found. Numbers are plain, ``None`` where nothing defines them.

    Attributes:
        strides: of the levels, pixels per cell.
        boxes: how many, crowds and boxes too small to be targets left out.
        image_ids: of the batch.
        assigners: a dict per assigner, with the keys

            * ``name``, ``assigner``, ``options``, ``changed_options``;
            * ``replaces``: shared losses that its own stand for: its positives are then the locations that it names,
              and not all that its losses teach;
            * ``parameters``: ``none``, ``own`` (as the run left them), ``shared`` (those of the run's assigner, which
              fit) or ``untrained``;
            * ``positives``: how many; ``per_box``: ``boxes``, mean ``positives``, share ``without`` one; ``by``: the
              same per attribute and bin;
            * ``ambiguous``: ``cells`` that positives read, ``share`` of them that is read for two boxes or more;
            * ``outside``: shares of the positives outside their ``box`` and outside its ``centre`` half;
            * ``levels``: shares of the positives' class weight;
            * ``quality``: mean ``iou`` of the predictions there, mean ``label``, their ``rank_correlation``.
        agreement: ``all`` and each size of COCO -> ``boxes``, ``mass`` and ``cells``: matrices of Jaccard indices in
            the order of `assigners`, by bilinear mass scaled to 1 per box and of the plain sets of cells read.
    """

    strides: tuple[int, ...]
    boxes: int
    image_ids: tuple[int, ...]
    assigners: tuple[dict[str, Any], ...]
    agreement: dict[str, dict[str, Any]]

    def to_json(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """As plain JSON values, with where it comes from: run, protocol, data, command."""
        return {
            "schema": SCHEMA, **provenance, "seed": SEED, "strides": list(self.strides), "boxes": self.boxes,
            "image_ids": list(self.image_ids), "assigners": list(self.assigners), "agreement": self.agreement,
        }  # fmt: skip


def choose_subjects(record: RunRecord, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Subject]:
    """The assigners to ask, by name and options. The run's own has those of the run, unless others are given.

    Raises:
        UserError: for an unknown name or option, or an assigner that is asked for twice.
    """
    subjects: dict[str, Subject] = {}
    for assigner, options in asked:
        same = assigner == record.assigner
        trained = resolve_assigner(assigner, record.options).options if same else {}  # with options that came later
        spec = resolve_assigner(assigner, {**trained, **options})
        if spec.name in subjects:
            raise UserError(f"assigner {spec.name} is asked for twice; leave one out")
        of_run = same and spec.options == trained
        subjects[spec.name] = Subject(assigner, spec.options, spec.changed, of_run=of_run)
    return list(subjects.values())


def freeze(model: FCOS, images: ImageSet, count: int, protocol: Protocol, *, grads: bool = False) -> FrozenBatch:
    """Bring the first `count` images, or all where there are fewer, to the detector in one batch (`forward`).

    Raises:
        UserError: if the images have no box.
    """
    indices = range(min(count, len(images)))
    batch = forward(model, images, indices, protocol, grads=grads)
    if not batch.targets.num_boxes:
        raise UserError(
            f"no box in the first {len(indices)} images of split {images.split!r}; ask for more with --images"
        )

    def of_boxes(arrays: Iterable[npt.NDArray[Any]]) -> Floats:
        return np.concatenate([*arrays])[batch.rows].astype(np.float64)

    names = set.intersection(*(set(each.attributes) for each in batch.objects))
    return FrozenBatch(
        **vars(batch),
        area=of_boxes(each.area for each in batch.objects),
        attributes={name: of_boxes(each.attributes[name] for each in batch.objects) for name in names},
        image_ids=tuple(images.image_id(index) for index in indices),
    )


def ask(model: FCOS, frozen: FrozenBatch, subject: Subject, trained: Assigner) -> tuple[Assignment, str]:
    """What an assigner makes of the batch, and where its parameters are from (see `Insight`); the model keeps it.

    Args:
        trained: the run's assigner, with what it learnt.
    """
    if subject.of_run:
        assigner, parameters = trained, "own" if trained.state_dict() else "none"
        model.attach(trained)
    else:
        assigner = attach_assigner(model, subject.assigner, subject.options, SEED).to(frozen.grid.points.device)
        parameters = _teach(assigner, trained.state_dict())
    model.eval()
    with torch.autocast(frozen.grid.points.device.type, enabled=False), torch.set_grad_enabled(assigner.needs.grads):
        assignment: Assignment = assigner(frozen.grid, frozen.targets, model.visible(frozen.predictions), STEP)
    return assignment, parameters


def _teach(assigner: Assigner, learnt: dict[str, Tensor]) -> str:
    """Hand over what another one has learnt, if it fits by name and shape."""
    state = assigner.state_dict()
    if not state:
        return "none"
    if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in learnt.items()}:
        return "untrained"
    assigner.load_state_dict(learnt)
    return "shared"


def compare(trained: TrainedRun, images: ImageSet, count: int, subjects: Sequence[Subject]) -> Insight:
    """Ask all subjects, at least one, about one batch (`freeze`), and measure. The detector keeps the last assigner.

    Raises:
        UserError: as `freeze`, or if the classes are not those of the run.
    """
    as_many_classes(images.title, images, trained.run_id, trained.model)
    model, learnt = trained.model, trained.model.assigner
    assert learnt is not None
    grads = any(registry.load(subject.assigner).needs.grads for subject in subjects)
    frozen = freeze(model, images, count, trained.protocol, grads=grads)
    boxes = frozen.targets.boxes.cpu().numpy().astype(np.float64)
    bins = measures.strata(boxes, frozen.area, frozen.attributes, BINS)
    rows, footprints = [], []
    for subject in subjects:
        assignment, parameters = ask(model, frozen, subject, learnt)
        assert model.assigner is not None
        about = {
            "name": subject.name, "assigner": subject.assigner, "options": subject.options,
            "changed_options": subject.changed, "replaces": sorted(model.assigner.declares.replaces),
        }  # fmt: skip
        measured, read_cells = _measure(frozen, assignment, bins)
        rows.append(about | {"parameters": parameters} | measured)
        footprints.append(read_cells)
    mass, cells = measures.overlaps(footprints, len(boxes))
    agreement = {
        name: {"boxes": int(inside.sum()), "mass": _plain(mass.jaccard(inside)), "cells": _plain(cells.jaccard(inside))}
        for name, inside in {"all": np.ones(len(boxes), dtype=bool), **bins["size"]}.items()
    }
    return Insight(frozen.grid.strides, len(boxes), frozen.image_ids, tuple(rows), agreement)


def _measure(frozen: FrozenBatch, assignment: Assignment, bins: Strata) -> tuple[dict[str, Any], Footprint]:
    """What `Insight` says of one assigner, and which cells its positives read."""
    grid, targets, samples = frozen.grid, frozen.targets, assignment.samples
    positives = measures.positives_of(grid, targets, samples, frozen.predictions.distances)
    cells = measures.footprint(grid, targets, samples)
    measured: dict[str, Any] = {
        "positives": len(positives.box),
        "per_box": measures.per_box(positives, np.ones(targets.num_boxes, dtype=bool)),
        "by": {
            name: {bin_: measures.per_box(positives, rows) for bin_, rows in each.items()}
            for name, each in bins.items()
        },
        "ambiguous": measures.ambiguous(cells),
        "outside": measures.outside(positives),
        "levels": measures.level_shares(positives, grid.num_levels),
        "quality": measures.quality(positives),
    }
    return measured, cells


def _plain(matrix: Floats) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]
