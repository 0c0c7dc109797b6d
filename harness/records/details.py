"""What a comparison needs of a run beyond its record: AP under re-weighted images, kinds of mistakes, learning curves.

    results/details/<run id>.json

Derived from the run's detections and its trace, so a file may be made again from the run's weights at any time; the
record stays what it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.core.errors import UserError, reason
from harness.core.files import dump, write_atomically
from harness.data.base import ImageSet
from harness.evaluation.bootstrap import replicates
from harness.evaluation.coco_metrics import Detections
from harness.evaluation.error_types import error_types
from harness.evaluation.match_table import MatchTable
from harness.records.store import ResultsStore

SCHEMA = 1
TRACE_POINTS = 100  # of a learning curve, at most
Numbers = list[float | None]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Bootstrap(_Part):
    """Points under image weights that are the same for every run on these images; null where undefined."""

    AP: Numbers
    AP50: Numbers


class Trace(_Part):
    """Learning curves: means over equal stretches of the steps; null where a stretch holds no value."""

    step: list[int]  # the middle of each stretch
    losses: dict[str, Numbers] = {}
    statistics: dict[str, Numbers] = {}


class Details(_Part):
    """The file of a run."""

    schema_: Literal[1] = Field(alias="schema")
    run_id: str
    bootstrap: Bootstrap
    errors: dict[str, Any]
    trace: Trace


def make_details(run_id: str, images: ImageSet, detections: Sequence[Detections], trace: Path) -> dict[str, Any]:
    """Everything that the file of a run holds.

    Args:
        images, detections: of the run's validation split, as `harness.evaluation.coco_metrics` takes them.
        trace: its ``metrics.jsonl``; where there is none the curves are empty.
    """
    return {
        "schema": SCHEMA,
        "run_id": run_id,
        "bootstrap": replicates(MatchTable.build(images, detections)),
        "errors": error_types(images, detections),
        "trace": learning_curves(trace),
    }


def save_details(store: ResultsStore, details: dict[str, Any]) -> Path:
    """Write a run's file, in place of an older one."""
    Details.model_validate(details)
    path = _path(store, details["run_id"])
    write_atomically(path, dump(details))
    return path


def load_details(store: ResultsStore, run_ids: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The details at hand, by run id, and one line for each file that cannot be used."""
    found: dict[str, dict[str, Any]] = {}
    problems = []
    for run_id in run_ids:
        path = _path(store, run_id)
        if not path.exists():
            continue
        try:
            found[run_id] = _read(path, run_id)
        except UserError as error:
            problems.append(str(error))
    return found, problems


def learning_curves(path: Path) -> dict[str, Any]:
    """The trace of a run in at most `TRACE_POINTS` points: ``step``, ``losses`` and ``statistics`` by name."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    parts = np.array_split(np.arange(len(lines)), min(TRACE_POINTS, len(lines) or 1))
    stretches = [part for part in parts if len(part)]
    curves: dict[str, Any] = {"step": [int(np.mean([lines[i]["step"] for i in part])) for part in stretches]}
    for group in ("losses", "statistics"):
        names = sorted({name for line in lines for name in line[group]})
        curves[group] = {name: [_mean(lines[i][group].get(name) for i in part) for part in stretches] for name in names}
    return curves


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 5) if known else None


def _read(path: Path, run_id: str) -> dict[str, Any]:
    remedy = f"delete it, or make it again with: harness eval {run_id} --details"
    try:
        value: Mapping[str, Any] = json.loads(path.read_bytes())
        Details.model_validate(value)
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        raise UserError(f"{path} is no file of details ({reason(error)[:160]}); {remedy}") from error
    if value["run_id"] != run_id:
        raise UserError(f"{path} is of run {value['run_id']}; {remedy}")
    return dict(value)


def _path(store: ResultsStore, run_id: str) -> Path:
    return store.root / "details" / f"{run_id}.json"
