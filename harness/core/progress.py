"""Live progress of training and evaluation: a line that moves on a terminal, a line now and then in a log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

LOG_EVERY = 10.0  # s between lines where nobody watches live
BAR = 16  # characters of the bar of training, which has much to say beside it

Part = TypeVar("Part")


def say(console: Console | None, text: str) -> None:
    """One line as it is, where there is a console."""
    if console is not None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def tracked(
    parts: Iterable[Part], size: Callable[[Part], int], total: int, words: str, console: Console | None
) -> Iterator[Part]:
    """The parts of long work one by one, showing how much of it is done. Without a console it is silent.

    Args:
        size: of a part, `total` of all.
        words: what is done, to stand before the numbers.
    """
    if console is None:
        yield from parts
    elif console.is_terminal:
        columns = TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console) as live:
            task = live.add_task(words, total=total)
            for part in parts:
                yield part
                live.advance(task, size(part))
    else:
        start = last_line = monotonic()
        done = 0
        for part in parts:
            yield part
            done, now = done + size(part), monotonic()
            if now - last_line > LOG_EVERY:
                last_line = now
                left = (now - start) * (total - done) / done
                console.print(f"{words} {done}/{total}  {left:.0f} s left", highlight=False)


class Reporter:
    """Shows steps, speed, time left, losses, positives per box and their mean IoU. Without a console it is silent.

    Args:
        total, done: steps of the run, and those already done.
        batch_size: images per step.
    """

    def __init__(self, console: Console | None, total: int, done: int, batch_size: int) -> None:
        self.console, self.total, self.batch_size = console, total, batch_size
        self.start, self.first, self.last_line = monotonic(), done, 0.0
        self.live: Progress | None = None
        if console is not None and console.is_terminal:
            # On a narrow terminal the details are cut, not the steps and the time left.
            whole = Column(no_wrap=True, min_width=len(f"{total}/{total}"))
            rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            self.live = Progress(
                TextColumn("training"), BarColumn(BAR), MofNCompleteColumn(table_column=whole), TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}", table_column=rest), console=console, expand=True,
            )  # fmt: skip
            self.task = self.live.add_task("training", total=total, completed=done, detail="")
            self.live.start()

    def update(self, done: int, losses: Mapping[str, float], statistics: Mapping[str, float]) -> None:
        """Show the state after `done` steps."""
        if self.console is None:
            return
        elapsed = max(monotonic() - self.start, 1e-9)
        rate = (done - self.first) / elapsed
        detail = (
            f"{rate * self.batch_size:.0f} img/s  "
            + " ".join(f"{name} {value:.3f}" for name, value in losses.items())
            + f"  {statistics.get('positives_per_box', 0):.1f} pos/box"
            + f"  IoU {statistics.get('iou_of_positives', 0):.2f}"
        )
        if self.live is not None:
            self.live.update(self.task, completed=done, detail=detail)
        elif monotonic() - self.last_line > LOG_EVERY or done == self.total:
            self.last_line = monotonic()
            left = (self.total - done) / rate if rate > 0 else float("nan")
            self.console.print(f"step {done}/{self.total}  {left:.0f} s left  {detail}", highlight=False)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the screen to something else, whose time is not training's."""
        began = monotonic()
        if self.live is not None:
            self.live.stop()
        yield
        if self.live is not None:
            self.live.start()
        self.start += monotonic() - began

    def close(self) -> None:
        """Stop drawing and leave the terminal as it was."""
        if self.live is not None:
            self.live.stop()
