"""How far long work is, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness import progress
from harness.progress import tracked


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by 4 s whenever it is asked."""
    now = [0.0]

    def ask() -> float:
        now[0] += 4
        return now[0]

    monkeypatch.setattr(progress, "monotonic", ask)


def read(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_a_line_now_and_then_with_the_time_left(clock):
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    parts = ["ab"] * 6
    assert list(tracked(parts, len, 12, "evaluating", console)) == parts
    # Asked at the start and after each part, 4 s apart; a line each 12 s.
    assert read(console).splitlines() == ["evaluating 6/12  12 s left", "evaluating 12/12  0 s left"]


def test_a_terminal_gets_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    assert list(tracked([3, 4], lambda part: part, 7, "evaluating", console)) == [3, 4]
    assert "evaluating" in read(console)
    assert "7/7" in read(console)


def test_without_a_console_it_is_silent():
    assert list(tracked([1], lambda part: part, 1, "evaluating", None)) == [1]
