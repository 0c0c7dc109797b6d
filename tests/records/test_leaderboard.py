"""The leaderboard is a function of the records, and anything else is noticed."""

import csv
import io

import numpy as np
import pytest

from harness.comparison.board import boards
from harness.comparison.intervals import resolvable_gap
from harness.comparison.markdown import shown_parts, summary_of
from harness.comparison.noise import noise
from harness.core.errors import UserError
from harness.protocol.protocol import load_protocol
from harness.records.leaderboard import COLUMNS, check_leaderboard, leaderboard, write_leaderboard
from harness.records.store import ResultsStore
from tests.support.fakes import data_part, make_record


@pytest.fixture
def tiny():
    return load_protocol("tiny")


@pytest.fixture
def store(tmp_path, tiny):
    store = ResultsStore(tmp_path)
    for assigner, ap in (("center", 30.126), ("atss", 35.5), ("iqdet", None)):
        store.save(make_record(tiny, assigner=assigner, ap=ap))
    return store


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_best_first_and_undefined_last(store):
    table = rows(write_leaderboard(store))
    assert list(table[0]) == list(COLUMNS)
    assert [(row["assigner"], row["AP"]) for row in table] == [("atss", "35.50"), ("center", "30.13"), ("iqdet", "")]


def test_every_cell_of_a_row(store, tiny):
    row = rows(write_leaderboard(store))[1]
    record = store.find("center")
    assert len(row.pop("data_hash")) == 8
    assert row == {
        "protocol": "tiny", "protocol_hash": tiny.digest, "data": "memory", "assigner": "center", "parameters": "",
        "declares": "", "seed": "0",
        "AP": "30.13", "AP50": "30.13", "AP75": "30.13", "APs": "", "APm": "30.13", "APl": "30.13",
        "images_per_s": "100.0", "step_ms": "12.3", "peak_memory_mb": "512", "network_parameters": "1000",
        "assigner_parameters": "0", "commit": "abc123", "date": "2026-01-02", "device": "a processor",
        "run_id": record.run_id, "command": "harness run --assigner center --seed 0",
    }  # fmt: skip


def test_only_changed_options_are_shown(tiny):
    record = make_record(tiny, options={"a": 1, "b": "x", "c": 2}, changed_options={"b": "x", "a": 1})
    assert leaderboard([record])["parameters"].tolist() == ["a=1;b=x"]


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ({}, ""),
        ({"nms": False}, "nms=False"),
        ({"replaces": ["box", "class"], "score": "product"}, "replaces=box|class;score=product"),
    ],
)
def test_what_is_changed_besides_the_assignment_is_shown(tiny, part, shown):
    assert leaderboard([make_record(tiny, declares=part)])["declares"].tolist() == [shown]


def test_the_newest_attempt_stands_for_a_run(store, tiny):
    store.save(make_record(tiny, ap=10.0, created="2026-01-03T00:00:00Z"))
    store.save(make_record(tiny, ap=20.0, created="2026-01-01T00:00:00Z"))
    shown = [row for row in rows(write_leaderboard(store)) if row["assigner"] == "center"]
    assert [row["AP"] for row in shown] == ["10.00"]


def test_protocols_and_data_are_not_mixed(tiny):
    other = load_protocol("tiny", ("schedule.steps=7",))
    moved = data_part(val={"checksum": "33"})
    records = [
        make_record(tiny, ap=10.0),
        make_record(other, ap=99.0),
        make_record(tiny, ap=50.0, run_id="elsewhere", data=moved),
        make_record(tiny, ap=11.0, assigner="atss"),
    ]
    table = leaderboard(records)
    keys = list(zip(table["protocol"], table["protocol_hash"], table["data_hash"], strict=True))
    assert len(set(keys)) == 3
    assert keys == sorted(keys)


def test_the_same_records_give_the_same_bytes(store, tmp_path):
    path = write_leaderboard(store)
    first = path.read_bytes()
    assert write_leaderboard(store).read_bytes() == first
    assert b"\r" not in first
    again = ResultsStore(tmp_path / "copied")
    for record in reversed(store.load_all()[0]):
        again.save(record)
    assert write_leaderboard(again).read_bytes() == first


def test_no_records_give_a_heading(tmp_path):
    assert write_leaderboard(ResultsStore(tmp_path)).read_text() == ",".join(COLUMNS) + "\n"


def test_an_untouched_table_passes(store):
    write_leaderboard(store)
    check_leaderboard(store)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda text: text.replace("35.50", "36.50", 1), "line 2"),
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], "line 4"),
        (lambda text: text + "one,more,row\n", "line 5"),
        (lambda text: text.replace("\n", "\r\n"), "line 1"),
    ],
)
def test_drift_is_named_by_its_line(store, edit, line):
    path = write_leaderboard(store)
    path.write_bytes(edit(path.read_text()).encode())
    with pytest.raises(UserError, match=line):
        check_leaderboard(store)


def test_a_record_without_its_row_is_drift(store, tiny):
    write_leaderboard(store)
    store.save(make_record(tiny, seed=5, ap=99.0))
    with pytest.raises(UserError, match=r"line 2.*run `harness leaderboard --results "):
        check_leaderboard(store)


def test_a_missing_table_and_a_foreign_file_are_named(store):
    with pytest.raises(UserError, match=r"leaderboard\.csv cannot be read"):
        check_leaderboard(store)
    write_leaderboard(store)
    (store.runs_dir / "foreign.json").write_text("{}")
    with pytest.raises(UserError, match=r"foreign\.json"):
        check_leaderboard(store)


def summary(made, *, variants=False):
    return summary_of(shown_parts(made, variants=variants))


def test_the_summary_is_mean_and_interval_over_seeds(tiny):
    records = [make_record(tiny, assigner="center", seed=seed, ap=ap) for seed, ap in enumerate((30.0, 33.0, 31.5))]
    records.append(make_record(tiny, assigner="atss", ap=40.0))
    records.append(make_record(tiny, assigner="atss", ap=20.0, options={"topk": 4}, changed_options={"topk": 4}))
    title, _, floor, _, header, _, *lines = summary(boards(records, {})).splitlines()
    assert floor == "Noise: sd over seeds 1.50 AP (`center`, 3 seeds: 1.50)."
    assert title.startswith(f"Protocol `tiny` ({tiny.digest}), data `memory` (")
    assert header == "| assigner | seeds | group | AP | AP50 | AP75 | APs | APm | APl |"
    interval = "31.5 ± 3.7"  # t = 4.303 times 1.5 over the root of three
    # One seed without details tells nothing apart.
    assert lines == [
        "| `atss` | 1 | a | 40.0 | 40.0 | 40.0 | - | 40.0 | 40.0 |",
        f"| `center` | 3 | a | {interval} | {interval} | 31.5 | - | 31.5 | 31.5 |",
    ]
    both = summary(boards(records, {}), variants=True)
    assert both.count("Protocol `tiny`") == 2
    assert "| `atss[topk=4]` | 1 | a | 20.0 | 20.0 | 20.0 | - | 20.0 | 20.0 |" in both


def test_the_noise_of_a_board(tiny):
    aps = {"center": (30.0, 33.0, 31.5, 32.0), "atss": (31.0, 33.5, 32.6), "paa": (40.0, 41.0)}
    records = [
        make_record(tiny, assigner=name, seed=seed, ap=ap) for name, own in aps.items() for seed, ap in enumerate(own)
    ]
    (board,) = boards(records, {})
    found = noise(board)
    assert found.longest == ("center", 4, pytest.approx(np.std(aps["center"], ddof=1)))
    assert found.single == pytest.approx(np.mean([np.std(aps[name], ddof=1) for name in ("center", "atss")]))
    apart = np.std([1.0, 0.5, 1.1], ddof=1)  # paa shares two seeds only
    assert found.paired == pytest.approx(apart)
    assert found.half == found.widest == pytest.approx(4.3027 * apart / 3**0.5, rel=1e-4)
    assert found.smallest == pytest.approx(resolvable_gap(apart, 3))
    assert str(found).startswith("Noise: sd over seeds 1.26 AP (`center`, 4 seeds: 1.25), of seed-paired")


def test_one_seed_has_no_noise(tiny):
    (board,) = boards([make_record(tiny, ap=10.0), make_record(tiny, assigner="atss", ap=11.0)], {})
    assert noise(board) is None


def test_protocols_are_never_mixed_in_a_summary(tiny):
    other = load_protocol("tiny", ("schedule.steps=3",))
    text = summary(boards([make_record(tiny, ap=10.0), make_record(other, ap=20.0)], {}))
    assert text.count("| `center` | 1 |") == 2
    assert text.count("Protocol `") == 2
