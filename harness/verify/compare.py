"""An assigner against the answers of published implementations, case by case and peer by peer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from assigners.contract import Assignment, Step
from harness.verify.golden import Case, IntArray, PeerAnswer, hard_assignment, soft_labels
from harness.verify.peers import PEERS, ZOO, OracleInput, Oracles, Peer
from harness.verify.subject import Subject

JITTERS = 4  # times that inputs are moved to see where rounding decides
Status = Literal["agrees", "differs", "information", "not covered"]


@dataclass(frozen=True)
class Count:
    """How many points were compared, and how many were equal."""

    compared: int
    equal: int

    @property
    def all_equal(self) -> bool:
        """No difference."""
        return self.compared == self.equal


@dataclass(frozen=True)
class Verdict:
    """One peer in one case.

    Attributes:
        points: locations of the case.
        zoo: the assigner, with its own conventions, against the peer.
        oracle: the oracle, with the peer's conventions, against the peer; None without an oracle.
        product: the assigner against the oracle with the zoo's conventions; None without an oracle.
        further: soft labels that both yield.
        reason: what differs first, or why nothing was compared.
    """

    case: str
    peer: str
    status: Status
    points: int = 0
    zoo: Count | None = None
    oracle: Count | None = None
    product: Count | None = None
    further: dict[str, Count] = field(default_factory=dict)
    reason: str | None = None


def compare(subject: Subject, case: Case, oracles: Oracles, only: Sequence[str] = ()) -> Iterator[Verdict]:
    """Compare an assigner with every peer of a case, or with the peers named in `only` alone.

    An assigner of which no peer is known meets all of them, for information; one that it is to equal is named in
    `only`.
    """
    seen = _Seen(subject, case, oracles)
    for answer in case.peers:
        if not only or answer.name in only:
            yield _verdict(seen, answer, named=bool(only))


def _verdict(seen: _Seen, answer: PeerAnswer, named: bool) -> Verdict:
    subject, case = seen.subject, seen.case
    row = PEERS.get(answer.name)
    told = Verdict(case.name, answer.name, "not covered", case.grid.num_locations)
    if answer.error is not None:
        return replace(told, reason=f"the peer has no answer: {answer.error}")
    if (apart := _apart(subject, row, answer)) is not None:
        if subject.name in ZOO and not named:
            return replace(told, reason=apart)
        row = None
    if seen.obstacle is not None:
        return replace(told, reason=seen.obstacle)
    if seen.crash is not None:
        return replace(told, status="differs", reason=seen.crash)
    if seen.assigned is None:
        return replace(told, reason="its samples lie off the grid: there is nothing to compare location by location")
    return _compared(seen, answer, row, told, binding=named or row is not None)


def _apart(subject: Subject, row: Peer | None, answer: PeerAnswer) -> str | None:
    """Why the peer does not answer for this assigner with these options; None where it does."""
    if row is None:
        return "no assigner is known for it"
    if row.assigner != subject.name:
        return f"answers for {row.assigner}"
    asked = {**subject.defaults, **row.asked(answer.hyper)}
    other = ",".join(f"{key}={value}" for key, value in asked.items() if value != subject.options.get(key))
    return f"answers for {row.assigner}[{other}]" if other else None


def _compared(seen: _Seen, answer: PeerAnswer, row: Peer | None, told: Verdict, binding: bool) -> Verdict:
    """The verdict on two answers that can be compared; a difference counts where the peer is `binding`."""
    ours = seen.assigned
    assert ours is not None
    zoo = _count(ours, answer.assigned, answer.comparable)
    oracle = product = None
    difference: str | None = None
    if row is not None and row.imitate is not None and (witness := seen.ask(row)) is not None:
        oracle = _count(witness, answer.assigned, answer.comparable)
        product = seen.product
        difference = (
            seen.where(
                "the oracle with the peer's conventions", witness, "the peer", answer.assigned, answer.comparable
            )
            if not oracle.all_equal
            else seen.difference
        )
    elif binding and not zoo.all_equal:
        difference = seen.where(seen.subject.title, ours, "the peer", answer.assigned, answer.comparable)
    further = _further(seen, answer, row) if row is not None else {}
    for name, count in further.items():
        if not count.all_equal and difference is None:
            difference = f"{name}: {count.compared - count.equal} of {count.compared} numbers differ"
    status: Status = "differs" if difference is not None else "agrees" if binding else "information"
    return replace(told, status=status, zoo=zoo, oracle=oracle, product=product, further=further, reason=difference)


def _further(seen: _Seen, answer: PeerAnswer, row: Peer) -> dict[str, Count]:
    """Soft labels where both learn the same box."""
    found = {}
    assert seen.answer is not None
    assert seen.assigned is not None
    if row.soft and answer.arrays.get("soft", np.zeros(0)).shape == answer.assigned.shape:
        same = answer.comparable & (seen.assigned == answer.assigned) & (answer.assigned >= 0)
        near = np.abs(soft_labels(seen.case, seen.answer) - answer.arrays["soft"]) <= row.soft_tolerance
        found["soft"] = Count(int(same.sum()), int((same & near).sum()))
    return found


def _count(ours: IntArray, theirs: IntArray, where: NDArray[np.bool_]) -> Count:
    return Count(int(where.sum()), int((where & (ours == theirs)).sum()))


class _Seen:
    """What one case needs once, whichever peers it has."""

    def __init__(self, subject: Subject, case: Case, oracles: Oracles) -> None:
        self.subject, self.case, self.oracles = subject, case, oracles
        self.obstacle: str | None = None
        self.crash: str | None = None
        self.answer = self._run()
        self.assigned = hard_assignment(case, self.answer) if self.answer is not None else None

    def _run(self) -> Assignment | None:
        """The assigner's answer. A crash is a difference, not the user's mistake: the contract allows every case."""
        assigner = self.subject.build(self.case.head)
        if assigner.needs.features:
            self.obstacle = "it needs feature maps, which golden cases do not hold"
        elif assigner.needs.predictions and self.case.predictions is None:
            self.obstacle = "the case has no predictions"
        if self.obstacle is not None:
            return None
        try:
            with torch.no_grad():
                answer: Assignment = assigner(self.case.grid, self.case.targets(), self.case.predictions, Step())
        except Exception as error:
            self.crash = f"crashed: {type(error).__name__}: {' '.join(str(error).split())}"
            return None
        return answer

    @cached_property
    def input(self) -> OracleInput:
        """The case for oracles."""
        return OracleInput(self.case, self.subject.options, self.oracles.points(self.case))

    def ask(self, row: Peer) -> IntArray | None:
        """The oracle with the peer's conventions, where there is one."""
        module = self.oracles.load(ZOO[row.assigner].module)
        return row.imitate(module, self.input) if module is not None and row.imitate is not None else None

    @cached_property
    def _zoo(self) -> tuple[IntArray, NDArray[np.bool_]]:
        """The oracle with the zoo's conventions, and where rounding does not decide."""
        oracle = ZOO[str(self.subject.name)]
        module = self.oracles.load(oracle.module)
        assert module is not None
        expected: IntArray = oracle.zoo(module, self.input)
        firm = np.ones(len(expected), dtype=np.bool_)
        if oracle.jitter and (expected != self.assigned).any():
            for seed in range(JITTERS):
                firm &= oracle.zoo(module, replace(self.input, case=_moved(self.case, oracle.jitter, seed))) == expected
        return expected, firm

    @cached_property
    def product(self) -> Count:
        """The assigner against the oracle with the zoo's conventions, where rounding does not decide."""
        assert self.assigned is not None
        return _count(self.assigned, *self._zoo)

    @cached_property
    def difference(self) -> str | None:
        """Where these two differ first."""
        if self.product.all_equal:
            return None
        expected, firm = self._zoo
        assert self.assigned is not None
        return self.where(self.subject.title, self.assigned, "its oracle", expected, firm)

    def where(self, one: str, a: IntArray, other: str, b: IntArray, comparable: NDArray[np.bool_]) -> str:
        """The first difference of two answers, in words."""
        places = np.flatnonzero(comparable & (a != b))
        place = int(places[0])
        x, y = self.case.grid.points[place].tolist()
        level = int(self.case.grid.level[place])
        return (
            f"{len(places)} differ, first location {place} (level {level}, x {x:g}, y {y:g}): "
            f"{one} says {_word(int(a[place]))}, {other} {_word(int(b[place]))}"
        )


def _word(box: int) -> str:
    return {-1: "background", -2: "ignored", -3: "several boxes"}.get(box, f"box {box}")


def _moved(case: Case, reach: float, seed: int) -> Case:
    """The case with boxes and predicted boxes moved by up to `reach` px, and logits by a tenth of that."""
    rng = np.random.default_rng(seed)
    predictions = case.predictions
    if predictions is not None:

        def near(value: torch.Tensor, by: float) -> torch.Tensor:
            return value.double() + torch.from_numpy(rng.uniform(-by, by, tuple(value.shape)))

        predictions = replace(
            predictions, boxes=near(predictions.boxes, reach), logits=near(predictions.logits, reach / 10)
        )
    return replace(case, boxes=case.boxes + rng.uniform(-reach, reach, case.boxes.shape), predictions=predictions)
