"""What the README says of results is what the records say."""

from __future__ import annotations

from pathlib import Path

from harness.leaderboard import leaderboard
from harness.store import ResultsStore
from harness.summary import summary

ROOT = Path(__file__).parents[1]


def test_the_table_of_results_is_the_summary_of_the_records():
    records, problems = ResultsStore(ROOT / "results").load_all()
    assert not problems
    _, _, rest = (ROOT / "README.md").read_text("utf-8").partition("<!-- harness leaderboard --summary -->\n")
    shown, _, _ = rest.partition("<!-- end -->")
    assert shown.strip() == summary(leaderboard(records)).strip()
