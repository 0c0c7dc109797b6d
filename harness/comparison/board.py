"""Boards: which runs may be compared, and what the comparison says.

A *question* is a protocol and a data set, by their hashes: under one question nothing differs but the assigner. Where
an assigner declares that it changes more than the assignment (a replaced loss term, a score rule, no NMS, voting), its
runs stand on the question's ``extended`` board, all others on its ``fair`` board; no table mixes the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from assigners.registry import row_name
from harness.comparison.intervals import Gap, Interval, holm, letters, mean_interval, paired_gap, smallest_gap
from harness.records.details import Bootstrap, Details
from harness.records.identity import Question, question_of
from harness.records.names import changed_options, known_defaults, oldest_first
from harness.records.schema import CostPart, RunRecord

Kind = Literal["fair", "extended"]
Part = Literal["everything", "defaults", "variants"]
METRIC = "AP"  # that boards are ordered and compared by
ALPHA = 0.05  # for the whole family of a board's pairs (Holm)


@dataclass(frozen=True)
class BoardEntry:
    """One assigner with its options: a run per seed, by seed."""

    name: str  # as ``--assigner`` takes it
    assigner: str
    options: dict[str, Any]  # all of them, defaults included
    changed: dict[str, Any]  # those that are not at their default
    records: tuple[RunRecord, ...]
    details: tuple[Details | None, ...]  # of each run; None where they are not at hand

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs, rising."""
        return tuple(record.seed for record in self.records)

    def values(self, metric: str) -> dict[int, float]:
        """A metric by seed, in points; seeds at which it is undefined are left out."""
        values = {record.seed: record.metrics[metric] for record in self.records}
        return {seed: float(value) for seed, value in values.items() if value is not None}

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over seeds, in points."""
        values = self.values(metric).values()
        return sum(values) / len(values) if values else None

    def interval(self, metric: str) -> Interval:
        """Mean over seeds with its 95 % interval; of training noise alone, on these very images."""
        return mean_interval(list(self.values(metric).values()))

    def cost(self, name: str) -> float | None:
        """Of the run that did best: other work on the machine only ever adds to a cost, and takes from a rate."""
        values = [record.cost[name] for record in self.records]
        best = max if name in CostPart.RATES else min
        return best((value for value in values if value is not None), default=None)

    def replicates(self, metric: str) -> dict[int, NDArray[np.float64]]:
        """The metric under re-weighted images ``[B]``, by seed, where the details are at hand."""
        return {
            record.seed: np.array(getattr(details.bootstrap, metric), dtype=np.float64)  # null becomes NaN
            for record, details in zip(self.records, self.details, strict=True)
            if details is not None and metric in Bootstrap.model_fields
        }


@dataclass(frozen=True)
class Board:
    """All entries of a question that may be compared, best mean AP first."""

    question: Question
    kind: Kind
    entries: tuple[BoardEntry, ...]  # those without an AP come last
    part: Part = "everything"  # which of all the entries these are (`parts`)

    @property
    def ranked(self) -> list[BoardEntry]:
        """The entries with an AP."""
        return [entry for entry in self.entries if entry.values(METRIC)]

    @cached_property
    def gaps(self) -> dict[tuple[str, str], Gap]:
        """What is between two entries, first minus second, for each pair in board order that shares a seed."""
        known = ((a, b, gap(a, b)) for a, b in combinations(self.ranked, 2))
        return {(a.name, b.name): between for a, b, between in known if between is not None}

    @cached_property
    def told_apart(self) -> frozenset[tuple[str, str]]:
        """Pairs of `gaps` that differ at `ALPHA`, by Holm's correction over all of the board's tested pairs."""
        known = {pair: gap.p for pair, gap in self.gaps.items() if gap.p is not None and gap.tested}
        corrected = zip(known, holm(list(known.values())), strict=True)
        return frozenset(pair for pair, p in corrected if p < ALPHA)

    @cached_property
    def letters(self) -> tuple[str, ...]:
        """The rank groups of each entry: two entries that share a letter are not told apart. None without an AP."""
        names = [entry.name for entry in self.ranked]
        pairs = combinations(range(len(names)), 2)
        groups = letters(names, {(i, j): (names[i], names[j]) in self.told_apart for i, j in pairs})
        return (*groups, *("" for _ in self.entries[len(names) :]))  # those without come last

    @cached_property
    def smallest(self) -> float | None:
        """The smallest gap in AP that pairs of this board find with 80 % power: from the median pair's noise."""
        return smallest_gap([gap for gap in self.gaps.values() if gap.se_seed is not None])

    def entry(self, name: str) -> BoardEntry:
        """By name.

        Raises:
            KeyError: if it is not on the board.
        """
        return {entry.name: entry for entry in self.entries}[name]


def parts(board: Board) -> list[Board]:
    """A board as it is shown: assigners at their defaults, and apart from them every variant with its own default.

    Rank groups are corrected for the number of pairs, so an ablation of one assigner must not cost the others their
    distinctions. A board that has only one of the two stays whole.
    """
    usual = tuple(entry for entry in board.entries if not entry.changed)
    variants = {entry.assigner for entry in board.entries if entry.changed}
    if not usual or not variants:
        return [board]
    beside = tuple(entry for entry in board.entries if entry.assigner in variants)
    return [replace(board, entries=usual, part="defaults"), replace(board, entries=beside, part="variants")]


def gap(a: BoardEntry, b: BoardEntry, metric: str = METRIC) -> Gap | None:
    """What is between two entries of a board, first minus second, on the seeds that both have; None where none is."""
    if a.values(metric).keys().isdisjoint(b.values(metric)):
        return None
    return paired_gap(a.values(metric), b.values(metric), a.replicates(metric), b.replicates(metric))


def boards(records: Iterable[RunRecord], details: Mapping[str, Details]) -> list[Board]:
    """Every board that the records give, by question, the fair one first.

    Args:
        records: in the order of `ResultsStore.load_all`; of several attempts at a run the newest counts.
        details: by run id.
    """
    newest = oldest_first(records)
    defaults = known_defaults(newest)
    # Names may differ, hashes decide; a question is called what its newest run calls it.
    questions = {asked.key: asked for asked in map(question_of, newest)}
    rows: dict[tuple[Question, Kind], dict[str, list[RunRecord]]] = {}
    changed: dict[str, dict[str, Any]] = {}
    for record in newest:
        asked = questions[question_of(record).key]
        options = changed_options(record, defaults)
        name = row_name(record.assigner, options)
        changed[name] = options
        kind: Kind = "extended" if record.declares.changes else "fair"
        rows.setdefault((asked, kind), {}).setdefault(name, []).append(record)
    every = []
    for (question, kind), named in sorted(rows.items(), key=lambda row: (row[0][0], row[0][1] != "fair")):
        entries = [_entry(name, changed[name], runs, details) for name, runs in named.items()]
        every.append(Board(question, kind, tuple(sorted(entries, key=_rank))))
    return every


def sharpest_first(boards: Iterable[Board]) -> list[Board]:
    """By the smallest gap that they find; those whose noise is not known come last, as they came."""
    return sorted(boards, key=lambda board: math.inf if board.smallest is None else board.smallest)


def _entry(name: str, changed: dict[str, Any], runs: Sequence[RunRecord], details: Mapping[str, Details]) -> BoardEntry:
    """Of runs from the oldest to the newest."""
    # Two runs may share name and seed where an option was added later: the newer one is the assigner of today.
    by_seed = {run.seed: run for run in runs}
    chosen = tuple(run for _, run in sorted(by_seed.items()))
    newest, known = chosen[-1], tuple(details.get(run.run_id) for run in chosen)
    return BoardEntry(name, newest.assigner, dict(newest.options), changed, chosen, known)


def _rank(entry: BoardEntry) -> tuple[bool, float, str]:
    mean = entry.mean(METRIC)
    return mean is None, -(mean or 0.0), entry.name
