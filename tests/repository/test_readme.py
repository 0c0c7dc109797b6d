"""What the README says of results is what the records that come with it say, whatever is run here afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.bench.markdown import summary as costs
from harness.bench.measurements import read_lines
from harness.comparison.board import boards
from harness.comparison.markdown import summary
from harness.records.details import load_details
from harness.records.store import ResultsStore

ROOT = Path(__file__).parents[2]


def block(command: str) -> str:
    """What the README shows as the output of a command."""
    _, _, rest = (ROOT / "README.md").read_text("utf-8").partition(f"<!-- {command} -->\n")
    shown, _, _ = rest.partition("<!-- end -->")
    return shown.strip()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results that git knows, as they were added to it; all, where the project is no checkout."""
    if not (ROOT / ".git").exists():
        return ROOT / "results"
    folder = tmp_path_factory.mktemp("index")
    git = ["git", "-C", str(ROOT)]
    names = subprocess.run([*git, "ls-files", "-z", "results"], check=True, capture_output=True).stdout
    subprocess.run([*git, "checkout-index", "-z", "--stdin", f"--prefix={folder}/"], check=True, input=names)
    return folder / "results"


def test_the_table_of_results_is_the_summary_of_the_records(results):
    store = ResultsStore(results)
    records, problems = store.load_all()
    details, broken = load_details(store, [record["run_id"] for record in records])
    assert not problems
    assert not broken
    assert block("harness leaderboard --summary") == summary(boards(records, details)).strip()


def test_the_table_of_costs_is_the_summary_of_the_measurements(results):
    lines = read_lines(results / "bench" / "assigners.csv")
    assert block("harness bench summary") == costs(lines).strip()
