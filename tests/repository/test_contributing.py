"""CONTRIBUTING's "add an assigner in 30 minutes", "add a data source" and "add a verb", followed to the letter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDE = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
SMALL = ("schedule.steps=2", "schedule.batch_size=2", "data.train_images=2", "data.val_images=2")
SETS = [word for override in SMALL for word in ("--set", override)]


def block(language: str, section: str = "Add an assigner") -> str:
    """The first block of a language in a section."""
    text = GUIDE.partition(f"\n## {section}")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)[0]


def install(folder: Path, section: str) -> dict[str, str]:
    """The section's package as an installer would leave it: the module, and a dist-info with its entry points."""
    code = block("python", section)
    (folder / code.split()[1]).write_text(code, "utf-8")
    project = block("toml", section)
    name, version = (re.search(rf'^{key} = "(.+)"', project, re.MULTILINE)[1] for key in ("name", "version"))
    group, entry = re.search(r'\[project\.entry-points\."(.+?)"\]\n(.+)', project).groups()
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n", "utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(REPOSITORY))), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return install(tmp_path_factory.mktemp("site"), "Add an assigner")


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
    words = re.search(r"harness (run .+)", block("sh"))[1].replace("'", "").split()
    answer = json.loads(harness(environment, *words, *SETS, "--results", str(tmp_path), "--json"))
    assert answer["record"]["assigner"] == "nearest"
    assert answer["record"]["options"] == {"count": 5}
    assert Path(answer["path"]).exists()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """What the example source reads: three pictures a split, a box in each."""
    rng = np.random.default_rng(0)
    (tmp_path / "classes.txt").write_text("cup pen\n")
    for split in ("train", "val"):
        rows = ["file,x1,y1,x2,y2,class"]
        for number, kind in enumerate(("cup", "pen", "cup")):
            name = f"{split}{number}.png"
            Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(tmp_path / name)
            rows.append(f"{name},{4 + number},6,60,50,{kind}")
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_new_data_source_is_listed_read_and_trained_on(table: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    environment = install(tmp_path_factory.mktemp("site"), "Add a data source")
    assert "table:DIR" in {row["spec"] for row in json.loads(harness(environment, "ls", "data", "--json"))}
    results = tmp_path_factory.mktemp("results")
    words = block("sh", "Add a data source").splitlines()[1].split()[1:]
    words = [word.replace("DIR", str(table)) for word in words]
    record = json.loads(harness(environment, *words, *SETS, "--results", str(results), "--json"))["record"]
    assert (record["data"]["kind"], record["data"]["classes"]) == ("table", ["cup", "pen"])
    assert record["data"]["train"]["boxes"] == 2  # of two images
    again = [sys.executable, "-m", "harness", "eval", record["run_id"], "--results", str(results)]
    refused = subprocess.run(again, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "give --data table:DIR" in refused.stderr


def test_a_new_data_source_says_what_is_wrong(table: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    environment = install(tmp_path_factory.mktemp("site"), "Add a data source")
    (table / "val.csv").write_text("file,x1,y1,x2,y2,class\nval0.png,1,2,3,4,spoon\n")
    command = [sys.executable, "-m", "harness", "data", f"table:{table}"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "a row is no box" in refused.stderr


def test_a_new_verb_answers_like_the_others(tmp_path: Path) -> None:
    """In a copy of the command line, with the file and the name added."""
    for path in (REPOSITORY / "harness").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            copy = tmp_path / path.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    code = block("python", "Add a verb")
    (tmp_path / code.split()[1]).write_text(code, "utf-8")
    package = tmp_path / "harness" / "cli" / "__init__.py"
    text = package.read_text("utf-8")
    assert text.count("VERBS = {") == 1
    package.write_text(text.replace("VERBS = {", 'VERBS = {"hello": "How many runs there are.", ', 1), "utf-8")
    path = os.pathsep.join((str(tmp_path), str(REPOSITORY)))
    environment = {**os.environ, "PYTHONPATH": path}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert "How many runs there are." in call("--help").stdout
    told = call("hello", "--results", str(REPOSITORY / "results"), "--json")
    assert json.loads(told.stdout)["runs"] > 80, told.stderr
