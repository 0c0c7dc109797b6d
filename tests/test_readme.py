"""What the README says of results is what the records say."""

from __future__ import annotations

from pathlib import Path

from harness.board import boards
from harness.details import load_details
from harness.store import ResultsStore
from harness.summary import summary

ROOT = Path(__file__).parents[1]


def test_the_table_of_results_is_the_summary_of_the_records():
    store = ResultsStore(ROOT / "results")
    records, problems = store.load_all()
    details, broken = load_details(store, [record["run_id"] for record in records])
    assert not problems
    assert not broken
    _, _, rest = (ROOT / "README.md").read_text("utf-8").partition("<!-- harness leaderboard --summary -->\n")
    shown, _, _ = rest.partition("<!-- end -->")
    assert shown.strip() == summary(boards(records, details)).strip()
