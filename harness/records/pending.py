"""Runs that are trained and wait for their record: all that the record needs besides the metrics, in their work folder.

    results/work/<run id>/trained.json

It lies there from the moment the weights are saved until the record and its details are written, so that an image that
cannot be read, a full memory or a kill in between costs no training.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from harness.core.again import aimed_at
from harness.core.errors import UserError, reason, shorten
from harness.core.files import dump, write_atomically
from harness.records.identity import RunSpec
from harness.records.inputs import recorded_protocol
from harness.records.migrations import migrate
from harness.records.schema import MetricsPart, Part, RunRecord, SplitPart
from harness.records.store import ResultsStore

_UNKNOWN = dict.fromkeys(name for name in MetricsPart.model_fields if name != "bins")  # until it is evaluated


class _File(Part):
    """What the file holds: a record without ``metrics`` and without the time that evaluation took."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    data: str
    trained_by: list[dict[str, str | None]]
    record: dict[str, Any]


@dataclass(frozen=True)
class Pending:
    """A trained run without its record."""

    record: RunRecord  # the metrics are undefined and evaluation has taken no time yet
    data: str  # where the run found its data, as ``--data`` takes it
    trained_by: list[dict[str, str | None]]  # the code that trained it, as a checkpoint's state has it

    @property
    def run_id(self) -> str:
        """Id of the run that waits for its record."""
        return self.record.run_id

    def spec(self, val: SplitPart | None = None) -> RunSpec:
        """The run as the store knows it.

        Args:
            val: what a record says of the validation split, where that is not what it was.
        """
        record = self.record
        data = record.data if val is None else record.data.model_copy(update={"val": val})
        return RunSpec(recorded_protocol(record), data, record.assigner, record.options, record.seed)


def save_pending(store: ResultsStore, pending: Pending) -> None:
    """Write it down; the weights must lie there already."""
    record = pending.record.model_dump(
        by_alias=True, exclude_unset=True, exclude={"metrics": True, "cost": {"eval_ms_per_image"}}
    )
    content = _File(data=pending.data, trained_by=pending.trained_by, record=record)
    write_atomically(store.folder(pending.run_id).trained, dump(content.model_dump(mode="json", by_alias=True)))


def load_pending(store: ResultsStore, run_id: str) -> Pending:
    """Read what `save_pending` wrote.

    Raises:
        UserError: if the file is missing, damaged or of another run.
    """
    path = store.folder(run_id).trained
    try:
        content = _File.model_validate(json.loads(path.read_text("utf-8")))
        record = pending_record(content.record)
    except (OSError, ValueError, TypeError, LookupError, RecursionError, UserError) as error:
        raise UserError(f"{path} cannot be used ({shorten(_first(error))}); {way_out(path)}") from error
    if record.run_id != run_id:
        raise UserError(f"{path} is of run {record.run_id}; {way_out(path)}")
    return Pending(record, content.data, content.trained_by)


def pending_record(record: dict[str, Any]) -> RunRecord:
    """The record with undefined metrics and an evaluation that took no time, of JSON values that lack both.

    Raises:
        UserError: for a schema that this version does not know.
        ValueError: for what is no record besides.
    """
    whole = {**record, "metrics": _UNKNOWN, "cost": {**record["cost"], "eval_ms_per_image": 0.0}}
    return RunRecord.model_validate(migrate(whole))


def pending_runs(store: ResultsStore) -> list[str]:
    """The runs that wait for their record."""
    return [folder.run_id for folder in store.folders() if folder.trained.exists()]


def find_pending(store: ResultsStore, run: str) -> str | None:
    """The run that waits for its record under this name.

    Args:
        run: its id, or an unambiguous beginning of it.

    Returns:
        Its id; None where the name is that of no such run, which leaves it to `ResultsStore.find`.

    Raises:
        UserError: where it is the beginning of several names, one of them waiting.
    """
    waiting = pending_runs(store)
    if run in waiting:
        return run
    known: set[str] = {record.run_id for record in store.load_all()[0]}
    matches = sorted(name for name in {*waiting, *known} if run and name.startswith(run))
    if run in known or not {*matches} & {*waiting}:
        return None
    if len(matches) > 1:
        named = ", ".join(f"{name} (without a record yet)" if name in waiting else name for name in matches)
        raise UserError(f"run {run!r} is ambiguous: {named}; give more of the name")
    return matches[0]


def completing(run_id: str, data: str, results: Path) -> str:
    """The command that completes a run's record."""
    return aimed_at(shlex.join(["harness", "eval", run_id, "--data", data]), results)


def way_out(path: Path) -> str:
    """What to do about a file of a trained run that cannot be used, or whose weights cannot."""
    go_on = any(path.with_name(name).is_dir() for name in ("checkpoint", "checkpoint.old"))
    return f"delete {path} and {'run again with --resume' if go_on else 'train the run again'}"


def clear_pending(store: ResultsStore, run_id: str, *, allowed: bool) -> None:
    """Make room for a run that begins anew; a trained one is not thrown away unasked.

    Raises:
        UserError: if one waits for its record and may not be cleared.
    """
    path = store.folder(run_id).trained
    if path.is_file() and not allowed:
        raise UserError(
            f"this very run is trained and waits for its record at {path}: add --resume to complete it, or --restart "
            "to begin anew"
        )
    path.unlink(missing_ok=True)


def _first(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"it lacks {error}" if isinstance(error, KeyError) else reason(error)
