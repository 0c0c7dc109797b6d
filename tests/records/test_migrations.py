"""Records outlive the schema that they were written in."""

import csv
import io
import json
import shutil
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assigners.contract import Declares
from harness.core.errors import UserError
from harness.protocol.protocol import load_protocol
from harness.records.identity import RunSpec
from harness.records.inputs import recorded_protocol
from harness.records.leaderboard import write_leaderboard
from harness.records.migrations import migrate
from harness.records.schema import SCHEMA, RunRecord
from harness.records.store import ResultsStore
from harness.runs.recording import declared
from tests.support.fakes import make_record
from tests.support.runs import request, run, small_protocol

OLD = Path(__file__).parent / "record-of-schema-1.json"  # as a run wrote it
COMMITTED = Path(__file__).parents[2] / "results"


@pytest.fixture
def old():
    return json.loads(OLD.read_text())


@pytest.fixture
def store(tmp_path, old):
    """A store that holds the old record alone."""
    store = ResultsStore(tmp_path)
    store.runs_dir.mkdir()
    shutil.copy(OLD, store.runs_dir / f"{old['run_id']}.json")
    return store


def test_a_record_of_schema_1_loads_as_one_of_today(store, old):
    (record,), problems = store.load_all()
    assert problems == []
    assert record.as_json() == {
        **old,
        "schema": SCHEMA,
        "declares": {},
        "source": {**old["source"], "earlier": []},
        "equal": {"initial_weights": None, "batches": None},
    }
    assert store.find("atss") == record


def test_reading_never_rewrites_a_record(store, old):
    path = store.runs_dir / f"{old['run_id']}.json"
    before = path.stat()
    store.load_all()
    write_leaderboard(store)
    assert path.read_bytes() == OLD.read_bytes()
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_record_of_schema_1_has_the_row_that_it_always_had(store, old):
    (row,) = csv.DictReader(io.StringIO(write_leaderboard(store).read_text()))
    shown = ("run_id", "protocol_hash", "data_hash", "assigner", "seed", "AP", "AP50", "APl", "step_ms", "commit")
    assert [row[name] for name in shown] == [
        "atss-shapes-cpu-s0-e1f181d3ee", "623bec5995cf", "70456b97", "atss", "0", "47.38", "72.40", "", "161.4",
        "181745a0a6f42d8cd5043a56075fed075b150d8e",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("assigner", "options", "declares"),
    [
        ("paa", {"score_voting": True, "topk": 9}, {"score_voting": True}),
        ("paa", {"score_voting": False, "topk": 9}, {}),
        ("paa", {}, {}),
        ("another", {"score_voting": True}, {}),
    ],
)
def test_under_schema_1_score_voting_alone_was_declared(old, assigner, options, declares):
    assert migrate({**old, "assigner": assigner, "options": options})["declares"] == declares


def test_migrating_changes_neither_its_argument_nor_what_is_up_to_date(old):
    before = deepcopy(old)
    migrate(old)
    assert old == before
    today = make_record(load_protocol("tiny")).as_json()
    assert migrate(today) == today


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["assigner", "options", "source", "run_id"]), json_values), st.integers(1, SCHEMA)
)
def test_what_is_no_record_migrates_without_an_error_and_is_refused_by_the_model(content, schema):
    migrated = migrate({**content, "schema": schema})
    assert migrated["schema"] == SCHEMA
    with pytest.raises(ValueError):
        RunRecord.model_validate(migrated)


@pytest.mark.parametrize("schema", [None, True, "1", 1.0, 0, -1, [1], {}])
def test_what_names_no_schema_is_no_record(old, schema):
    with pytest.raises(UserError, match="is not a record"):
        migrate({**old, "schema": schema})


@pytest.mark.parametrize("schema", [SCHEMA + 1, 10**400], ids=["next", "huge"])
def test_a_newer_schema_is_named_with_what_to_do_and_left_out(store, old, schema):
    (store.runs_dir / "new.json").write_text(json.dumps({**old, "schema": schema}))
    records, (problem,) = store.load_all()
    assert [record.run_id for record in records] == [old["run_id"]]
    assert str(store.runs_dir / "new.json") in problem
    assert f"newer than the {SCHEMA} that this version knows; update assigner-zoo" in problem
    assert "\n" not in problem
    assert len(problem) < 500


def test_a_run_records_what_its_assigner_declares(tmp_path, undisturbed):
    assert undisturbed("iqdet").record.declares.changes == {}
    asked = request(tmp_path, "paa", small_protocol(schedule={"steps": 2}), options={"score_voting": "true"})
    record = run(asked).record
    assert record.as_json()["schema"] == SCHEMA
    assert record.declares.changes == {"score_voting": True}


def test_everything_that_can_be_declared_has_its_place_in_a_record():
    changed = Declares(frozenset({"quality", "box"}), "objectness", "product", "labels", nms=False, score_voting=True)
    part = declared(SimpleNamespace(declares=changed))
    assert part == {
        "replaces": ["box", "quality"], "quality": "objectness", "score": "product", "normaliser": "labels",
        "nms": False, "score_voting": True,
    }  # fmt: skip
    assert set(part) == {field.name for field in fields(Declares)}
    record = make_record(load_protocol("tiny"), declares=part)
    assert json.loads(json.dumps(record.as_json())) == record.as_json()


def committed():
    return sorted((COMMITTED / "runs").glob("*.json"))


@pytest.mark.parametrize("path", committed(), ids=lambda path: path.stem)
def test_every_committed_record_is_valid_and_named_by_its_content(path):
    record = RunRecord.model_validate(migrate(json.loads(path.read_text("utf-8"))))
    protocol = recorded_protocol(record)
    assert protocol.digest == record.protocol.hash
    spec = RunSpec(protocol, record.data, record.assigner, record.options, record.seed)
    assert spec.run_id == record.run_id
    assert path.name.partition(".")[0] == record.run_id


def test_the_store_reads_every_committed_record():
    records, problems = ResultsStore(COMMITTED).load_all()
    assert problems == []
    assert len(records) == len(committed()) > 0
