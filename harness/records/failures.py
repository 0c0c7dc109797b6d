"""Runs of a sweep that failed: ``results/failed/<run id>.json``, there until the run succeeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from harness.core.errors import UserError, reason, shorten
from harness.core.files import dump, write_atomically
from harness.records.identity import RunSpec
from harness.records.schema import Identity, Moment, Part, now
from harness.records.store import ResultsStore


class FailedProtocol(Part):
    """Which protocol the run was under."""

    name: str
    hash: str


class Failure(Part):
    """One failed run."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    run_id: Identity
    assigner: str
    options: dict[str, Any]
    seed: int
    protocol: FailedProtocol
    error: str  # what went wrong, in one line
    step: int | None  # the last one in its trace; None where it never got to one
    created: Moment
    command: str  # that runs it again


def failure_path(store: ResultsStore, run_id: str) -> Path:
    """Where the failure of a run is written down."""
    return store.root / "failed" / f"{run_id}.json"


def save_failure(store: ResultsStore, spec: RunSpec, error: str, command: str) -> Failure:
    """Write down that a run failed, in place of an earlier failure of the same run."""
    failure = Failure(
        run_id=spec.run_id,
        assigner=spec.assigner,
        options=spec.options,
        seed=spec.seed,
        protocol=FailedProtocol(name=spec.protocol.name, hash=spec.protocol.digest),
        error=error,
        step=last_step(store.folder(spec.run_id).trace),
        created=now(),
        command=command,
    )
    write_atomically(failure_path(store, spec.run_id), dump(failure.model_dump(mode="json", by_alias=True)))
    return failure


def load_failures(store: ResultsStore) -> tuple[list[Failure], list[str]]:
    """All failures by run id, and one line for each file that is none."""
    failures, problems = [], []
    for path in sorted((store.root / "failed").glob("[!.]*.json")):
        try:
            failures.append(_read(path))
        except UserError as error:
            problems.append(str(error))
    return failures, problems


def find_failure(store: ResultsStore, run_id: str) -> Failure | None:
    """The failure of one run; None if there is none that can be read."""
    return next((failure for failure in load_failures(store)[0] if failure.run_id == run_id), None)


def _read(path: Path) -> Failure:
    try:
        failure = Failure.model_validate(json.loads(path.read_text("utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "failure"
        raise UserError(f"{path} is no failed run's file: {shorten(where)}: {first['msg']}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no readable failed run's file: {shorten(reason(error))}") from error
    if path.stem != failure.run_id:
        raise UserError(f"{path} holds the failure of {failure.run_id}; it must lie under its own name")
    return failure


def last_step(trace: Path) -> int | None:
    """The last step that a trace holds whole; None for none."""
    try:
        lines = trace.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue  # cut short by a kill
        return step if isinstance(step, int) else None
    return None
