"""CONTRIBUTING's "add an assigner in 30 minutes", followed to the letter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text("utf-8")


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)[0]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The guide's package as an installer would leave it: the module, and a dist-info with its entry points."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "nearest_assigner.py").write_text(block("python"), "utf-8")
    name, version = (re.search(rf'^{key} = "(.+)"', block("toml"), re.MULTILINE)[1] for key in ("name", "version"))
    group, entry = re.search(r'\[project\.entry-points\."(.+?)"\]\n(.+)', block("toml")).groups()
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n", "utf-8")
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def harness(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_new_assigner_is_listed(environment: dict[str, str]) -> None:
    listed = json.loads(harness(environment, "ls", "assigners", "--json"))
    assert "nearest" in {row["name"] for row in listed}


def test_new_assigner_trains_and_is_recorded(environment: dict[str, str], tmp_path: Path) -> None:
    small = ("schedule.steps=2", "schedule.batch_size=2", "data.train_images=2", "data.val_images=2")
    sets = [word for override in small for word in ("--set", override)]
    words = re.search(r"harness (run .+)", block("sh"))[1].replace("'", "").split()
    answer = json.loads(harness(environment, *words, *sets, "--results", str(tmp_path), "--json"))
    assert answer["record"]["assigner"] == "nearest"
    assert answer["record"]["options"] == {"count": 5}
    assert Path(answer["path"]).exists()
