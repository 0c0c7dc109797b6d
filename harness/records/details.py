"""What a comparison needs of a run beyond its record: AP under re-weighted images, kinds of mistakes, learning curves.

    results/details/<run id>.json

Derived from the run's detections and its trace, so a file may be made again from the run's weights at any time; the
record stays what it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.core.errors import UserError, reason
from harness.core.files import dump, write_atomically
from harness.records.store import ResultsStore

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


class Errors(_Part):
    """Mistakes by type, as `harness.evaluation.error_types` counts and repairs them."""

    score: float
    counts: dict[str, int]
    objects: int
    gain: dict[str, float | None]


class Details(_Part):
    """The file of a run."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    run_id: str
    bootstrap: Bootstrap
    errors: Errors
    trace: Trace


def save_details(store: ResultsStore, details: Details) -> Path:
    """Write a run's file, in place of an older one."""
    path = _path(store, details.run_id)
    write_atomically(path, dump(details.model_dump(by_alias=True)))
    return path


def load_details(store: ResultsStore, run_ids: Iterable[str]) -> tuple[dict[str, Details], list[str]]:
    """The details at hand, by run id, and one line for each file that cannot be used."""
    details: dict[str, Details] = {}
    problems = []
    for run_id in run_ids:
        path = _path(store, run_id)
        if not path.exists():
            continue
        try:
            details[run_id] = _read(path, run_id)
        except UserError as error:
            problems.append(str(error))
    return details, problems


def learning_curves(path: Path) -> Trace:
    """The trace of a run in at most `TRACE_POINTS` points; empty where there is no file."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    stretches = np.array_split(np.arange(len(lines)), min(TRACE_POINTS, len(lines))) if lines else []

    def means(group: str) -> dict[str, Numbers]:
        names = sorted({name for line in lines for name in line[group]})
        return {name: [_mean(lines[i][group].get(name) for i in part) for part in stretches] for name in names}

    steps = [int(np.mean([lines[i]["step"] for i in part])) for part in stretches]
    return Trace(step=steps, losses=means("losses"), statistics=means("statistics"))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 5) if known else None


def _read(path: Path, run_id: str) -> Details:
    remedy = f"delete it, or make it again with: harness eval {run_id} --details"
    try:
        details = Details.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        raise UserError(f"{path} is no file of details ({reason(error)[:160]}); {remedy}") from error
    if details.run_id != run_id:
        raise UserError(f"{path} is of run {details.run_id}; {remedy}")
    return details


def _path(store: ResultsStore, run_id: str) -> Path:
    return store.root / "details" / f"{run_id}.json"
