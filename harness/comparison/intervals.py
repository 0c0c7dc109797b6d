"""Intervals of means and of paired gaps, and what follows from them: rank groups and the design's power.

Two kinds of noise lie in a gap between two assigners. Training noise differs from seed to seed; the difference on a
seed is one observation of it. The images of the validation set are a sample too, the same one for every seed, so more
seeds do not average it away; the paired image bootstrap estimates it. All intervals are two-sided, at 95 %, in points.

scipy is imported where it is needed: the command line answers its help without it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALPHA = 0.05
MOST_SEEDS = 1000  # that `seeds_needed` considers


@dataclass(frozen=True)
class Interval:
    """A mean over runs and its 95 % t-interval."""

    mean: float | None  # None for no values
    low: float | None  # None for fewer than two
    high: float | None
    n: int  # number of values

    def __str__(self) -> str:
        """Such as ``31.4 ± 0.5``, the mean with half the width; a dash for no values."""
        if self.mean is None:
            return "-"
        return f"{self.mean:.1f}" + (f" ± {self.high - self.mean:.1f}" if self.high is not None else "")


@dataclass(frozen=True)
class Gap:
    """What is between two assigners, first minus second, with its 95 % interval."""

    mean: float  # over shared seeds
    low: float | None  # None where neither seeds nor replicates tell
    high: float | None
    p: float | None  # two-sided, of "no gap"; None likewise
    seeds: int  # number of shared seeds
    df: float | None  # degrees of freedom of the seeds' part; None for one seed
    # Standard error from training noise, the seeds' own response to the images included; None for one seed.
    se_seed: float | None
    se_image: float | None  # standard error from the choice of images that all seeds share; None without replicates

    def turned(self) -> Gap:
        """The same gap as second minus first."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return replace(self, mean=-self.mean, low=low, high=high)

    @property
    def tested(self) -> bool:
        """Whether `p` answers for training noise too; one seed tells nothing of it, whatever the images say."""
        return self.p is not None and self.seeds > 1


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of runs over seeds, with the t-interval of training noise."""
    if len(values) < 2:
        return Interval(float(values[0]) if values else None, None, None, len(values))
    mean, n = float(np.mean(values)), len(values)
    half = float(half_width(*squared_errors(np.asarray(values, dtype=np.float64), None), n))
    return Interval(mean, mean - half, mean + half, n)


def paired_gap(
    a: Mapping[int, float],
    b: Mapping[int, float],
    replicates_a: Mapping[int, Floats] | None = None,
    replicates_b: Mapping[int, Floats] | None = None,
) -> Gap:
    """The mean difference over the seeds that both have.

    With replicates of every shared seed on both sides the interval is for all images like these; without, it is for
    these very images (`se_image` is None). One seed with replicates has the normal interval of the image bootstrap.

    Args:
        a, b: a metric in points, by seed.
        replicates_a, replicates_b: the metric under re-weighted images ``[B]``, by seed; the same weights everywhere.
            Replicates in which a value is NaN are left out.

    Raises:
        ValueError: if no seed is shared, or the numbers of replicates differ.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        raise ValueError(f"no shared seed: {sorted(a)} and {sorted(b)}")
    differences = np.array([a[seed] - b[seed] for seed in seeds])
    seed_part, image_part = squared_errors(differences, _paired(seeds, replicates_a or {}, replicates_b or {}))
    mean, n = float(differences.mean()), len(seeds)
    se_seed, se_image = (None if part is None else math.sqrt(part) for part in (seed_part, image_part))
    df = None if se_seed is None else float(n - 1)
    if seed_part is None and image_part is None:
        return Gap(mean, None, None, None, n, df, se_seed, se_image)
    half = float(half_width(seed_part, image_part, n))
    return Gap(mean, mean - half, mean + half, _p_value(mean, seed_part, image_part, n), n, df, se_seed, se_image)


def _paired(seeds: Sequence[int], a: Mapping[int, Floats], b: Mapping[int, Floats]) -> Floats | None:
    """Differences ``[n, B]`` of the replicates that are defined, or None where fewer than two are."""
    if not all(seed in a and seed in b for seed in seeds):
        return None
    lengths = {len(replicates[seed]) for replicates in (a, b) for seed in seeds}
    if len(lengths) > 1:
        raise ValueError(f"replicates must be paired, got {sorted(lengths)} of them")
    differences = np.stack([np.asarray(a[seed], dtype=np.float64) - b[seed] for seed in seeds])
    differences = differences[:, np.isfinite(differences).all(axis=0)]
    return differences if differences.shape[1] > 1 else None


def squared_errors(differences: Floats, replicates: Floats | None) -> tuple[Floats | None, Floats | None]:
    """The two parts of the variance of a mean difference: that of the seeds and that of the images.

    A seed answers to the images in a way of its own (the interaction). That share is in the spread of the seeds, and
    over n seeds also in the bootstrap of the mean, from which it is taken out so that it counts once.

    Args:
        differences: ``[..., n]`` by seed.
        replicates: ``[..., n, B]`` the same under re-weighted images.

    Returns:
        Squared standard errors ``[...]``; None for one seed, and without replicates.
    """
    n = differences.shape[-1]
    seed = np.asarray(differences.var(axis=-1, ddof=1) / n) if n > 1 else None
    if replicates is None:
        return seed, None
    of_mean = replicates.mean(axis=-2).var(axis=-1, ddof=1)
    if seed is None:
        return None, np.asarray(of_mean)
    of_one = replicates.var(axis=-1, ddof=1).mean(axis=-1)
    interaction = (of_one - of_mean) / (n - 1)  # of the mean: >= 0, as variance is convex
    return seed, np.maximum(of_mean - interaction, 0.0)


def half_width(seed: Floats | None, image: Floats | None, n: int) -> Floats:
    """Half of the 95 % interval ``[...]`` of a mean with these squared standard errors, of `n` seeds.

    The critical value is the mean of Student's (n - 1 degrees of freedom) and the normal one, weighted with the parts
    of the variance (Cochran, Biometrics 20, 1964, for two Student values). Welch-Satterthwaite's degrees of freedom
    are too many where the spread of two or three seeds is small by chance: 87 % coverage at two, 92 % at three.
    """
    share, total = _share(seed, image)
    return _critical(ALPHA, share, n) * np.sqrt(total)


def _share(seed: Floats | None, image: Floats | None) -> tuple[Floats, Floats]:
    """The seeds' share of the variance, and the variance."""
    if seed is None or image is None:
        total = np.asarray(image if seed is None else seed, dtype=np.float64)
        return np.full_like(total, float(image is None)), total
    total = np.asarray(seed + image)
    return np.divide(seed, total, out=np.ones_like(total), where=total > 0), total


def _critical(alpha: float, share: Floats, n: int) -> Floats:
    from scipy.special import ndtri, stdtrit

    student = -stdtrit(n - 1, alpha / 2) if n > 1 else 0.0
    return np.asarray(share * student - (1 - share) * ndtri(alpha / 2))


def _p_value(mean: float, seed: Floats | None, image: Floats | None, n: int) -> float:
    """The level at which the interval would end at zero."""
    from scipy.optimize import brentq
    from scipy.special import ndtr, stdtr

    share, total = _share(seed, image)
    if total == 0:
        return 1.0 if mean == 0 else 0.0
    statistic = abs(mean) / math.sqrt(total)
    normal = 2 * float(ndtr(-statistic))
    student = 2 * float(stdtr(n - 1, -statistic)) if n > 1 else normal
    low, high = math.log(max(normal, 1e-300)), math.log(max(student, 1e-300))

    def excess(log_p: float) -> float:
        return float(_critical(math.exp(log_p), share, n)) - statistic

    # The two bounds are exact where one part is alone; rounding may then leave no change of sign between them.
    if excess(low) <= 0:
        return math.exp(low)
    if excess(high) >= 0:
        return math.exp(high)
    return math.exp(brentq(excess, low, high, xtol=1e-10))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the given order: reject where one is below the level."""
    corrected = [1.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def letters(names: Sequence[str], distinguishable: Mapping[tuple[int, int], bool]) -> list[str]:
    """The compact letter display: two entries share a letter exactly where they are not distinguishable.

    Insert and absorb (Piepho, J. Comput. Graph. Stat. 13, 2004).

    Args:
        names: of the entries, best first; the best has an ``a``.
        distinguishable: whether two entries, by position, are told apart. Pairs left out are not.

    Returns:
        For each entry its letters, ``a`` to ``z``, then ``a1`` to ``z1`` and so on.
    """
    groups = [frozenset(range(len(names)))]
    for (i, j), told_apart in distinguishable.items():
        if told_apart:
            split = {part for group in groups for part in _without_pair(group, i, j)}
            groups = [group for group in split if not any(group < other for other in split)]
    groups.sort(key=sorted)
    return ["".join(_letter(k) for k, group in enumerate(groups) if index in group) for index in range(len(names))]


def _without_pair(group: frozenset[int], i: int, j: int) -> tuple[frozenset[int], ...]:
    return (group - {i}, group - {j}) if {i, j} <= group else (group,)


def _letter(number: int) -> str:
    turn, letter = divmod(number, 26)
    return chr(ord("a") + letter) + (str(turn) if turn else "")


def resolvable_gap(sd: float, n: int, power: float = 0.8) -> float | None:
    """The smallest true gap that the two-sided paired t-test at 5 % finds, with its sign, with this power.

    Args:
        sd: of the seed-paired differences.
        n: seeds.
        power: chance to find the gap, in (0.025, 1).

    Returns:
        The gap in the unit of `sd`; None for fewer than two seeds.
    """
    from scipy.special import nctdtrinc, stdtrit

    if n < 2:
        return None
    limit = -stdtrit(n - 1, ALPHA / 2)
    shift = nctdtrinc(n - 1, 1 - power, limit)  # of the noncentral t: gap over standard error
    return sd / math.sqrt(n) * float(shift)


def smallest_gap(gaps: Sequence[Gap]) -> float | None:
    """The true gap that such pairs find in four of five cases, from the median pair's noise; None for no pair."""
    if not gaps:
        return None
    seeds = int(np.median([gap.seeds for gap in gaps]))
    error = float(np.median([math.hypot(gap.se_seed or 0.0, gap.se_image or 0.0) for gap in gaps]))
    return resolvable_gap(error * math.sqrt(seeds), seeds)


def seeds_needed(gap: float, sd: float, power: float = 0.8) -> int | None:
    """The fewest seeds, from 2 to `MOST_SEEDS`, at which `resolvable_gap` is no more than `gap`; None beyond."""
    candidates = range(2, MOST_SEEDS + 1)
    position = bisect_left(candidates, -gap, key=lambda n: -(resolvable_gap(sd, n, power) or 0.0))
    return candidates[position] if position < len(candidates) else None
