"""How often the 95 % intervals hold the truth, by simulation: ``python -m harness.comparison.coverage``.

Two kinds of world with a known gap:

* ``model``: the difference of two assigners on a seed is the gap plus training noise (sd 1), plus what the choice of
  images does to every seed (sd ``ratio``), plus what it does to this seed (sd ``interaction``). Images are normal,
  the image bootstrap runs over them.
* ``detections``: two imaginary detectors on a population of `shapes` images, through COCO's matching, AP and the
  re-weighting of the match table. The population is finite, so its gap is known exactly.

Two intervals: ``seeds`` (the paired t-interval), which is about these very images, and ``combined`` (seeds and image
bootstrap), about all images like these. The first is judged against the second's aim too: it must fail there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.comparison.intervals import Gap, half_width, paired_gap, squared_errors
from harness.core.files import write_atomically
from harness.data.shapes.shapes import ShapesSet
from harness.evaluation.bootstrap import image_weights
from harness.evaluation.detections import Detections
from harness.evaluation.match_table import MatchTable

Floats = NDArray[np.float64]

SEED = 20210420
SEEDS = (2, 3, 5, 10)
RATIOS = (0.0, 0.25, 0.5, 1.0, 2.0)
INTERACTIONS = (0.0, 0.5)
IMAGES = 100  # of a simulated validation set
REPLICATES = 200
CHUNK = 250  # simulations at a time: 250 x 10 x 200 float64 are 4 MB

POPULATION = 120  # images of the `detections` world
TRAININGS = 12  # pairs of runs in that world


@dataclass(frozen=True)
class CoverageRow:
    """The coverage of one interval in one world."""

    world: str  # ``model`` or ``detections``
    n: int  # seeds
    ratio: float | None  # the image noise that the seeds share, over the training noise
    interaction: float | None  # the image noise of each seed, likewise
    interval: str  # ``seeds`` or ``combined``
    aim: str  # ``these images`` or ``all images``
    coverage: float  # share of the intervals that hold the aim
    half_width: float  # their median
    simulations: int  # how many


def model_rows(
    simulations: int,
    seeds: tuple[int, ...] = SEEDS,
    ratios: tuple[float, ...] = RATIOS,
    interactions: tuple[float, ...] = INTERACTIONS,
) -> Iterator[CoverageRow]:
    """Rows of the ``model`` world: all combinations of the arguments."""
    weights = image_weights(IMAGES, REPLICATES) / IMAGES
    for (number, n), ratio, interaction in product(enumerate(seeds), ratios, interactions):
        rng = np.random.default_rng((SEED, number, round(100 * ratio), round(100 * interaction)))
        parts = [
            _simulate(rng, weights, min(CHUNK, simulations - start), n, ratio, interaction)
            for start in range(0, simulations, CHUNK)
        ]
        means, shared, only_seeds, combined = np.concatenate(parts, axis=1)
        for interval, aim, error, half in (
            ("seeds", "these images", means - shared, only_seeds),
            ("seeds", "all images", means, only_seeds),
            ("combined", "all images", means, combined),
        ):
            held = float((np.abs(error) <= half).mean())
            width = float(np.median(half))
            yield CoverageRow("model", n, ratio, interaction, interval, aim, held, width, simulations)


def _simulate(
    rng: np.random.Generator, weights: Floats, count: int, n: int, ratio: float, interaction: float
) -> Floats:
    """Mean difference, shared image effect and the half-widths of both intervals ``[4, count]``; the true gap is 0."""
    root = np.sqrt(IMAGES)  # an effect of sd root on every image is one of sd 1 on their mean
    training = rng.normal(size=(count, n))
    shared = ratio * root * rng.normal(size=(IMAGES, count, 1))
    by_image = shared + interaction * root * rng.normal(size=(IMAGES, count, n))
    differences = training + by_image.mean(axis=0)
    replicates = training[..., None] + np.tensordot(by_image, weights, axes=(0, 1))  # [count, n, B]
    seed_part, image_part = squared_errors(differences, replicates)
    halves = half_width(seed_part, None, n), half_width(seed_part, image_part, n)
    return np.stack([differences.mean(axis=1), shared.mean(axis=0)[:, 0], *halves])


def detection_row(simulations: int, n: int = 3) -> CoverageRow:
    """The combined interval of `n` seeds in the ``detections`` world."""
    rng = np.random.default_rng((SEED, n))
    pairs = _trainings(rng)
    whole = np.ones((1, POPULATION))
    truth = float(np.mean([_points(a, whole) - _points(b, whole) for a, b in pairs]))
    gaps = [_observed(rng, pairs, n) for _ in range(simulations)]
    low, high = np.array([(gap.low, gap.high) for gap in gaps], dtype=np.float64).T
    held = float(((low <= truth) & (truth <= high)).mean())
    width = float(np.median((high - low) / 2))
    return CoverageRow("detections", n, None, None, "combined", "all images", held, width, simulations)


def _points(table: MatchTable, weights: Floats) -> Floats:
    return table.average_precision(weights)["AP"]


def _observed(rng: np.random.Generator, pairs: list[tuple[MatchTable, MatchTable]], n: int) -> Gap:
    """What a study of `n` random trainings on `IMAGES` random images of the population reports."""
    # Drawing with replacement makes the sample, and each of its bootstrap replicates, a weight of the population.
    slots = rng.integers(POPULATION, size=IMAGES)
    weights = np.zeros((1 + REPLICATES, POPULATION))
    counts = np.concatenate((np.ones((1, IMAGES)), image_weights(IMAGES, REPLICATES)))
    np.add.at(weights.T, slots, counts.T)
    chosen = [pairs[index] for index in rng.integers(len(pairs), size=n)]
    a, b = ({seed: _points(pair[side], weights) for seed, pair in enumerate(chosen)} for side in (0, 1))
    return paired_gap(
        {seed: float(points[0]) for seed, points in a.items()},
        {seed: float(points[0]) for seed, points in b.items()},
        {seed: points[1:] for seed, points in a.items()},
        {seed: points[1:] for seed, points in b.items()},
    )


def _trainings(rng: np.random.Generator) -> list[tuple[MatchTable, MatchTable]]:
    """The match tables of both detectors for every seed of the population."""
    images = ShapesSet(POPULATION, 128, "val")
    # An image is hard for both, and the detectors answer to it differently, whatever the seed: the image noise.
    hard, response = rng.normal(0, 0.6, POPULATION), rng.normal(0, 0.5, (2, POPULATION))
    return [
        (
            MatchTable.build(images, _detect(rng, images, 0.6 + rng.normal(0, 0.1) + response[0] - hard)),
            MatchTable.build(images, _detect(rng, images, 0.4 + rng.normal(0, 0.1) + response[1] - hard)),
        )
        for _ in range(TRAININGS)
    ]


def _detect(rng: np.random.Generator, images: ShapesSet, skill: Floats) -> list[Detections]:
    """One detection near each object, the nearer and the surer the higher the image's skill, and two in the void."""
    detections: list[Detections] = []
    for index in range(len(images)):
        truth = images.annotations(index)
        count = len(truth)
        quality = 1 / (1 + np.exp(-skill[index] - rng.normal(0, 0.8, count)))
        sides = np.tile(truth.boxes[:, 2:] - truth.boxes[:, :2], 2)
        boxes = truth.boxes + 0.25 * (1 - quality)[:, None] * sides * rng.normal(size=(count, 4))
        corner = rng.uniform(0, 90, (2, 2))
        detections.append(
            {
                "boxes": np.concatenate((boxes, np.concatenate((corner, corner + 30), axis=1))),
                "scores": np.concatenate((quality, rng.beta(2, 4, 2))),
                "labels": np.concatenate((truth.labels, rng.integers(len(images.classes), size=2))),
            }
        )
    return detections


def as_csv(rows: list[CoverageRow]) -> str:
    """A table of rows, one line each."""
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.4g", lineterminator="\n")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--simulations", default=4000, show_default=True, type=click.IntRange(min=100), help="Per row.")
@click.option(
    "--output", default=Path("results/coverage.csv"), show_default=True, type=click.Path(path_type=Path), help="A CSV."
)
def main(simulations: int, output: Path) -> None:
    """Simulate the achieved coverage of the 95 % intervals by number of seeds, and write it as a table.

    The world made of detections gets a tenth of the simulations, as each takes as long as thousands of the others.
    """
    rows = [*model_rows(simulations), detection_row(simulations // 10)]
    write_atomically(output, as_csv(rows))
    click.echo(f"{len(rows)} rows in {output}", err=True)


if __name__ == "__main__":
    main()
