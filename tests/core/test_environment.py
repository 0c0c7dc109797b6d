"""What a record says of its machine and its code: enough to repeat, nothing to recognise anyone by."""

import getpass
import json
import os
import platform
import subprocess

import pytest

from harness.core import environment as module
from harness.core.environment import environment, source_version


def test_versions_and_machine_without_names_or_paths():
    described = environment("cpu")
    assert {"torch", "torchvision", "timm", "numpy", "pycocotools", "python", "platform"} <= set(described)
    assert described["device"]
    assert described["cuda"] is None
    assert described["threads"] >= 1
    values = {str(value) for value in described.values()}
    assert platform.node() not in values
    assert getpass.getuser() not in values
    assert not any(value.startswith("/") for value in values)
    json.dumps(described, allow_nan=False)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit that holds the three packages; the module believes it lies there."""
    for name in ("assigners", "detector", "harness"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    here = tmp_path / "harness" / "core" / "environment.py"
    here.parent.mkdir()
    here.write_text("")
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.setattr(module, "__file__", str(here))

    # A hook's GIT_DIR would turn these commands on the repository that is being tested.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", tmp_path, *identity, *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=clean)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    return tmp_path, git


def test_a_clean_checkout_is_its_commit(checkout):
    folder, git = checkout
    assert source_version()["commit"] == git("rev-parse", "HEAD")
    (folder / "notes.txt").write_text("results and notes move no number")
    assert source_version()["commit"] == git("rev-parse", "HEAD")


@pytest.mark.parametrize("changed", ["assigners/__init__.py", "detector/new.py"])
def test_a_changed_or_new_source_file_is_said(checkout, changed):
    folder, git = checkout
    (folder / changed).write_text("x = 1\n")
    assert source_version()["commit"] == git("rev-parse", "HEAD") + "+dirty"


def test_the_answer_is_of_this_folder_also_inside_a_hook(checkout, monkeypatch, tmp_path_factory):
    _, git = checkout
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("elsewhere")))
    assert source_version()["commit"] == git("rev-parse", "HEAD")


def test_an_installed_copy_inside_another_checkout_has_no_commit(checkout, monkeypatch):
    folder, _ = checkout
    installed = folder / "env" / "harness" / "core"
    installed.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(installed / "environment.py"))
    assert source_version()["commit"] is None


def test_without_git_or_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "environment.py"))
    assert source_version()["commit"] is None
    monkeypatch.setenv("PATH", "")
    assert source_version()["commit"] is None
