"""What the paper prints, transcribed: ``results/published/table<N>.csv``. A number that its source lost is absent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.core.errors import UserError, reason
from harness.records.schema import METRICS

FOLDER = Path(__file__).resolve().parents[2] / "results" / "published"
COLUMNS = ("table", "row", "method", "split", "setting", *METRICS, "note")


@dataclass(frozen=True)
class Published:
    """One row as printed."""

    row: str  # its number within the table, from 1
    method: str  # as printed, or in words where the source has ticks
    split: str  # the images of the evaluation
    setting: str  # as printed, or in words
    metrics: dict[str, float]  # points by name; only what is known
    note: str  # what is odd about the row, or lost


def published(table: int, folder: Path = FOLDER) -> dict[str, Published]:
    """The rows of a table by their number, in printed order.

    Raises:
        UserError: if the file is missing or holds something else.
    """
    path = folder / f"table{table}.csv"
    try:
        # "#" begins the line that names the source.
        frame = pd.read_csv(path, comment="#", dtype=str, keep_default_na=False)
        if tuple(frame.columns) != COLUMNS:
            raise ValueError(f"columns {', '.join(frame.columns)}; expected {', '.join(COLUMNS)}")
        rows = [_row(values) for values in frame.to_dict("records")]
    except FileNotFoundError as error:
        raise UserError(f"no published numbers at {path}; they come with the repository, not the package") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} does not hold a published table: {reason(error)}") from error
    return {row.row: row for row in rows}


def source(table: int, folder: Path = FOLDER) -> str:
    """The line of the file that says where its numbers are from."""
    return (folder / f"table{table}.csv").read_text("utf-8").partition("\n")[0].lstrip("# ")


def _row(values: dict[Any, str]) -> Published:
    metrics = {name: float(values[name]) for name in METRICS if values[name]}
    return Published(values["row"], values["method"], values["split"], values["setting"], metrics, values["note"])
