"""What a sweep is to run: assigners x tunings x seeds, every one checked, named and looked up before any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, get_args

from assigners import registry
from assigners.registry import AssignerSpec
from harness.core.errors import UserError, did_you_mean, shorten
from harness.protocol.protocol import DataSection, Protocol, canonical_hash, dotted, load_protocol
from harness.records.failures import failure_path, load_failures
from harness.records.identity import RunSpec, data_identity, training_key
from harness.records.lookup import RecordIndex
from harness.records.schema import DataIdentity
from harness.records.store import ResultsStore
from harness.sweeps.request import SHORT_KEYS, Rerun, SweepRequest, expand

State = Literal["done", "failed", "interrupted", "missing"]
Marks = frozenset[tuple[str, str, int]]  # folder, file name, ns of its last change


@dataclass(frozen=True)
class Choice(AssignerSpec):
    """One assigner of a sweep."""

    typed: dict[str, str]  # the options that were named, as text


@dataclass(frozen=True)
class Tuning:
    """The protocol at one point of the search; `factors` is empty where nothing is tuned."""

    factors: dict[str, float]
    overrides: tuple[str, ...]
    protocol: Protocol

    @property
    def name(self) -> str:
        """Such as ``schedule.lr x 0.5``."""
        return ", ".join(f"{key} x {factor:g}" for key, factor in self.factors.items())


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    choice: Choice
    tuning: Tuning
    spec: RunSpec  # the same as the store knows it
    command: str  # the line that repeats it alone
    state: State  # what the store held when the plan was made
    marks: Marks  # what `marks` gave at that time
    answer: str | None = None  # run id of the record that made it done: its own, or one from before an option was added
    # The run whose weights it takes, being evaluated otherwise and nothing else: it has a record, or its turn comes
    # before. None where it trains. That the network begins alike today is seen when it is run.
    weights_of: str | None = None

    @property
    def run_id(self) -> str:
        """Of its records and its working folder."""
        return self.spec.run_id

    @property
    def title(self) -> str:
        """For people: assigner, tuning, seed."""
        return " ".join(filter(None, (self.choice.name, self.tuning.name, f"seed {self.spec.seed}")))

    def wanted(self, rerun: Rerun) -> bool:
        """Whether it is to be run where `rerun` says which of those that ended are run again."""
        return self.state not in {"never": ("done", "failed"), "failed": ("done",), "always": ()}[rerun]


@dataclass(frozen=True)
class Plan:
    """A whole sweep: the product of choices, tunings and seeds."""

    runs: tuple[PlannedRun, ...]  # seeds outermost, so that a sweep that is stopped leaves a balanced board
    choices: tuple[Choice, ...]
    tunings: tuple[Tuning, ...]
    rerun: Rerun  # which of the runs that ended are run again
    problems: tuple[str, ...] = ()  # a line for each file of the store that is neither a record nor a failed run's

    def wants(self, run: PlannedRun) -> bool:
        """Whether a run is to be run."""
        return run.wanted(self.rerun)

    @property
    def todo(self) -> tuple[PlannedRun, ...]:
        """The runs that are to be run."""
        return tuple(run for run in self.runs if self.wants(run))


def by_state(runs: Sequence[PlannedRun]) -> dict[State, int]:
    """How many runs are in each state."""
    states = [run.state for run in runs]
    return {state: states.count(state) for state in get_args(State)}


def choose(texts: Sequence[str]) -> tuple[Choice, ...]:
    """Expand and check assigners; those that come to the same options are one.

    Raises:
        UserError, RegistryError: for a malformed text, an unknown name or option, a value that does not fit.
    """
    asked = [pair for text in texts for pair in expand(text)]
    if not asked:
        raise UserError(f"no assigner in {shorten(','.join(texts))!r}; name some, such as -a atss,paa")
    for name, _ in asked:
        registry.find(name)  # a wrong name is told before torch is loaded

    from harness.training.build import resolve_assigner

    chosen: dict[tuple[str, str], Choice] = {}
    for name, typed in asked:
        spec = resolve_assigner(name, typed)
        chosen.setdefault((name, canonical_hash(spec.options)), Choice(name, spec.options, spec.changed, typed))
    return tuple(chosen.values())


def tunings(origin: str, overrides: tuple[str, ...], tune: Mapping[str, Sequence[float]]) -> tuple[Tuning, ...]:
    """The protocol at every point of the search: each factor of each key with each other.

    A factor of 1 leaves the key alone, so that its runs are those of a sweep without a search.

    Raises:
        UserError: for an unknown protocol or key, or a factor that leads out of the key's range.
    """
    base = load_protocol(origin, overrides)
    numbers = numeric_keys(base.content())
    for key in tune:
        if key not in numbers:
            known = [*SHORT_KEYS, *numbers]
            raise UserError(
                f"tune: protocol {base.name} has no number {key!r}{did_you_mean(key, known)}; known: {', '.join(known)}"
            )
        if numbers[key] == 0:
            raise UserError(f"tune: {key} is 0 in protocol {base.name}, which no factor changes; set it first")
    points = []
    for values in product(*tune.values()):
        factors = dict(zip(tune, values, strict=True))
        changed = {key: _scaled(key, numbers[key], factor) for key, factor in factors.items() if factor != 1}
        kept = [text for text in overrides if text.partition("=")[0].strip() not in changed]
        texts = (*kept, *(f"{key}={value!r}" for key, value in changed.items()))
        points.append(Tuning(factors, texts, load_protocol(origin, texts)))
    return tuple(points)


def numeric_keys(content: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers of a protocol's content by ``section.key``."""
    return {key: value for key, value in dotted(content).items() if type(value) in (int, float)}


def make_plan(
    request: SweepRequest, store: ResultsStore, origin: str, command_of: Callable[[Choice, Tuning, int], str]
) -> Plan:
    """Check everything, open the data once and look every run up in the store.

    Args:
        origin: name or file of the protocol.
        command_of: the line that repeats one run alone.

    Raises:
        UserError, RegistryError: for anything that cannot be run.
    """
    choices = choose(request.assigners)
    searched = tunings(origin, request.overrides, request.tune)
    situation = Situation(store)
    runs = [
        situation.planned(choice, tuning, request.data, seed, command_of(choice, tuning, seed))
        for seed, tuning, choice in product(request.seeds, searched, choices)
    ]
    return Plan(share_training(runs, request.rerun), choices, searched, request.rerun, situation.problems)


def share_training(runs: Sequence[PlannedRun], rerun: Rerun) -> tuple[PlannedRun, ...]:
    """The same runs; one that trains as an earlier one that is to be run takes the weights of that."""
    first, shared = dict[str, RunSpec](), []
    for run in runs:
        spec = run.spec
        key = training_key(spec.assigner, spec.options, spec.protocol.content(), spec.data, spec.seed)
        giver, trains = first.get(key), run.weights_of is None and run.state != "interrupted"
        takes = trains and giver is not None and giver.protocol.evaluation != spec.protocol.evaluation
        shared.append(replace(run, weights_of=giver.run_id) if takes and giver is not None else run)
        if run.wanted(rerun):
            first.setdefault(key, spec)
    return tuple(shared)


class Situation:
    """What a store holds, and which data there are, when a plan is made."""

    def __init__(self, store: ResultsStore) -> None:
        records, problems = store.load_all()
        failures, more = load_failures(store)
        self._store, self._recorded = store, RecordIndex(records)
        self._failed = {failure.run_id for failure in failures}
        self._data: dict[tuple[str, DataSection], DataIdentity] = {}
        self.problems = (*problems, *more)  # a line for each file that is neither a record nor a failed run's

    def planned(self, choice: Choice, tuning: Tuning, data: str, seed: int, command: str) -> PlannedRun:
        """A run with its state; its data are opened once.

        Raises:
            UserError: for data that cannot be read.
        """
        key = data, tuning.protocol.data
        if key not in self._data:
            from harness.data.splits import open_splits

            self._data[key] = data_identity(data.partition(":")[0], *open_splits(data, tuning.protocol))
        spec = RunSpec(tuning.protocol, self._data[key], choice.assigner, choice.options, seed)
        record = self._recorded.answer(spec)
        answer = record.run_id if record is not None else None
        begun: State = "interrupted" if self._store.folder(spec.run_id).state else "missing"
        state = "done" if answer is not None else "failed" if spec.run_id in self._failed else begun
        twin = self._twin(spec) if state != "interrupted" else None  # what has a checkpoint goes on from there
        return PlannedRun(choice, tuning, spec, command, state, marks(self._store, spec.run_id), answer, twin)

    def _twin(self, spec: RunSpec) -> str | None:
        """The run of the store whose weights a run takes."""
        twins = self._recorded.twins(spec)
        if not twins:
            return None

        from harness.runs.reuse import adoptable

        return next((record.run_id for record in reversed(twins) if adoptable(self._store, record)), None)


def marks(store: ResultsStore, run_id: str) -> Marks:
    """What tells whether a run ended between two looks: its records and its failure, with their times."""
    paths = (*store.record_files(run_id), failure_path(store, run_id))
    return frozenset((p.parent.name, p.name, p.stat().st_mtime_ns) for p in paths if p.exists())


def _scaled(key: str, value: int | float, factor: float) -> int | float:
    scaled = value * factor
    if isinstance(value, float):
        return float(f"{scaled:.12g}")  # 0.003 x 0.1 is meant to be 0.0003
    if abs(scaled - round(scaled)) > 1e-9 * scaled:
        raise UserError(f"tune: {key} is {value} and must stay whole; a factor of {factor:g} makes it {scaled:g}")
    return round(scaled)
