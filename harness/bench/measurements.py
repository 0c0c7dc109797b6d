"""The file of measurements: a row per assigner, kind of batch and machine; a new one takes the place of an old one."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path
from typing import Any

from harness.bench.batches import Measurement
from harness.core.errors import UserError, reason, writing
from harness.core.files import write_atomically

Line = dict[str, str]

ENVIRONMENT = ("device", "torch", "threads", "commit")
# What was measured; every other column says of what.
MEASURED = {"passes", "ms", "dense_ms", "ratio", "mib", "dense_mib", "calls", "dense_calls", "note",
            "step_ms", "ready_ms", "share", "stand_in",
            "ours_ms", "theirs_ms", "times", "low", "high", "floor_ms", "turns"}  # fmt: skip


def to_line(row: Any, environment: Mapping[str, Any]) -> Line:
    """A dataclass of numbers as the file holds it, and where it was measured."""
    values = {**asdict(row), **{name: environment[name] for name in ENVIRONMENT}}
    return {name: _text(value) for name, value in values.items()}


def read_lines(path: Path, kind: type[Any] = Measurement) -> list[Line]:
    """All rows of a file; none where there is no file yet.

    Raises:
        UserError: for a file that is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, restval="")
            names, lines = list(reader.fieldnames or ()), list(reader)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}; move it away") from error
    if names != columns(kind) or any(None in line for line in lines):
        raise UserError(f"{path} is no table of this version's measurements; move it away, it is made anew")
    return lines


def merge(old: Iterable[Line], new: Iterable[Line], kind: type[Any] = Measurement) -> list[Line]:
    """Old and new rows in order, a new one in the place of an old one of the same machine, assigner and batch."""
    key = ["device", "threads", *(field.name for field in fields(kind) if field.name not in MEASURED)]
    known = {tuple(line[name] for name in key): line for line in (*old, *new)}
    return [known[place] for place in sorted(known, key=_order)]


def write_lines(path: Path, lines: Sequence[Line], kind: type[Any] = Measurement) -> None:
    """Write the whole file or nothing."""
    with writing(path):
        text = StringIO()
        writer = csv.DictWriter(text, columns(kind), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        write_atomically(path, text.getvalue())


def columns(kind: type[Any]) -> list[str]:
    """Of a file of such rows."""
    return [*(field.name for field in fields(kind)), *ENVIRONMENT]


def number_of(line: Line, name: str) -> float | None:
    """A number of a row, None where there is none."""
    try:
        return float(line[name]) if line[name] else None
    except ValueError as error:
        raise UserError(
            f"column {name} of a measurement is {line[name]!r}, no number; mend or delete the file"
        ) from error


def short(value: float | None) -> str:
    """Three figures that count."""
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _order(place: Sequence[str]) -> list[tuple[float, str]]:
    return [(float(word), "") if word.isdigit() else (-1.0, word) for word in place]


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
