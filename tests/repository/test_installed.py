"""The package as it is installed: without this checkout, without its tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the three packages and nothing else of the repository."""
    folder = tmp_path_factory.mktemp("installed")
    copy = tmp_path_factory.mktemp("source") / "zoo"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if files.returncode:
        pytest.skip("no checkout: what would be installed is not known")
    for name in files.stdout.splitlines():
        if name.startswith(("assigners/", "detector/", "harness/", "pyproject", "README", "LICENSE")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((REPOSITORY / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        folder,
        copy,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def call(installed, folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "harness", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_verify_has_its_oracles(installed, tmp_path):
    told = call(installed, tmp_path, "verify", "atss", "--golden", GOLDEN, "--examples", "1", "--json")
    assert told.returncode == 0, told.stderr
    rows = {row["case"]: row for row in json.loads(told.stdout)["golden"]["verdicts"] if row["peer"] == "official_atss"}
    assert len(rows) == 10
    assert all(row["oracle_and_peer"]["equal"] == row["oracle_and_peer"]["compared"] > 0 for row in rows.values())


def test_bench_has_its_dense_versions(installed, tmp_path):
    words = ["center", "--boxes", "3", "--images", "1", "--classes", "2", "--size", "64x96", "--results", tmp_path]
    told = call(installed, tmp_path, "bench", "assigners", *words, "--json")
    assert told.returncode == 0, told.stderr
    (row,) = json.loads(told.stdout)["rows"]
    assert row["ratio"] > 0


def test_protocols_papers_and_the_page_are_there(installed, tmp_path):
    assert "@inproceedings{ma2021iqdet" in call(installed, tmp_path, "ls", "--bibtex", "iqdet").stdout
    assert "shapes-board" in call(installed, tmp_path, "ls").stdout
    files = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert {"harness/report/report.html.j2", "harness/report/style.css", "harness/report/script.js"} <= files
    assert not any(name.startswith("tests/") for name in files)
