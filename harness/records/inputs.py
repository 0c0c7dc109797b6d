"""What a recorded run ran on: its protocol, and where its data lie. Records name data sets, and hold no paths."""

from __future__ import annotations

from pathlib import Path

from harness.core.again import DEFAULT_RESULTS, aimed_at
from harness.core.errors import UserError
from harness.data.sources import needs_folder, spec_of
from harness.protocol.protocol import Protocol, protocol_of
from harness.records.schema import RunRecord


def recorded_protocol(record: RunRecord, results: Path = DEFAULT_RESULTS) -> Protocol:
    """The protocol that a record holds.

    Args:
        results: the directory that the record lies in, for the advice.

    Raises:
        UserError: for one that this version does not know.
    """
    try:
        return protocol_of(record.protocol.content, record.protocol.name)
    except UserError as error:
        again = aimed_at(record.command, results)
        raise UserError(f"the record of run {record.run_id} {error}; train it again with: {again}") from error


def data_spec(record: RunRecord, given: str | None) -> str:
    """As ``--data`` takes it: what was given, or the name of a source that needs no folder.

    Raises:
        UserError: if the run's data lie in a folder and none was given.
    """
    kind = record.data.kind
    if given is None and needs_folder(kind):
        raise UserError(
            f"run {record.run_id} used {record.data.title}, and records hold no paths; give --data {spec_of(kind)}"
        )
    return given or kind
