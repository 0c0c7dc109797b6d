"""Sweeps: a plan carried out run by run, and what a search over the protocol's numbers found.

Any number of processes may carry out one plan on one results directory: each run is claimed before it is begun, and
what another process has seen to meanwhile is taken as it is.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from assigners.registry import RegistryError, row_name
from harness.core.errors import InProgress, Interrupted, RunFailed, UserError, reason, shorten
from harness.core.files import exclusively, write_atomically
from harness.protocol.protocol import canonical_hash
from harness.records.failures import failure_path, find_failure, save_failure
from harness.records.identity import data_hash
from harness.records.names import changed_options, known_defaults, oldest_first
from harness.records.schema import RunRecord
from harness.records.store import ResultsStore
from harness.sweeps.plan import Plan, PlannedRun, marks, numeric_keys

Outcome = Literal["ran", "failed", "done before", "failed before", "in progress elsewhere"]
Point = tuple[float, ...]

_OWN_FAULTS = (RunFailed, UserError, RegistryError, MemoryError, OSError)  # anything else is a bug


@dataclass(frozen=True)
class Result:
    """How one run of a sweep went; `error` is one line where it failed or waits, `record` there where it ran."""

    run: PlannedRun
    outcome: Outcome
    error: str | None = None
    record: RunRecord | None = None

    @property
    def failed(self) -> bool:
        """Whether the run failed, now or before."""
        return self.outcome in ("failed", "failed before")


def carry_out(
    plan: Plan,
    store: ResultsStore,
    train: Callable[[PlannedRun], RunRecord],
    before: Callable[[int, Sequence[PlannedRun]], None],
    after: Callable[[Result], None],
) -> list[Result]:
    """Run what the plan wants, in its order; a run that fails is written down and the next one begins.

    Args:
        train: trains one run and returns its record.
        before: told the position of the run that begins, and all runs of this round.
        after: told how each ended.

    Returns:
        One result for each run of the plan, in its order.

    Raises:
        Interrupted: if the user stopped the run; the sweep stops with it.
    """
    results = {run.run_id: _ended(run, store, run.state == "failed") for run in plan.runs if not plan.wants(run)}
    waiting: Sequence[PlannedRun] = plan.todo
    for _ in range(2):  # what another process holds is tried once more at the end
        for position, run in enumerate(waiting):
            before(position, waiting)
            giver = results.get(run.weights_of or "")
            if giver is not None and giver.outcome == "in progress elsewhere":  # to begin now would be to train again
                result = Result(run, "in progress elsewhere", f"it evaluates the weights of {giver.run.title}")
            else:
                result = _claimed(run, store, train)
            results[run.run_id] = result
            after(result)
        waiting = [run for run in waiting if results[run.run_id].outcome == "in progress elsewhere"]
    return [results[run.run_id] for run in plan.runs]


def _claimed(run: PlannedRun, store: ResultsStore, train: Callable[[PlannedRun], RunRecord]) -> Result:
    """Hold the run against other sweeps while looking whether it is still wanted, and while it is run."""
    try:
        with exclusively(store.folder(run.run_id).claim, wait=False):
            # Where it ended in another process since the plan was made, it is not run a second time.
            if fresh := marks(store, run.run_id) - run.marks:
                return _ended(run, store, failed=any(folder == "failed" for folder, *_ in fresh))
            return _tried(run, store, train)
    except BlockingIOError:
        return Result(run, "in progress elsewhere")


def _ended(run: PlannedRun, store: ResultsStore, failed: bool) -> Result:
    """A run that is left as it is."""
    if not failed:
        return Result(run, "done before")
    failure = find_failure(store, run.run_id)
    return Result(run, "failed before", failure.error if failure else None)


def _tried(run: PlannedRun, store: ResultsStore, train: Callable[[PlannedRun], RunRecord]) -> Result:
    """Run it, and write down what goes wrong."""
    traceback_file = store.folder(run.run_id).error
    try:
        record = train(run)
    except Interrupted:
        raise
    except InProgress:  # by itself rather than in a sweep
        return Result(run, "in progress elsewhere")
    except _OWN_FAULTS as error:
        message = shorten(reason(error), 1000)
    except Exception as error:
        message = shorten(f"{type(error).__name__}: {reason(error)}", 1000)
        write_atomically(traceback_file, traceback.format_exc())
    else:
        for path in (failure_path(store, run.run_id), traceback_file):
            path.unlink(missing_ok=True)
        return Result(run, "ran", record=record)
    finally:
        gc.collect()  # networks are full of cycles, and the next run needs their memory
    save_failure(store, run.spec, message, run.command)
    return Result(run, "failed", message)


@dataclass(frozen=True)
class SearchCurve:
    """AP of one assigner over a search."""

    name: str  # as ``--assigner`` takes it
    assigner: str
    options: dict[str, Any]  # all of them, defaults included
    aps: dict[Point, dict[int, float]]  # in points by seed, at each point of the search that has runs

    def mean(self, point: Point) -> float | None:
        """Over seeds; None where no run is."""
        values = self.aps.get(point)
        return fmean(values.values()) if values else None

    @property
    def best(self) -> Point:
        """Where the mean is highest; of equals the lowest."""
        return max(sorted(self.aps), key=lambda point: fmean(self.aps[point].values()))

    @property
    def spread(self) -> float:
        """Highest mean minus lowest, in points: what the choice of these numbers decides."""
        means = [fmean(values.values()) for values in self.aps.values()]
        return max(means) - min(means)


@dataclass(frozen=True)
class Search:
    """Runs whose protocols differ in some numbers and nothing else."""

    keys: tuple[str, ...]  # the numbers, as ``section.key``
    protocol: str  # the shortest name of these protocols
    data: str  # title
    points: tuple[Point, ...]  # values of `keys`, rising
    curves: tuple[SearchCurve, ...]  # one per assigner with two points or more, best mean first

    def at_edge(self, curve: SearchCurve) -> tuple[str, ...]:
        """The keys whose best value is the smallest or the largest of the search: the optimum may lie outside."""
        columns = zip(self.keys, curve.best, zip(*self.points, strict=True), strict=True)
        ends = ((key, value, min(values), max(values)) for key, value, values in columns)
        return tuple(key for key, value, low, high in ends if low < high and value in (low, high))


def sensitivity(records: Iterable[RunRecord], keys: Sequence[str] | None = None) -> list[Search]:
    """How AP depends on numbers of the protocol, for each assigner.

    Args:
        records: in the order of `ResultsStore.load_all`.
        keys: the numbers of one search, varied together; None looks for each real number of the schedule and the loss
            that protocols differ in, one at a time.

    Returns:
        A search for each protocol (but for these numbers) and data set with two points or more.
    """
    newest = [record for record in oldest_first(records) if record.metrics.AP is not None]
    defaults = known_defaults(newest)
    searches = []
    for wanted in [tuple(keys)] if keys is not None else _real_numbers(newest):
        rests, groups = _rests(newest, wanted), dict[tuple[str, str], list[RunRecord]]()
        for record in newest:
            if record.protocol.hash in rests:
                groups.setdefault((rests[record.protocol.hash], data_hash(record.data)), []).append(record)
        searches += [search for group in groups.values() if (search := _search(wanted, group, defaults)) is not None]
    return searches


def _real_numbers(records: Iterable[RunRecord]) -> list[tuple[str]]:
    """Keys of schedule and loss; whole numbers (steps, images per step) are the size of a run, not its tuning."""
    values: dict[str, set[float]] = {}
    for content in _contents(records).values():
        for key, value in numeric_keys(content).items():
            if isinstance(value, float) and key.startswith(("schedule.", "loss.")):
                values.setdefault(key, set()).add(value)
    return [(key,) for key, known in sorted(values.items()) if len(known) > 1]


def _rests(records: Sequence[RunRecord], keys: tuple[str, ...]) -> dict[str, str]:
    """Hash of a protocol -> that of the same without `keys`; those that lack one of them are left out."""
    return {
        digest: canonical_hash(
            {s: {k: v for k, v in values.items() if f"{s}.{k}" not in keys} for s, values in content.items()}
        )
        for digest, content in _contents(records).items()
        if {*keys} <= numeric_keys(content).keys()
    }


def _contents(records: Iterable[RunRecord]) -> dict[str, Mapping[str, Any]]:
    return {record.protocol.hash: record.protocol.content for record in records}


def _search(
    keys: tuple[str, ...], records: Sequence[RunRecord], defaults: Mapping[str, Mapping[str, Any]]
) -> Search | None:
    """One search from records whose protocols differ in `keys` alone; None if there is nothing to compare."""
    curves: dict[str, SearchCurve] = {}
    for record in records:
        numbers = numeric_keys(record.protocol.content)
        point = tuple(float(numbers[key]) for key in keys)
        name = row_name(record.assigner, changed_options(record, defaults))
        curve = curves.setdefault(name, SearchCurve(name, record.assigner, dict(record.options), {}))
        if record.metrics.AP is not None:
            curve.aps.setdefault(point, {})[record.seed] = record.metrics.AP
    compared = [curve for curve in curves.values() if len(curve.aps) > 1]
    if not compared:
        return None
    return Search(
        keys,
        min((record.protocol.name for record in records), key=lambda name: (len(name), name)),
        records[0].data.title,
        tuple(sorted({point for curve in compared for point in curve.aps})),
        tuple(sorted(compared, key=lambda curve: (-(curve.mean(curve.best) or 0.0), curve.name))),
    )
