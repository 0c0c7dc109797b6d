"""The intervals hold the truth as often as they say: a small seeded run of the simulation."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from click.testing import CliRunner

from harness.comparison import coverage
from harness.comparison.coverage import CoverageRow, as_csv, detection_row, model_rows

SIMULATIONS = 1000
ERROR = 2.5 * math.sqrt(0.95 * 0.05 / SIMULATIONS)  # of a simulated coverage of 95 %


@pytest.fixture(scope="module")
def rows():
    """(n, ratio, interaction, interval, aim) -> row."""
    found = model_rows(SIMULATIONS, seeds=(2, 3, 5, 10), ratios=(0.0, 0.5, 1.0), interactions=(0.0, 0.5))
    return {(row.n, row.ratio, row.interaction, row.interval, row.aim): row for row in found}


def test_every_combination_has_its_rows(rows):
    assert len(rows) == 4 * 3 * 2 * 3
    assert all(row.simulations == SIMULATIONS and row.half_width > 0 for row in rows.values())


def test_each_interval_covers_its_own_aim(rows):
    for (n, _, _, interval, aim), row in rows.items():
        if (interval, aim) in {("seeds", "these images"), ("combined", "all images")}:
            # Two seeds tell so little of their own spread that the combined interval has to be wide.
            most = 0.98 if (n, interval) == (2, "combined") else 0.97
            assert 0.93 - ERROR < row.coverage < most + ERROR, row


def test_seeds_alone_do_not_speak_for_other_images(rows):
    for n in (3, 5, 10):
        assert rows[n, 1.0, 0.0, "seeds", "all images"].coverage < 0.88
    assert rows[10, 1.0, 0.0, "seeds", "all images"].coverage < rows[3, 1.0, 0.0, "seeds", "all images"].coverage


def test_more_seeds_narrow_the_part_of_the_seeds_alone(rows):
    widths = {n: rows[n, 1.0, 0.0, "combined", "all images"].half_width for n in (3, 10)}
    assert widths[10] < widths[3]
    assert widths[10] > 1.9  # the images' own 1.96 stays


def test_the_interval_covers_through_matching_and_reweighting(monkeypatch):
    monkeypatch.setattr(coverage, "REPLICATES", 100)
    monkeypatch.setattr(coverage, "TRAININGS", 6)
    row = detection_row(40)
    assert row.half_width > 0.1
    assert row.coverage >= 0.85  # of 40 studies; a coverage of 95 % gives less once in 200 times
    assert (row.world, row.n, row.interval, row.simulations) == ("detections", 3, "combined", 40)


def test_the_imaginary_detectors_differ_and_are_noisy(monkeypatch):
    monkeypatch.setattr(coverage, "TRAININGS", 3)
    whole = np.ones((1, coverage.POPULATION))
    pairs = coverage._trainings(np.random.default_rng(0))
    points = np.array([[table.average_precision(whole)["AP"][0] for table in pair] for pair in pairs])
    assert ((points > 5) & (points < 95)).all()
    assert (points[:, 0] - points[:, 1]).std() > 0.05


def test_the_table_is_a_csv(tmp_path, monkeypatch):
    model = CoverageRow("model", 2, 0.5, 0.0, "seeds", "all images", 0.94375, 6.0794, 100)
    matched = CoverageRow("detections", 3, None, None, "combined", "all images", 1.0, 2.0, 10)
    asked = []
    monkeypatch.setattr(coverage, "model_rows", lambda simulations: asked.append(simulations) or iter([model]))
    monkeypatch.setattr(coverage, "detection_row", lambda simulations: asked.append(simulations) or matched)
    output = tmp_path / "deep" / "coverage.csv"
    done = CliRunner().invoke(coverage.main, ["--simulations", "100", "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert asked == [100, 10]
    assert output.read_text() == as_csv([model, matched])
    first, second = csv.DictReader(output.read_text().splitlines())
    assert list(first.values()) == ["model", "2", "0.5", "0", "seeds", "all images", "0.9437", "6.079", "100"]
    assert second["ratio"] == ""
