"""What a row is called: its assigner, and the options that differ from the defaults of today.

Records never change but defaults do, so a record's own word on what it changed ages. The defaults are those that the
newest record of the assigner had: an older run with what was the default then shows it as the option that it is now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.records.schema import RunRecord


def newest_attempts(records: Iterable[RunRecord]) -> list[RunRecord]:
    """One record per run id, the newest; in the order in which the runs first appear."""
    newest: dict[str, RunRecord] = {}
    for record in records:
        known = newest.get(record.run_id)
        if known is None or record.created >= known.created:
            newest[record.run_id] = record
    return list(newest.values())


def oldest_first(records: Iterable[RunRecord]) -> list[RunRecord]:
    """One record per run id, the newest; in the order of their time."""
    return sorted(newest_attempts(records), key=lambda record: (record.created, record.run_id))


def known_defaults(records: Iterable[RunRecord]) -> dict[str, dict[str, Any]]:
    """Assigner -> option -> its default, as the newest record that left the option alone has it."""
    defaults: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: (record.created, record.run_id)):
        left_alone = {k: v for k, v in record.options.items() if k not in record.changed_options}
        defaults.setdefault(record.assigner, {}).update(left_alone)
    return defaults


def changed_options(record: RunRecord, defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The options of a record that differ from `known_defaults`, by name."""
    usual = defaults.get(record.assigner, {})
    return {
        key: value
        for key, value in sorted(record.options.items())
        if (value != usual[key] if key in usual else key in record.changed_options)
    }
