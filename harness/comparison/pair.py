"""Two assigners side by side: what is between them, with its interval, or why they may not be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assigners.registry import parse_spec
from harness.comparison.board import Board, BoardEntry, gap
from harness.comparison.intervals import Gap, paired_gap
from harness.core.errors import UserError, did_you_mean, shorten
from harness.records.schema import METRICS, RunRecord

SHOWN_KEYS = 12  # differing keys that a refusal lists


@dataclass(frozen=True)
class Comparison:
    """Two entries of one board."""

    board: Board
    a: BoardEntry
    b: BoardEntry
    # Metric -> first minus second on the shared seeds; empty where they share none. Of AP by the objects' shape
    # (`by_shape`) the interval holds the noise of training alone.
    gaps: dict[str, Gap]

    @property
    def seeds(self) -> list[int]:
        """Seeds that both entries have."""
        return sorted({*self.a.seeds} & {*self.b.seeds})

    @property
    def equal(self) -> dict[str, bool | None]:
        """Whether the runs agreed, at each shared seed, in what must not depend on the assigner; None: not recorded."""
        first, second = ({r.seed: r.equal for r in entry.records} for entry in (self.a, self.b))
        agreed: dict[str, bool | None] = {}
        for name in ("initial_weights", "batches"):
            pairs = [(getattr(first[seed], name), getattr(second[seed], name)) for seed in self.seeds]
            unknown = not pairs or any(None in pair for pair in pairs)
            agreed[name] = None if unknown else all(x == y for x, y in pairs)
        return agreed

    def step_ratio(self) -> float | None:
        """Step time of the first over that of the second, where both ran on the same kind of machine and threads."""
        a, b = self.a.cost("step_ms"), self.b.cost("step_ms")
        same = len({_machine(record) for record in (*self.a.records, *self.b.records)}) == 1
        return a / b if same and a and b else None


def compare(boards: Sequence[Board], first: str, second: str) -> list[Comparison]:
    """Every board on which both stand.

    Args:
        boards: of `harness.comparison.board.boards`, all that may be looked at.
        first, second: an assigner with its options as ``--assigner`` takes it, or a run id or its beginning.

    Raises:
        UserError: for an unknown name, the same one twice, or two that share no board, with the keys that differ.
    """
    a, b = _find(boards, first), _find(boards, second)
    shared = [(board, x, y) for board, x in a for other, y in b if other is board]
    if not shared:
        raise UserError(_refusal(first, a, second, b))
    if any(x is y for _, x, y in shared):
        raise UserError(f"{first} and {second} are the same entry; name two")
    return [Comparison(board, x, y, _gaps(x, y)) for board, x, y in shared]


def differing_keys(a: Any, b: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """``(dotted key, value in a, value in b)`` wherever two nested dicts differ, in order of the keys."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a} | {*b}):
            yield from differing_keys(a.get(key), b.get(key), f"{at}.{key}" if at else str(key))
    elif a != b:
        yield at, a, b


def _find(boards: Iterable[Board], wanted: str) -> list[tuple[Board, BoardEntry]]:
    everything = [(board, entry) for board in boards for entry in board.entries]
    if "-" in wanted:  # a run id has its hyphens; a name alone is an assigner
        by_run = [pair for pair in everything if any(r.run_id.startswith(wanted) for r in pair[1].records)]
        if by_run:
            return by_run
    name, options = parse_spec(wanted)
    by_name = [(board, entry) for board, entry in everything if _is(entry, name, options)]
    if not by_name:
        names = sorted({entry.name for _, entry in everything})
        raise UserError(
            f"no finished run of {wanted!r}{did_you_mean(wanted, names)}; known: {shorten(', '.join(names)) or 'none'}"
        )
    return by_name


def _is(entry: BoardEntry, name: str, options: Mapping[str, Any]) -> bool:
    """Whether an entry is what ``name[options]`` asks for: options not named there are at their defaults."""
    changed = {*parse_spec(entry.name)[1]}
    return (
        entry.assigner == name
        and changed <= {*options}
        and all(key in entry.options and _same(entry.options[key], text) for key, text in options.items())
    )


def _same(value: Any, text: Any) -> bool:
    if str(value) == str(text) or str(value).lower() == str(text).lower():
        return True
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return False


def _gaps(a: BoardEntry, b: BoardEntry) -> dict[str, Gap]:
    gaps = {name: between for name in METRICS if (between := gap(a, b, name)) is not None}
    left, right = by_shape(a), by_shape(b)
    shared = (name for name in left if left[name].keys() & right.get(name, {}).keys())
    return gaps | {name: paired_gap(left[name], right[name]) for name in shared}


def by_shape(entry: BoardEntry) -> dict[str, dict[int, float]]:
    """AP by seed within each bin of the objects' attributes, and that of the last bin minus that of the first.

    The gap of the latter is what one assigner gains where the attribute is large beyond what it gains where it is
    small. Runs whose records do not have it are left out.
    """
    aps: dict[str, dict[int, float]] = {}
    for record in entry.records:
        for attribute, bins in (record.metrics.bins or {}).items():
            known = {name: part.AP for name, part in bins.items() if part.AP is not None}
            words = attribute.replace("_", " ")
            for name, value in known.items():
                aps.setdefault(f"AP, {words} {name}", {})[record.seed] = value
            first, last = (list(bins)[place] for place in (0, -1))
            if first in known and last in known and first != last:
                aps.setdefault(f"AP, {words} {last} minus {first}", {})[record.seed] = known[last] - known[first]
    return aps


def _machine(record: RunRecord) -> tuple[Any, ...]:
    environment = record.environment
    return tuple(getattr(environment, key, None) for key in ("device", "threads", "processes", "torch"))


def _refusal(first: str, a: list[tuple[Board, BoardEntry]], second: str, b: list[tuple[Board, BoardEntry]]) -> str:
    (board_a, x), (board_b, y) = min(
        ((i, j) for i in a for j in b), key=lambda pair: len([*_differences(pair[0], pair[1])])
    )
    if board_a.question == board_b.question:
        declared = {entry.name: changes for entry in (x, y) if (changes := entry.records[0].declares.changes)}
        return (
            f"{first} and {second} are not compared: {declared} changes more than the assignment, so it stands on the "
            "extended board, the other on the fair one"
        )
    keys = [f"{key} {left!r} / {right!r}" for key, left, right in _differences((board_a, x), (board_b, y))]
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return (
        f"{first} and {second} never ran under one protocol on the same data; nearest: {x.records[0].run_id} and "
        f"{y.records[0].run_id}, which differ in {', '.join(keys[:SHOWN_KEYS])}{more}; run one of them as the other"
    )


def _differences(a: tuple[Board, BoardEntry], b: tuple[Board, BoardEntry]) -> Iterator[tuple[str, Any, Any]]:
    """Between the protocols and the data of two entries."""
    left, right = (entry.records[0] for _, entry in (a, b))
    yield from differing_keys(left.protocol.content, right.protocol.content)
    which = {"train": {"split", "checksum"}, "val": {"split", "checksum"}}
    yield from differing_keys(left.data.model_dump(include=which), right.data.model_dump(include=which), "data")
