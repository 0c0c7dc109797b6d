"""Every record in the repository: the same bytes when written again, the same id from what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.core.files import dump
from harness.records.identity import RunSpec
from harness.records.inputs import recorded_protocol
from harness.records.migrations import migrate
from harness.records.schema import RunRecord

RUNS = Path(__file__).parents[2] / "results" / "runs"
FILES = sorted(RUNS.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_record_stays(path):
    content = path.read_text("utf-8")
    assert dump(json.loads(content)) == content
    record = RunRecord.model_validate(migrate(json.loads(content)))
    assert dump(record.as_json()) == dump(migrate(json.loads(content)))
    protocol = recorded_protocol(record)
    spec = RunSpec(protocol, record.data, record.assigner, record.options, record.seed)
    assert protocol.digest == record.protocol.hash
    assert spec.run_id == record.run_id
    assert path.stem.startswith(record.run_id)


def test_there_are_records():
    assert len(FILES) > 80
