"""What the documents say of results is what the records that come with it say, whatever is run here afterwards."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import main

ROOT = Path(__file__).parents[2]


SHOWN = [
    (path, *found)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for found in re.findall(r"<!-- harness (.+?) -->\n(.*?)<!-- end -->", path.read_text("utf-8"), flags=re.DOTALL)
]


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


@pytest.mark.parametrize(("path", "words", "shown"), SHOWN, ids=[f"{path.name}: {words}" for path, words, _ in SHOWN])
def test_what_a_document_shows_is_what_its_command_prints(path, words, shown, results):
    told = CliRunner().invoke(main, [*words.split(), "--results", str(results)])
    assert told.exit_code == 0, told.output
    assert shown.strip() == told.stdout.strip()


def test_the_readme_shows_results_and_costs():
    shown = {words for path, words, _ in SHOWN if path.name == "README.md"}
    assert {"leaderboard --summary --protocol shapes-board", "bench summary"} <= shown
    assert "leaderboard --summary" in {words for path, words, _ in SHOWN if path.name == "boards.md"}
