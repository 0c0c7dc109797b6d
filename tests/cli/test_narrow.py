"""Tables on terminals of any width: numbers whole, and nothing left out in silence."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cli.console.tables import show


def shown(width: int, spare: tuple[str, ...] = ("note", "date")) -> list[str]:
    table = Table(title="a title", title_justify="left")
    table.add_column("assigner")
    table.add_column("memory MB", justify="right")
    table.add_column("images/s", justify="right")
    table.add_column("date", justify="right")
    table.add_column("note", overflow="fold")
    table.add_row(Text("center"), "1234.5", "40.1", "2021-03-28", Text("[a] note of many words, longer than a column"))
    table.add_section()
    table.add_row(Text("iqdet[level_gate=contains_grid]"), "-", "39.8", "2021-03-29", "")
    screen = Console(file=io.StringIO(), width=width, force_terminal=False)
    show(screen, table, spare, "--json")
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


def test_where_there_is_room_nothing_changes():
    lines = shown(200)
    assert any("memory MB" in line for line in lines)
    assert any("[a] note of many words, longer than a column" in line for line in lines)
    assert "too few" not in lines[-1]


@pytest.mark.parametrize("width", range(40, 130, 5))
def test_numbers_stay_whole_and_lines_fit(width):
    lines = shown(width)
    left_out = lines[-1] if "too few" in lines[-1] else ""
    body = lines[:-1] if left_out else lines
    assert all(len(line) <= width for line in body)
    text = "\n".join(body)
    for number in ("1234.5", "40.1", "39.8"):
        assert number in text
    assert ("2021-03-28" in text) != ("date" in left_out)
    assert "…" not in text


def test_columns_go_in_the_order_of_what_may_be_spared():
    told = [re.findall(r"too few for (.*); --json", shown(width)[-1]) for width in (100, 60, 45)]
    assert told == [[], ["note"], ["note, date"]]


def test_a_row_of_totals_stays_apart():
    lines = shown(45)
    assert sum(line.startswith("├") for line in lines) == 1


def test_without_anything_to_spare_numbers_still_are_whole():
    text = "\n".join(shown(45, spare=()))
    assert "1234.5" in text
    assert "2021-03-28" in text
