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


PROMISES = [
    line
    for line in (REPOSITORY / "docs" / "reliability.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and not re.match(r"\| (promise|exit code|\d+) \|", line)
]


@pytest.mark.parametrize("row", PROMISES)
def test_each_promise_names_a_test_that_is_there(row: str) -> None:
    _, promise, tests, _ = row.split("|")
    named = re.findall(r"`([\w/.]+)::(\w+)`", tests)
    assert promise.strip()
    assert named
    for file, test in named:
        text = (REPOSITORY / "tests" / file).read_text("utf-8")
        assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"{file}::{test}"


def test_every_open_point_of_iqdet_that_the_code_names_is_listed() -> None:
    listed = re.findall(r"^\| (A\d+) \|", (REPOSITORY / "docs" / "iqdet.md").read_text("utf-8"), re.MULTILINE)
    assert listed == [f"A{number}" for number in range(1, 35)]
    named = {
        point
        for package in ("assigners", "detector", "harness")
        for path in (REPOSITORY / package).rglob("*.py")
        for point in re.findall(r"\bA\d+\b", path.read_text("utf-8"))
    }
    assert {"A3", "A7", "A9", "A11"} <= named <= {*listed}


def test_the_table_is_read() -> None:
    assert len(ROWS) > 50
    assert len(PROMISES) > 30
