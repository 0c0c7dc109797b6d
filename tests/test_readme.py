"""What the README says of results is what the records say."""

from __future__ import annotations

from pathlib import Path

from harness.bench.summary import summary as costs
from harness.bench.table import read_lines
from harness.board import boards
from harness.details import load_details
from harness.store import ResultsStore
from harness.summary import summary

ROOT = Path(__file__).parents[1]


def block(command: str) -> str:
    """What the README shows as the output of a command."""
    _, _, rest = (ROOT / "README.md").read_text("utf-8").partition(f"<!-- {command} -->\n")
    shown, _, _ = rest.partition("<!-- end -->")
    return shown.strip()


def test_the_table_of_results_is_the_summary_of_the_records():
    store = ResultsStore(ROOT / "results")
    records, problems = store.load_all()
    details, broken = load_details(store, [record["run_id"] for record in records])
    assert not problems
    assert not broken
    assert block("harness leaderboard --summary") == summary(boards(records, details)).strip()


def test_the_table_of_costs_is_the_summary_of_the_measurements():
    lines = read_lines(ROOT / "results" / "bench" / "assigners.csv")
    assert block("harness bench summary") == costs(lines).strip()
