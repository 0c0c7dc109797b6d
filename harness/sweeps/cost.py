"""What a sweep will cost and how many seeds it needs, from the records at hand; "unknown" where they do not say."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median
from typing import Any, Literal

from harness.protocol.protocol import canonical_hash
from harness.records.identity import question_of
from harness.records.names import newest_attempts
from harness.records.schema import RunRecord
from harness.sweeps.plan import Plan, PlannedRun, State, by_state, numeric_keys

QuestionKey = tuple[str, str]  # hashes of protocol and data
Trait = Literal["work", "kind", "training"]  # the work, its kind whatever the amount, that but for the evaluation

# Keys that move the result and not the work: a tuned protocol costs what the protocol itself costs.
_FREE = {
    "loss": ("alpha", "gamma", "class_weight", "box_weight", "quality_weight"),
    "model": ("pixel_mean", "pixel_std"),
    "schedule": ("lr", "momentum", "weight_decay", "warmup_steps", "warmup_factor", "clip_norm", "ema_ramp"),
}
# Keys that say how many images are gone through and not what one costs.
_AMOUNT = {
    "data": ("train_split", "val_split", "train_images", "val_images"),
    "model": ("pretrained", "weights_sha256"),
    "schedule": ("steps", "batch_size", "decay", "decay_at"),
    "evaluation": ("batch_size", "every"),
}


@dataclass(frozen=True)
class Cost:
    """What one run is expected to take."""

    seconds: float  # training and evaluation; of a run that takes the weights of another the evaluation alone
    memory_mb: float | None  # the peak; None where no record knows it, as with other numbers of images in a step
    basis: str  # whose medians these are, for people


@dataclass(frozen=True)
class _Known:
    traits: dict[Trait, dict[str, Any]]
    assigner: str
    device: str
    seconds: float
    memory_mb: float | None
    train_image_s: float
    eval_image_s: float


class Costs:
    """Estimates for runs on one device, from records.

    Args:
        records: of any protocol; those of another amount of work are passed over.
        device: the model of processor or accelerator, as records name it.
    """

    def __init__(self, records: Iterable[RunRecord], device: str) -> None:
        self.device = device
        self._known: list[_Known] = []
        for record in records:
            self.add(record)

    def add(self, record: RunRecord) -> None:
        """Take another record into account."""
        content, cost = record.protocol.content, record.cost
        eval_image_s = cost.eval_ms_per_image / 1000
        evaluating = _evaluations(content) * record.data.val.images * eval_image_s
        self._known.append(
            _Known(
                _traits(content), record.assigner, record.environment.device,
                cost.train_s + evaluating, cost.peak_memory_mb,
                cost.step_ms / 1000 / content["schedule"]["batch_size"], eval_image_s,
            )
        )  # fmt: skip

    def of(self, run: PlannedRun) -> Cost | None:
        """Medians over runs of the same work: of this assigner on this device if there are any, else of others.

        Where nothing has done that work, over runs that did the same to fewer or more images, scaled; and where nothing
        was ever evaluated so, of training alone, or, of a run that is only evaluated, by the pixels that it tests.
        """
        content, alone = run.spec.protocol.content(), run.weights_of is not None
        trained = 0 if alone else content["schedule"]["steps"] * content["schedule"]["batch_size"]  # images
        evaluated = (1 if alone else _evaluations(content)) * run.spec.data.val.images
        if not alone and (chosen := self._closest(run, "work")):
            memory = [known.memory_mb for known in chosen if known.memory_mb is not None]
            seconds = median(known.seconds for known in chosen)
            return Cost(seconds, median(memory) if memory else None, self._basis(chosen, run))
        if chosen := self._closest(run, "kind"):
            basis = f"per image as in {self._basis(chosen, run)}"
            return Cost(median(trained * k.train_image_s + evaluated * k.eval_image_s for k in chosen), None, basis)
        if not (chosen := self._closest(run, "training")):
            return None
        if alone:
            pixels = _tested_pixels(content)
            image_s = median(known.eval_image_s * pixels / _tested_pixels(known.traits["kind"]) for known in chosen)
            return Cost(evaluated * image_s, None, f"per tested pixel as in {self._basis(chosen, run)}")
        basis = f"training alone, per image as in {self._basis(chosen, run)}"
        return Cost(median(trained * known.train_image_s for known in chosen), None, basis)

    def _closest(self, run: PlannedRun, trait: Trait) -> list[_Known]:
        """Of those of a trait the ones on this device, if there are any; of these likewise those of the assigner."""
        wanted = _traits(run.spec.protocol.content())[trait]
        pool = [known for known in self._known if known.traits[trait] == wanted]
        pool = [known for known in pool if known.device == self.device] or pool
        return [known for known in pool if known.assigner == run.spec.assigner] or pool

    def together(self, runs: Iterable[PlannedRun]) -> tuple[float | None, float | None, str]:
        """Seconds of all these runs one after another, None where one is unknown; the largest memory; the bases."""
        costs = [self.of(run) for run in runs]
        known = [cost for cost in costs if cost is not None]
        seconds = sum(cost.seconds for cost in known) if len(known) == len(costs) else None
        memory = max((cost.memory_mb for cost in known if cost.memory_mb is not None), default=None)
        return seconds, memory, "; ".join(dict.fromkeys(cost.basis for cost in known))

    def seconds(self, runs: Iterable[PlannedRun]) -> float | None:
        """Of all these runs one after another; None where one of them is unknown."""
        return self.together(runs)[0]

    def _basis(self, chosen: Collection[_Known], run: PlannedRun) -> str:
        whose = run.spec.assigner if all(known.assigner == run.spec.assigner for known in chosen) else "other assigners"
        devices = sorted({known.device for known in chosen} - {self.device})
        where = f" on {', '.join(devices)}" if devices else ""
        return f"{len(chosen)} run{'s' if len(chosen) > 1 else ''} of {whose}{where}"


@dataclass(frozen=True)
class SweepRow:
    """One assigner's part in a sweep."""

    name: str  # as ``--assigner`` takes it
    counts: dict[State, int]  # of runs
    todo: int  # how many are to be run
    seconds: float | None  # of all of these; None if unknown
    memory_mb: float | None  # the largest of theirs; None if unknown
    basis: str  # of the estimates


def rows(plan: Plan, costs: Costs) -> list[SweepRow]:
    """A row per assigner, in the order of the plan."""
    by_choice = [(choice, [run for run in plan.runs if run.choice is choice]) for choice in plan.choices]
    todo = [[run for run in runs if plan.wants(run)] for _, runs in by_choice]
    return [
        SweepRow(choice.name, by_state(runs), len(wanted), *costs.together(wanted))
        for (choice, runs), wanted in zip(by_choice, todo, strict=True)
    ]


@dataclass(frozen=True)
class Spread:
    """How much seed-paired differences in AP scatter."""

    sd: float  # in points, pooled over pairs of assigners
    pairs: int  # that share two seeds or more
    df: int  # degrees of freedom: seeds of each pair less one, summed. Pairs of one assigner are not independent


def paired_spread(records: Iterable[RunRecord], questions: Collection[QuestionKey]) -> Spread | None:
    """The scatter of seed-paired differences under these questions; None where no two assigners share two seeds."""
    entries: dict[QuestionKey, dict[tuple[str, str], dict[int, float]]] = {}
    for record in newest_attempts(records):
        question = question_of(record).key
        if question in questions and record.metrics.AP is not None:
            who = record.assigner, canonical_hash(record.options)
            entries.setdefault(question, {}).setdefault(who, {})[record.seed] = record.metrics.AP
    squares, pairs, df = 0.0, 0, 0
    for named in entries.values():
        for first, second in combinations(named.values(), 2):
            gaps = [first[seed] - second[seed] for seed in first.keys() & second.keys()]
            if len(gaps) > 1:
                middle = fmean(gaps)
                squares, pairs, df = squares + sum((gap - middle) ** 2 for gap in gaps), pairs + 1, df + len(gaps) - 1
    return Spread((squares / df) ** 0.5, pairs, df) if df else None


@dataclass(frozen=True)
class Need:
    """How many seeds find a gap with 80 % power by the paired t-test at 5 %; None where a thousand do not."""

    gap: float
    seeds: int | None
    spread: Spread


def needed_seeds(records: Iterable[RunRecord], plan: Plan, gap: float) -> Need | None:
    """For a gap in points of AP under the questions of a plan; None where there is nothing to estimate it from."""
    spread = paired_spread(records, {question_of(run.spec).key for run in plan.runs})
    if spread is None:
        return None

    from harness.comparison.intervals import seeds_needed

    return Need(gap, seeds_needed(gap, spread.sd), spread)


def _traits(content: Mapping[str, Any]) -> dict[Trait, dict[str, Any]]:
    """Of a protocol's content the work, its kind, and the kind but for the evaluation."""
    kind = _work(content, _AMOUNT)
    return {"work": _work(content), "kind": kind, "training": {**kind, "evaluation": None}}


def _work(content: Mapping[str, Any], *besides: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """A protocol's content without the keys that leave the work as it is, and without those named `besides`."""
    left_out = {f"{section}.{key}" for named in (_FREE, *besides) for section, keys in named.items() for key in keys}
    return {
        section: {key: value for key, value in values.items() if f"{section}.{key}" not in left_out}
        for section, values in content.items()
        if isinstance(values, Mapping)
    }


def _evaluations(content: Mapping[str, Any]) -> int:
    """How often the validation split is gone through: at the end, and while training where the protocol asks."""
    numbers = numeric_keys(content)
    every, steps = int(numbers.get("evaluation.every", 0)), int(numbers.get("schedule.steps", 0))
    return 1 + ((steps - 1) // every if every else 0)


def _tested_pixels(content: Mapping[str, Any]) -> int:
    """What an evaluated image costs the network, as the pixels of squares with the short edges that it is tested at."""
    evaluation = content["evaluation"]  # without what is off
    edges: list[int] = evaluation.get("test_scales") or [content["data"]["short_edge"]]
    return sum(edge * edge for edge in edges) * (2 if evaluation.get("test_flip") else 1)
