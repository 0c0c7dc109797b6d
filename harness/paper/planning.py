"""The runs of a table: each row's assigner and protocol, checked, opened on its data and looked up in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from assigners import registry
from harness.core.errors import UserError, did_you_mean
from harness.paper.rows import Kind, PaperRow, Table
from harness.paper.scales import Scale
from harness.protocol.protocol import Protocol, load_protocol
from harness.records.identity import UNKNOWN, RunSpec
from harness.records.store import ResultsStore
from harness.sweeps.plan import Choice, Plan, PlannedRun, Situation, Tuning, choose, share_training
from harness.sweeps.request import Rerun

CommandOf = Callable[["Place", Choice, Tuning, int], str]
NOT_REGISTERED = "not registered yet"


@dataclass(frozen=True)
class Place:
    """The data of some rows and the protocol that goes with it."""

    data: str | None  # as ``--data`` takes it; None where it was not named
    origin: str  # name or file of the protocol


@dataclass(frozen=True)
class PlannedRow:
    """A row at a scale."""

    row: PaperRow
    place: Place
    tuning: Tuning  # its protocol with what it changes
    runs: tuple[PlannedRun, ...]  # one for each seed; none where the row cannot be run
    obstacle: str  # why it cannot; empty where it can. `NOT_REGISTERED` mends itself
    wanted: bool  # whether it was asked for; other rows are shown as the store has them

    @property
    def protocol(self) -> Protocol:
        """With what the row changes."""
        return self.tuning.protocol


@dataclass(frozen=True)
class TablePlan:
    """A table at a scale."""

    table: Table
    scale: Scale
    seeds: tuple[int, ...]
    rows: tuple[PlannedRow, ...]  # in printed order
    rerun: Rerun  # which of the runs that ended are run again
    problems: tuple[str, ...]  # one line for each file of the store that cannot be read

    def row(self, name: str) -> PlannedRow:
        """The planned row of a name."""
        return {planned.row.name: planned for planned in self.rows}[name]

    @property
    def parts(self) -> dict[Place, Plan]:
        """What is to be carried out on each data set: the wanted rows' runs, each once, seeds outermost."""
        plans = {}
        for place in dict.fromkeys(planned.place for planned in self.rows):
            rows = [planned for planned in self.rows if planned.place == place and planned.wanted and planned.runs]
            by_seed = zip(*(planned.runs for planned in rows), strict=True)
            # Rows that come to the same run share it.
            if runs := {run.run_id: run for same_seed in by_seed for run in same_seed}:
                plans[place] = Plan(tuple(runs.values()), (), (), self.rerun)
        return plans

    def wants(self, run: PlannedRun) -> bool:
        """Whether a run of a wanted row is to be run."""
        return run.wanted(self.rerun)


def plan_table(
    table: Table,
    scale: Scale,
    seeds: tuple[int, ...],
    store: ResultsStore,
    command_of: CommandOf,
    *,
    sources: Sequence[str] = (),
    only: Sequence[str] = (),
    rerun: Rerun = "never",
    dry: bool = False,
    changes: tuple[str, ...] = (),
) -> TablePlan:
    """Check every row, open the data once and look every run up.

    Args:
        command_of: the line that repeats one run alone.
        sources: data as ``--data`` takes it, one for each kind.
        only: names of the rows to be run; none for all.
        rerun: which of the runs that ended are run again.
        dry: do without data that are not named: their rows are listed, and nothing is known of their runs.
        changes: of every row's protocol, besides its own.

    Raises:
        UserError, RegistryError: for an unknown row, for data that are missing or of another kind, and for anything
            else that cannot be run.
    """
    places = _places(table, scale, sources)
    asked = {table.row(name).name for name in only} or {row.name for row in table.rows}
    if not dry:
        _check_named(table, [row for row in table.rows if row.name in asked], places)
    registered = {entry.name for entry in registry.catalogue()}
    situation = Situation(store)

    def planned(row: PaperRow) -> PlannedRow:
        place = places[row.kind]
        overrides = (*scale.overrides(row, place.origin), *changes)
        tuning = Tuning({}, overrides, load_protocol(place.origin, overrides))
        if registry.parse_spec(row.assigner)[0] not in registered:
            return PlannedRow(row, place, tuning, (), NOT_REGISTERED, row.name in asked)
        (choice,) = choose([row.assigner])
        if place.data is None:
            specs = [RunSpec(tuning.protocol, UNKNOWN, choice.assigner, choice.options, seed) for seed in seeds]
            runs = [PlannedRun(choice, tuning, spec, "", "missing", frozenset()) for spec in specs]
            obstacle = f"needs --data {row.kind}:DIR"
        else:
            commands = {seed: command_of(place, choice, tuning, seed) for seed in seeds}
            runs = [situation.planned(choice, tuning, place.data, seed, line) for seed, line in commands.items()]
            obstacle = ""
        return PlannedRow(row, place, tuning, tuple(runs), obstacle, row.name in asked)

    rows = _sharing([planned(row) for row in table.rows], rerun)
    return TablePlan(table, scale, seeds, rows, rerun, situation.problems)


def _sharing(rows: Sequence[PlannedRow], rerun: Rerun) -> tuple[PlannedRow, ...]:
    """The same rows; a row that tests what another one trains, as at several scales, takes its weights."""
    asked = [planned.runs for planned in rows if planned.wanted and planned.runs]
    in_order = [run for same_seed in zip(*asked, strict=True) for run in same_seed]
    given = {run.run_id: run.weights_of for run in share_training(in_order, rerun)}
    return tuple(
        replace(
            planned, runs=tuple(replace(run, weights_of=given.get(run.run_id, run.weights_of)) for run in planned.runs)
        )
        for planned in rows
    )


def _places(table: Table, scale: Scale, sources: Sequence[str]) -> dict[Kind, Place]:
    """Data and protocol for each kind of data that the table's rows have.

    COCO's tables may be made on any one data set; Table 8 is about two of its own.
    """
    kinds = list(dict.fromkeys(row.kind for row in table.rows))
    named = {source.partition(":")[0]: source for source in sources}
    if len(named) < len(sources):
        raise UserError(f"--data names one kind twice: {', '.join(sources)}; give one for each")
    if kinds == ["coco"]:
        if len(named) > 1:
            raise UserError(f"table {table.number} is made on one data set, not on {' and '.join(sources)}; give one")
        data = sources[0] if sources else scale.data
        kind = data.partition(":")[0] if data is not None else "coco"
        return {"coco": Place(data, scale.origin(table, kind))}
    for kind in named:
        if kind not in kinds:
            raise UserError(
                f"table {table.number} is about {' and '.join(kinds)} data, not {kind}{did_you_mean(kind, kinds)}"
            )
    return {kind: Place(named.get(kind), scale.origin(table, kind)) for kind in kinds}


def _check_named(table: Table, rows: Sequence[PaperRow], places: dict[Kind, Place]) -> None:
    """That the rows to be run have data."""
    lacking = [row for row in rows if places[row.kind].data is None]
    if not lacking:
        return
    words = " ".join(f"--data {kind}:DIR" for kind in dict.fromkeys(row.kind for row in lacking))
    names = ", ".join(row.name for row in lacking)
    rest = [row.name for row in rows if row not in lacking]
    or_only = f", or leave them out with --only {','.join(rest)}" if rest else ""
    raise UserError(f"table {table.number}: rows {names} need data of their own; add {words}{or_only}")
