"""The picture of a board: every assigner with its seeds, and the gap to one of them."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from harness.cli import main
from harness.comparison.board import boards
from harness.comparison.board_picture import draw, file_name
from harness.drawing.charts import encoded
from harness.drawing.svg import MINUS
from harness.protocol.protocol import load_protocol
from harness.records.store import ResultsStore
from tests.support.fakes import make_record


def runs(**aps):
    protocol = load_protocol("tiny")
    return [
        make_record(protocol, assigner=name, seed=seed, ap=ap) for name, own in aps.items()
        for seed, ap in enumerate(own)
    ]  # fmt: skip


def drawn(board):
    return encoded(draw(board), "svg").decode()


def test_every_assigner_with_its_gap_to_center():
    (board,) = boards(runs(atss=(35.0, 37.0), center=(33.0, 34.5), paa=(30.0,), tal=(None,)), {})
    svg = drawn(board)
    assert all(f">{name}</text>" in svg for name in ("atss", "center", "paa", "36.0", "33.8", f"{MINUS}3.0"))
    assert ">+2.2 ± " in svg  # +2 and +2.5; one seed has no interval
    assert ">tal</text>" not in svg
    assert "AP minus that of center, seed by seed" in svg


def test_without_center_the_gaps_are_to_the_best():
    (board,) = boards(runs(atss=(35.0, 37.0), paa=(30.0, 31.0)), {})
    svg = drawn(board)
    assert "minus that of atss" in svg
    assert f">{MINUS}5.5 ± " in svg


def test_one_entry_and_one_value_are_drawn():
    (board,) = boards(runs(paa=(30.0,)), {})
    assert encoded(draw(board), "png").startswith(b"\x89PNG")
    assert ">30.0</text>" in drawn(board)


def test_names_of_files_tell_boards_apart():
    protocol = load_protocol("tiny")
    records = [
        make_record(protocol, assigner="atss"),
        make_record(protocol, assigner="poto", declares={"nms": False}),
        make_record(load_protocol("tiny", ("schedule.steps=7",)), assigner="atss"),
    ]
    names = [file_name(board) for board in boards(records, {})]
    assert len({*names}) == 3
    assert f"board-tiny-memory-{protocol.digest[:6]}" in names
    assert f"board-tiny-memory-{protocol.digest[:6]}-extras" in names


@pytest.fixture
def results(tmp_path):
    store = ResultsStore(tmp_path)
    for record in runs(atss=(35.0, 37.0), center=(33.0, 34.5)):
        store.save(record)
    return tmp_path


def call(results, *words):
    return CliRunner().invoke(main, ["leaderboard", *words, "--results", str(results)])


def test_the_verb(results):
    told = call(results, "--picture", "--summary")
    assert told.exit_code == 0, told.output
    assert "| `atss` | 2 |" in told.stdout
    (svg,) = (results / "boards").glob("*.svg")
    assert "<svg" in svg.read_text()
    assert svg.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert not (results / "leaderboard.csv").exists()


@pytest.mark.parametrize("words", [["--picture", "--check"], ["--picture", "--json"]])
def test_pictures_answer_no_other_question(results, words):
    told = call(results, *words)
    assert told.exit_code == 2
    assert "go alone" in told.output
