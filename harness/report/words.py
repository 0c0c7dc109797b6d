"""What a board says, in sentences: the headline, who is behind whom, and what to keep in mind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.comparison.board import Board
from harness.core.text import counted
from harness.drawing.svg import number
from harness.records.schema import RunRecord

NOISY = 0.25  # spread of one assigner's step times, relative to their median, from which the cost axis is called rough


def listing(names: Iterable[str]) -> str:
    """Names in a row: ``a, b and c``."""
    known = list(names)
    return " and ".join([", ".join(known[:-1]), known[-1]] if len(known) > 1 else known)


def ranks(board: Board) -> list[tuple[int, int]]:
    """The best and the worst rank that each entry may hold, by those that are told apart above and below it.

    Ties stay ties: where nobody is told apart, everybody ranks from 1 to n.
    """
    names = [entry.name for entry in board.entries]
    above = [sum((other, name) in board.told_apart for other in names) for name in names]
    below = [sum((name, other) in board.told_apart for other in names) for name in names]
    count = len(board.ranked)
    return [(1 + better, count - worse) for better, worse in zip(above, below, strict=True)]


def headline(board: Board) -> str:
    """The finding, in one sentence."""
    known = board.ranked
    if not known:
        return "No run here has an AP."
    leader = known[0].name
    if len(known) == 1:
        return f"{leader} alone has run; there is nothing to compare it with yet."
    if not any(gap.tested for gap in board.gaps.values()):
        return f"{leader} has the highest mean, but no gap can be tested yet: too few shared seeds."
    if not board.told_apart:
        return "No assigner is told apart from another at this number of seeds."
    behind, tied, untested = _standing(board)
    if not behind and tied:
        return f"{leader} has the highest mean, but no assigner is told apart from it."
    if not behind:
        return f"{leader} has the highest mean, but cannot be tested against the others."
    if len(tied) > 3:
        field = (
            f"the {len(tied) + len(behind)} that it can be tested against" if untested else f"{len(known) - 1} others"
        )
        return f"{leader} has the highest mean, tied with {len(tied)} of {field}."
    if tied:
        return f"{leader} leads; {listing(tied)} {'is' if len(tied) == 1 else 'are'} not told apart from it."
    ahead = "all that it can be tested against" if untested else "every other assigner"
    return f"{leader} leads, ahead of {ahead}."


def findings(board: Board) -> list[str]:
    """What follows the headline."""
    known = board.ranked
    if not known:
        return []
    leader = known[0]
    result = leader.interval("AP")
    spread = (
        f" (95 % interval {number(result.low, 1)} to {number(result.high, 1)}, {counted(len(leader.seeds), 'seed')})"
        if result.low is not None and result.high is not None
        else " (one seed, so without an interval)"
    )
    sentences = [f"{leader.name}: {number(leader.mean('AP') or 0.0, 1)} AP{spread}."]
    if len(known) < 2:
        return sentences
    beginnings = (
        f"Behind {leader.name} by more than noise",
        "Tied with it",
        "Not tested against it, for want of shared seeds",
    )
    standing = zip(beginnings, _standing(board), strict=True)
    sentences += [f"{words}: {listing(names)}." for words, names in standing if names]
    tests = sum(gap.tested for gap in board.gaps.values())
    pairs = len(known) * (len(known) - 1) // 2
    sentences.append(
        f"Of {counted(pairs, 'pair')}, {len(board.told_apart)} "
        f"{'is' if len(board.told_apart) == 1 else 'are'} told apart (5 % for the family of pairs, Holm's correction)."
    )
    if tests < pairs:
        sentences.append(f"{counted(pairs - tests, 'pair')} cannot be tested; they share letters as ties do.")
    if board.smallest is not None:
        sentences.append(
            f"The smallest true gap that a pair here would show in four of five cases is about "
            f"{number(board.smallest, 1)} points of AP; smaller ones need more seeds."
        )
    return sentences


def caveats(board: Board) -> list[str]:
    """What a reader should hold against the numbers, drawn from the runs."""
    runs = [record for entry in board.entries for record in entry.records]
    sentences = []
    single = [entry.name for entry in board.entries if len(entry.seeds) == 1]
    if single:
        sentences.append(f"One seed only, so no interval over seeds: {listing(single)}.")
    if len({entry.seeds for entry in board.entries}) > 1:
        sentences.append("The assigners ran on different seeds; a gap counts only the seeds that both have.")
    lacking = sum(details is None for entry in board.entries for details in entry.details)
    if lacking:
        sentences.append(
            f"{lacking} of {counted(len(runs), 'run')} lack their details: gaps with them leave the choice of "
            "validation images out of the interval."
        )
    sentences.append(f"All AP is on {counted(runs[0].data.val.images, 'validation image')}.")
    return sentences + _about_machines(board, runs)


def _about_machines(board: Board, runs: Sequence[RunRecord]) -> list[str]:
    """What the runs' machines and code mean for times and results."""
    sentences = []
    machines = {str(record.environment.device) for record in runs}
    if len(machines) > 1:
        sentences.append(f"Runs on different machines ({listing(sorted(machines))}): their times are not comparable.")
    times = {entry.name: [record.cost.step_ms for record in entry.records] for entry in board.entries}
    worst = max(times, key=lambda name: _spread(times[name]))
    if _spread(times[worst]) > NOISY:
        low, high = min(times[worst]), max(times[worst])
        sentences.append(
            f"Times are rough: the machine was shared or changed. A step of {worst} took {number(low, 0)} to "
            f"{number(high, 0)} ms, depending on the run."
        )
    commits = {record.source.commit for record in runs}
    if len(commits) > 1:
        sentences.append(f"The runs come from {len(commits)} commits of the code; the provenance names each.")
    return sentences


def _standing(board: Board) -> tuple[list[str], list[str], list[str]]:
    """Who is told apart from the entry of the highest mean, who is not, and who cannot be tested against it."""
    leader, *others = [entry.name for entry in board.ranked]
    gaps = {name: board.gaps.get((leader, name)) for name in others}
    tested = [name for name, gap in gaps.items() if gap is not None and gap.tested]
    behind = [name for name in tested if (leader, name) in board.told_apart]
    return behind, [name for name in tested if name not in behind], [name for name in others if name not in tested]


def _spread(values: Sequence[float]) -> float:
    middle = sorted(values)[len(values) // 2]
    return (max(values) - min(values)) / middle if middle else 0.0
