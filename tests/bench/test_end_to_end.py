"""torchvision's FCOS beside ours: the same network, the same work, the same detections of the same maps."""

from __future__ import annotations

import json
import math

import pytest
import torch
from click.testing import CliRunner

from harness.bench import end_to_end
from harness.bench.end_to_end import PARTS, Batch, Duel
from harness.cli import main
from harness.training.build import resolve_assigner

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def duel():
    return Duel(resolve_assigner("center", {}), Batch(2, 3, 5, (64, 96), "float32"), CPU)


def test_both_find_the_same_in_the_same_maps(duel):
    for mine, theirs in zip(duel.suppress(), duel.theirs.suppression(duel.scene)(), strict=True):
        assert len(mine["scores"]) == len(theirs["scores"]) > 10
        assert torch.equal(mine["labels"], theirs["labels"])
        assert torch.allclose(mine["scores"], theirs["scores"], atol=1e-6)
        assert torch.allclose(mine["boxes"], theirs["boxes"], atol=1e-3)


def test_a_step_of_both_is_the_same_work(duel):
    assert end_to_end._gflop(duel.step) == pytest.approx(end_to_end._gflop(duel.theirs.step), rel=1e-6)


def test_each_part_has_a_row_and_the_step_its_parts(duel):
    rows = list(duel.measure(0.0))
    assert [row.part for row in rows] == list(PARTS)
    for row in rows:
        assert row.low <= row.times <= row.high
        assert row.ours_ms > 0 < row.theirs_ms
        assert (row.images, row.boxes, row.classes, row.size, row.turns) == (2, 3, 5, "64x96", end_to_end.LEAST)
    assert [row.floor_ms is None for row in rows] == [False, False, True]
    parts = duel.profile()
    assert list(parts) == ["backbone", "pyramid", "head", "assigner", "losses", "backward and optimiser"]
    assert all(math.isfinite(value) and value > 0 for value in parts.values())


def test_the_verb_writes_a_row_for_each_part_in_the_place_of_an_older_one(tmp_path):
    words = ["bench", "e2e", "--images", "1", "--size", "64x64", "--seconds", "0", "--results", str(tmp_path), "--json"]
    for _ in range(2):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert [row["part"] for row in said["rows"]] == list(PARTS)
    assert set(said["step_ms"]) >= {"backbone", "losses"}
    assert len((tmp_path / "bench" / "e2e.csv").read_text().splitlines()) == 1 + len(PARTS)


@pytest.mark.parametrize(
    "words", [["--size", "64"], ["--precision", "float16"], ["-a", "cente"], ["-a", "poto[nms=false]"]]
)
def test_what_cannot_be_measured_is_refused(tmp_path, words):
    done = CliRunner().invoke(main, ["bench", "e2e", "--results", str(tmp_path), *words])
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
