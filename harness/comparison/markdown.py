"""The boards as Markdown for a README: a line per assigner, its mean over seeds, its interval and its rank group."""

from __future__ import annotations

from collections.abc import Iterable

from harness.comparison.board import Board, BoardEntry, parts, sharpest_first
from harness.comparison.noise import noise
from harness.records.schema import METRICS

WITH_INTERVAL, WITHOUT = METRICS[:2], METRICS[2:]


def shown_parts(boards: Iterable[Board], *, variants: bool = False) -> list[Board]:
    """Boards, the sharpest first, without those of one entry, where there are others.

    Args:
        boards: of `harness.comparison.board.boards`.
        variants: also those of assigners with other options than their defaults.
    """
    shown = [part for board in sharpest_first(boards) for part in parts(board) if variants or part.part != "variants"]
    return [board for board in shown if len(board.entries) > 1] or shown  # one entry alone compares nothing


def summary_of(boards: Iterable[Board]) -> str:
    """A Markdown table for each board, best mean AP first.

    AP and AP50 are means and, from two seeds on, half the width of the 95 % t-interval over seeds. Entries that share a
    letter are not told apart in AP. Above a table stands its noise.
    """
    return "\n\n".join("\n".join(_lines(board)) for board in boards) + "\n"


def _lines(board: Board) -> Iterable[str]:
    question = board.question
    extras = ", with declared extras" * (board.kind == "extended") + ", variants" * (board.part == "variants")
    protocol = f"`{question.protocol}` ({question.protocol_hash})"
    yield f"Protocol {protocol}, data `{question.data}` ({question.data_hash}){extras}:"
    yield ""
    if (floor := noise(board)) is not None:
        yield str(floor)
        yield ""
    columns = ("assigner", "seeds", "group", *METRICS)
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    for entry, group in zip(board.entries, board.letters, strict=True):
        intervals = (str(entry.interval(name)) for name in WITH_INTERVAL)
        means = (_mean(entry, name) for name in WITHOUT)
        yield "| " + " | ".join((f"`{entry.name}`", str(len(entry.seeds)), group, *intervals, *means)) + " |"


def _mean(entry: BoardEntry, metric: str) -> str:
    value = entry.mean(metric)
    return "-" if value is None else f"{value:.1f}"
