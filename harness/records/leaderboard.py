"""The leaderboard: one row per run, derived from the records and never edited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from harness.core.again import aimed_at
from harness.core.errors import UserError
from harness.core.files import exclusively, write_atomically
from harness.records.identity import data_hash
from harness.records.names import changed_options, known_defaults, newest_attempts
from harness.records.schema import METRICS, RunRecord
from harness.records.store import ResultsStore

COLUMNS = (
    "protocol", "protocol_hash", "data", "data_hash", "assigner", "parameters", "declares", "seed", *METRICS,
    "images_per_s", "step_ms", "peak_memory_mb", "network_parameters", "assigner_parameters", "commit", "date",
    "device", "run_id", "command",
)  # fmt: skip
# Decimals of floats, so that the file does not depend on a library's taste.
DECIMALS = {**dict.fromkeys(METRICS, 2), "images_per_s": 1, "step_ms": 1, "peak_memory_mb": 0}


def leaderboard(records: Iterable[RunRecord]) -> pd.DataFrame:
    """The table, best AP first within each protocol and data set.

    Args:
        records: in the order of `ResultsStore.load_all`; of several attempts at a run the newest is shown.
    """
    newest = newest_attempts(records)
    defaults = known_defaults(newest)
    rows = sorted((_row(record, changed_options(record, defaults)) for record in newest), key=_rank)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_leaderboard(store: ResultsStore) -> Path:
    """Write ``leaderboard.csv`` beside the records; the same records give the same bytes."""
    path = store.root / "leaderboard.csv"
    # Of two runs that end together, the one that writes last must have read both records.
    with exclusively(store.root / ".leaderboard.lock", wait=True):
        write_atomically(path, _csv(store))
    return path


def check_leaderboard(store: ResultsStore) -> None:
    """Hold ``leaderboard.csv`` against the records.

    Raises:
        UserError: naming the first row that differs, a file that is no record, or the missing table.
    """
    path, command = store.root / "leaderboard.csv", aimed_at("harness leaderboard", store.root)
    _, problems = store.load_all()
    if problems:
        raise UserError(f"{problems[0]}; move it out of {store.runs_dir}")
    try:
        written = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; `{command}` writes it") from error
    lines = zip_longest(written.split("\n"), _csv(store).split("\n"), fillvalue="(nothing)")
    for number, (has, wants) in enumerate(lines, start=1):
        if has != wants:
            raise UserError(
                f"{path} line {number} is {has or '(nothing)'!r}, the records give {wants or '(nothing)'!r}; "
                f"the table is derived: run `{command}` and commit what it writes"
            )


def _csv(store: ResultsStore) -> str:
    table = leaderboard(store.load_all()[0])
    text = pd.DataFrame({name: [_cell(value, DECIMALS.get(name)) for value in table[name]] for name in COLUMNS})
    return text.to_csv(index=False, lineterminator="\n")


def _cell(value: object, digits: int | None) -> str:
    if value is None or value != value:  # NaN stands for None in a numeric column
        return ""
    return str(value) if digits is None else f"{value:.{digits}f}"


def _rank(row: dict[str, Any]) -> tuple[Any, ...]:
    undefined = row["AP"] is None
    where = (row["protocol"], row["protocol_hash"], row["data"], row["data_hash"])
    return (*where, undefined, 0.0 if undefined else -row["AP"], row["run_id"])


def declared(record: RunRecord) -> str:
    """What the assigner changed besides the assignment, ``replaces=box|class;nms=False``; empty on the fair board."""
    changes = record.declares.changes.items()
    words = {key: "|".join(value) if isinstance(value, list) else value for key, value in changes}
    return ";".join(f"{key}={value}" for key, value in words.items())


def _row(record: RunRecord, changed: Mapping[str, Any]) -> dict[str, Any]:
    data, cost, metrics = record.data, record.cost, record.metrics
    return {
        "protocol": record.protocol.name,
        "protocol_hash": record.protocol.hash,
        "data": data.title,
        "data_hash": data_hash(data),
        "assigner": record.assigner,
        "parameters": ";".join(f"{key}={value}" for key, value in changed.items()),
        "declares": declared(record),
        "seed": record.seed,
        **{name: metrics[name] for name in METRICS},
        "images_per_s": cost.images_per_s,
        "step_ms": cost.step_ms,
        "peak_memory_mb": cost.peak_memory_mb,
        "network_parameters": cost.parameters,
        "assigner_parameters": cost.assigner_parameters,
        "commit": record.source.commit,
        "date": record.created[:10],
        "device": record.environment.device,
        "run_id": record.run_id,
        "command": record.command,
    }
