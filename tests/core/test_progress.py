"""How far long work is, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness.core import progress
from harness.core.progress import Reporter, tracked


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


@pytest.mark.parametrize("terminal", [False, True])
def test_an_evaluation_while_training_has_the_screen_to_itself(terminal, clock):
    """Its time is none of training's, so that the time left stays true."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    reporter = Reporter(console, total=40, done=0, batch_size=2)
    with reporter.paused():
        assert list(tracked(["a"] * 9, len, 9, "evaluating", console)) == ["a"] * 9
        assert reporter.live is None or not reporter.live.live.is_started
    assert reporter.live is None or reporter.live.live.is_started
    reporter.update(20, {}, {})
    reporter.close()
    shown = read(console)
    assert "evaluating" in shown
    # The clock went on by 4 s before and after the pause each, in which 20 steps of 2 images were made.
    assert "5 img/s" in shown


@pytest.mark.parametrize("width", [60, 80, 200])
def test_steps_and_time_left_are_shown_however_narrow_the_terminal(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    reporter = Reporter(console, total=90000, done=0, batch_size=16)
    losses = {"class": 0.5, "box": 0.61, "quality": 0.68}
    reporter.update(12345, losses, {"positives_per_box": 7.1})
    reporter.close()
    last = read(console).split("\r")[-1]
    assert "12345/90000" in last
    assert "-:--:--" in last  # not known yet
    assert ("quality 0.680" in last) == (width == 200)
