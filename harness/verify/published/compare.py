"""An assigner against the answers of published implementations, case by case and peer by peer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from assigners.contract import Assignment, Step
from assigners.registry import row_name
from harness.verify.published import agreement
from harness.verify.published.agreement import Agreement, Count
from harness.verify.published.cases import Case, PeerAnswer, hard_assignment, soft_labels
from harness.verify.published.imitation import OracleInput, Peer, load_oracle
from harness.verify.published.peers import PEERS, ZOO
from harness.verify.subject import Subject

JITTERS = 16  # times that inputs are moved to see where rounding decides; each has an even chance to miss a tie
Answer = TypeVar("Answer")
Status = Literal["agrees", "differs", "information", "not covered"]


@dataclass(frozen=True)
class Verdict:
    """One peer in one case.

    Attributes:
        assigner: title of the one in question, with options.
        points: locations of the case.
        zoo: the assigner, with its own conventions, against the peer.
        oracle: the oracle, with the peer's conventions, against the peer; None without an oracle.
        product: the assigner against the oracle with the zoo's conventions; None without an oracle.
        further: numbers by name: soft labels that both yield, arrays of the peer that its oracle imitates.
        losses: terms of the assigner's own losses, against the oracle with the zoo's conventions.
        reason: what differs first, or why nothing was compared.
    """

    case: str
    peer: str
    assigner: str
    status: Status
    points: int = 0
    zoo: Count | None = None
    oracle: Count | None = None
    product: Count | None = None
    further: dict[str, Count] = field(default_factory=dict)
    losses: Count | None = None
    reason: str | None = None


def compare(subject: Subject, case: Case, only: Sequence[str] = ()) -> Iterator[Verdict]:
    """Compare an assigner with every peer of a case, or with the peers named in `only` alone.

    An assigner of which no peer is known meets all of them, for information; one that it is to equal is named in
    `only`.
    """
    context = _Context(subject, case)
    for answer in case.peers:
        if not only or answer.name in only:
            yield _verdict(context, answer, named=bool(only))


def _verdict(context: _Context, answer: PeerAnswer, named: bool) -> Verdict:
    subject, case = context.subject, context.case
    row = PEERS.get(answer.name)
    title = row_name(subject.title, subject.changed(subject.options))
    verdict = Verdict(case.name, answer.name, title, "not covered", case.grid.num_locations)
    if answer.error is not None:
        return replace(verdict, reason=f"the peer has no answer: {answer.error}")
    if (apart := _apart(subject, row, answer)) is not None:
        if subject.name in ZOO and not named:
            return replace(verdict, reason=apart)
        row = None
    if context.obstacle is not None:
        return replace(verdict, reason=context.obstacle)
    if context.crash is not None:
        return replace(verdict, status="differs", reason=context.crash)
    if context.assigned is None:
        return replace(verdict, reason="its samples lie off the grid: there is nothing to compare location by location")
    if row is None and not answer.by_boxes:
        return replace(verdict, reason="the peer gives losses alone, no assignment")
    return _compared(context, answer, row, verdict, binding=named or row is not None)


def _apart(subject: Subject, row: Peer | None, answer: PeerAnswer) -> str | None:
    """Why the peer does not answer for this assigner with these options; None where it does."""
    if row is None:
        return "no assigner is known for it"
    if row.assigner != subject.name:
        return f"answers for {row.assigner}"
    asked = {**subject.defaults, **row.asked(answer.hyper)}
    other = {key: value for key, value in asked.items() if value != subject.options.get(key)}
    return f"answers for {row_name(row.assigner, other)}" if other else None


def peer_options(subject: Subject, cases: Iterable[Case]) -> list[dict[str, Any]]:
    """The options, beside the defaults, under which the peers of `cases` answer for an assigner; each set once."""
    option_sets: list[dict[str, Any]] = []
    for answer in (answer for case in cases for answer in case.peers):
        row = PEERS.get(answer.name)
        if row is not None and row.assigner == subject.name:
            changed = subject.changed(row.asked(answer.hyper))
            if changed not in option_sets:
                option_sets.append(changed)
    return option_sets


def _compared(context: _Context, answer: PeerAnswer, row: Peer | None, verdict: Verdict, binding: bool) -> Verdict:
    """The verdict on two answers that can be compared; a difference counts where the peer is `binding`."""
    assert context.assigned is not None
    boxes = partial(agreement.boxes, context.case.grid)
    theirs = ("the peer", answer.assigned, answer.comparable)
    zoo = boxes(context.subject.title, context.assigned, *theirs) if context.by_boxes else None
    oracle, product, further, losses = None, None, {}, None
    if row is not None:
        further, losses = _further(context, answer, row), context.losses
        if (witness := _ask(ZOO[row.assigner].module, row.imitate, context.input)) is not None:
            oracle, product = boxes("the oracle with the peer's conventions", witness, *theirs), context.product
    if zoo is None and oracle is None and not further and losses is None:
        return replace(verdict, reason="it gives no samples: only an oracle can tell its losses from the peer's")
    # Without an oracle the assigner itself must give the peer's boxes, unless the peer answers by numbers.
    direct = zoo if oracle is None and binding and (row is None or row.numbers is None) else None
    every = (oracle, product, direct, *further.values(), losses)
    difference = next((each.difference for each in every if each is not None and each.difference is not None), None)
    kinds = {"zoo": zoo, "oracle": oracle, "product": product, "losses": losses}
    counts: dict[str, Any] = {name: each.count for name, each in kinds.items() if each is not None}
    return replace(
        verdict,
        status="differs" if difference is not None else "agrees" if binding else "information",
        **counts,
        further={name: each.count for name, each in further.items()},
        reason=difference,
    )


def _further(context: _Context, answer: PeerAnswer, row: Peer) -> dict[str, Agreement]:
    """Soft labels where both learn the same box, and the peer's further arrays as the oracle has them."""
    agreements = {}
    measured = _ask(ZOO[row.assigner].module, row.numbers, context.input, answer.arrays) or {}
    assert context.answer is not None
    assert context.assigned is not None
    if row.soft and context.by_boxes and answer.arrays.get("soft", np.zeros(0)).shape == answer.assigned.shape:
        same = answer.comparable & (context.assigned == answer.assigned) & (answer.assigned >= 0)
        near = np.abs(soft_labels(context.case, context.answer) - answer.arrays["soft"]) <= row.soft_tolerance
        count = Count(int(same.sum()), int((same & near).sum()))
        difference = f"soft: {count.compared - count.equal} of {count.compared} numbers differ"
        agreements["soft"] = Agreement(count, None if count.all_equal else difference)
    for name, ours in measured.items():
        if (theirs := answer.arrays.get(name)) is None:
            agreements[name] = Agreement(Count(1, 0), f"{name}: the oracle yields it, the peer does not")
        else:
            relative = name in row.losses
            agreements[name] = agreement.array(name, ours, theirs, answer.comparable, row.tolerance, relative=relative)
    return agreements


class _Context:
    """What one case needs once, whichever peers it has."""

    def __init__(self, subject: Subject, case: Case) -> None:
        self.subject, self.case = subject, case
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
                answer: Assignment = assigner(
                    self.case.grid, self.case.targets(), self.case.predictions, Step(progress=1.0)
                )
        except Exception as error:
            self.crash = f"crashed: {type(error).__name__}: {' '.join(str(error).split())}"
            return None
        return answer

    @cached_property
    def input(self) -> OracleInput:
        """The case as oracles take it, with the options of the assigner."""
        return OracleInput(self.case, self.subject.options)

    @cached_property
    def by_boxes(self) -> bool:
        """Whether the assigner gives samples; one that is a likelihood answers by its losses alone."""
        return self.subject.name not in ZOO or ZOO[self.subject.name].zoo is not None

    @cached_property
    def losses(self) -> Agreement | None:
        """The assigner's loss terms against the oracle's, where both are there."""
        oracle = ZOO[str(self.subject.name)]
        expected = _ask(oracle.module, oracle.losses, self.input)
        if self.answer is None or expected is None:
            return None
        return agreement.losses(self.subject.title, self.answer.losses, expected)

    @cached_property
    def product(self) -> Agreement | None:
        """The assigner against the oracle with the zoo's conventions, where rounding does not decide."""
        oracle = ZOO[str(self.subject.name)]
        expected = _ask(oracle.module, oracle.zoo, self.input)
        if expected is None or self.assigned is None:
            return None
        firm = np.ones(len(expected), dtype=np.bool_)
        if oracle.jitter and (expected != self.assigned).any():
            for seed in range(JITTERS):
                moved = replace(self.input, case=_moved(self.case, oracle.jitter, seed))
                firm &= _ask(oracle.module, oracle.zoo, moved) == expected
        return agreement.boxes(self.case.grid, self.subject.title, self.assigned, "its oracle", expected, firm)


def _ask(module: str, question: Callable[..., Answer] | None, *about: Any) -> Answer | None:
    """What an oracle says, where both are there: the oracle, and something to ask it."""
    oracle = load_oracle(module) if question is not None else None
    return question(oracle, *about) if question is not None and oracle is not None else None


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
