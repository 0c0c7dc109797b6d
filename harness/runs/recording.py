"""What a run says of itself: its record, known but for the metrics when training ends, and its details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

import torch

from assigners.contract import Assigner, Declares
from harness.core.device import peak_memory_mb
from harness.core.environment import environment
from harness.data.base import ImageSet
from harness.evaluation.bootstrap import replicates
from harness.evaluation.detections import Detections
from harness.evaluation.error_types import error_types
from harness.evaluation.match_table import MatchTable
from harness.records.details import Bootstrap, Details, Errors, learning_curves
from harness.records.identity import RunSpec
from harness.records.pending import pending_record
from harness.records.schema import SCHEMA, RunRecord, now
from harness.training.checkpoint import earlier_code
from harness.training.trainer import Trainer


def unfinished_record(
    trainer: Trainer, spec: RunSpec, changed: dict[str, Any], source: dict[str, Any], device: torch.device, command: str
) -> RunRecord:
    """The record of a run that is trained and not evaluated (`harness.records.pending.pending_record`).

    Args:
        trainer: at the last step.
        changed: options that differ from the assigner's defaults.
        source: the code that runs (`harness.core.environment.source_version`).
        command: the line that repeats the run.
    """
    protocol, state = spec.protocol, trainer.state
    batches = None if state.batches is None else f"{state.batches:08x}"
    twin = {} if state.trained_as is None else {"trained_as": state.trained_as}
    return pending_record({
        "schema": SCHEMA,
        "run_id": spec.run_id,
        "created": now(),
        "protocol": {
            "name": protocol.name, "note": protocol.note, "hash": protocol.digest, "content": protocol.content(),
        },
        "data": spec.data.model_dump(),
        "assigner": spec.assigner,
        "options": spec.options,
        "changed_options": changed,
        "seed": spec.seed,
        "cost": _cost(trainer, device),
        "environment": environment(device),
        "declares": declared(trainer.model.assigner),
        "source": {**source, "earlier": earlier_code(state.trained_by, source)},
        "equal": {"initial_weights": state.initial_weights, "batches": batches},
        "command": command,
        "progress": {"steps": state.step, "curve": state.curve, **twin, **trainer.latest},
    })  # fmt: skip


def declared(assigner: Assigner | None) -> dict[str, Any]:
    """What the assigner changes besides the assignment, as JSON values; what it leaves alone is absent."""
    usual = Declares()
    declares = usual if assigner is None else assigner.declares
    values = ((field.name, getattr(declares, field.name)) for field in fields(usual))
    changed = {name: value for name, value in values if value != getattr(usual, name)}
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in changed.items()}


def _cost(trainer: Trainer, device: torch.device) -> dict[str, float]:
    """What training cost, in a record's terms."""
    step_seconds = median(trainer.step_seconds) if trainer.step_seconds else 0.0  # of wall time, loading included
    batch_size = trainer.protocol.schedule.batch_size
    sizes = {name: parameter.numel() for name, parameter in trainer.model.named_parameters()}
    assigner = sum(size for name, size in sizes.items() if name.startswith("assigner."))
    return {
        "step_ms": 1000 * step_seconds,
        "images_per_s": batch_size / step_seconds if step_seconds else 0.0,
        "train_s": trainer.state.seconds,
        "peak_memory_mb": peak_memory_mb(device),
        "parameters": sum(sizes.values()) - assigner,
        "assigner_parameters": assigner,
    }


def make_details(run_id: str, images: ImageSet, detections: Sequence[Detections], trace: Path) -> Details:
    """Everything that the file of a run holds.

    Args:
        images, detections: of the run's validation split, as `harness.evaluation.detections` has them.
        trace: its metrics by step; where there is none the curves are empty.
    """
    return Details(
        run_id=run_id,
        bootstrap=Bootstrap.model_validate(replicates(MatchTable.build(images, detections))),
        errors=Errors.model_validate(error_types(images, detections)),
        trace=learning_curves(trace),
    )
