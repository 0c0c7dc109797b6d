"""What the documents promise is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = (REPOSITORY / "docs" / "data.md").read_text("utf-8")
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| kind")]


@pytest.mark.parametrize("row", ROWS)
def test_each_kind_of_input_names_a_test_that_is_there(row: str) -> None:
    *_, tests, _ = row.split("|")
    named = re.findall(r"`([\w/.]+)::(\w+)`", tests)
    assert named
    for file, test in named:
        path = REPOSITORY / (file if "/" in file else f"tests/data/{file}")
        assert re.search(rf"^def {test}\(", path.read_text("utf-8"), re.MULTILINE), f"{file}::{test}"


def test_the_table_is_read() -> None:
    assert len(ROWS) > 50
