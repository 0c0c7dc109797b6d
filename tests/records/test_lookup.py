"""Which record answers a question: options that came later do not make an old run another one."""

from __future__ import annotations

import pytest

from harness.protocol.protocol import load_protocol
from harness.records.identity import RunSpec
from harness.records.lookup import RecordIndex
from harness.training.build import resolve_assigner
from tests.support.fakes import DATA, data_part, make_record

TINY = load_protocol("tiny")
DEFAULTS = resolve_assigner("iqdet", {}).options


def asked(options=None, protocol=TINY, data=DATA, seed=0, assigner="iqdet"):
    return RunSpec(protocol, data, assigner, DEFAULTS if options is None else options, seed)


def without(*names):
    return {key: value for key, value in DEFAULTS.items() if key not in names}


def test_a_record_without_an_option_that_came_later_is_at_its_default():
    old = make_record(TINY, assigner="iqdet", options=without("extractor", "learn"))
    assert old.run_id != asked().run_id
    assert RecordIndex([old]).answer(asked()) is old
    assert RecordIndex([old]).answer(asked(DEFAULTS | {"learn": "mu"})) is None


def test_a_changed_default_is_a_change():
    old = make_record(TINY, assigner="iqdet", options=without("learn") | {"positives": 9})
    assert RecordIndex([old]).answer(asked()) is None
    assert RecordIndex([old]).answer(asked(DEFAULTS | {"positives": 9})) is old


def test_an_option_that_is_gone_answers_nothing_of_today():
    old = make_record(TINY, assigner="iqdet", options=DEFAULTS | {"forgotten": 1})
    assert RecordIndex([old]).answer(asked()) is None


@pytest.mark.parametrize(
    "other",
    [
        asked(seed=1),
        asked(protocol=load_protocol("tiny", ("schedule.steps=61",))),
        asked(data=data_part(val={"checksum": "33"})),
        asked(data=data_part(train={"checksum": "33"})),
        asked(assigner="qd"),
    ],
)
def test_everything_else_that_decides_a_result_has_to_agree(other):
    record = make_record(TINY, assigner="iqdet", options=DEFAULTS)
    assert RecordIndex([record]).answer(asked()) is record
    assert RecordIndex([record]).answer(other) is None


def test_the_newest_answer_counts_and_names_do_not():
    old = make_record(TINY, assigner="iqdet", options=without("learn"), created="2026-01-01T00:00:00Z")
    new = make_record(TINY, assigner="iqdet", options=DEFAULTS, created="2026-01-02T00:00:00Z")
    assert RecordIndex([new, old]).answer(asked()) is new
    renamed = TINY.model_copy(update={"name": "mine"})
    assert RecordIndex([new]).answer(asked(protocol=renamed)) is new


def test_records_of_unknown_assigners_are_passed_over():
    plugin = make_record(TINY, assigner="no_longer_installed", options={"x": 1})
    assert RecordIndex([plugin]).answer(asked()) is None
