"""Several processes as one program: what they are told, which of them is the reason for the end, and signals."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from harness.core import launch as module
from harness.core.errors import LOST
from harness.core.launch import launch
from tests.support.runs import REPOSITORY

BEGIN = """
import json, os, signal, sys, time
from pathlib import Path
from harness.core.launch import leave_word
rank = int(os.environ["RANK"])
def end(code, word=""):
    if word:
        leave_word(word)
    sys.exit(code)
def both(signum=None, *_):
    Path(f"ready{rank}").touch()
    while not all(Path(f"ready{each}").exists() for each in range(2)):
        time.sleep(0.01)
"""


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """A function: exit code and message of two processes that run a script each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module, "_GRACE", 1.0)

    def run(main: str, other: str = "", everybody: str = "both()"):
        script = f"{BEGIN}\n{everybody}\nif rank == 0:\n    {main or 'pass'}\nelse:\n    {other or 'pass'}\n"
        return launch([sys.executable, "-c", script, "words"], 2)

    return run


def test_each_process_knows_its_place(ended, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    note = "Path(f'told{rank}').write_text(json.dumps([sys.argv[1:], {**os.environ}]))"
    assert ended(note, note) == (0, "")
    ports = set()
    for rank in range(2):
        words, told = json.loads(Path(f"told{rank}").read_text())
        assert words == ["words"]
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")
        assert [told[name] for name in names] == [str(rank), str(rank), "2", "2", "127.0.0.1", "3"]
        ports.add(told["MASTER_PORT"])
    assert len(ports) == 1


def test_threads_that_the_user_has_set_stay(ended, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert ended("end(int(os.environ['OMP_NUM_THREADS']), 'error: five')") == (5, "error: five")


@pytest.mark.parametrize(
    ("main", "other", "code", "message"),
    [
        ("end(2, 'error: no data')", "end(2, 'error: no data')", 2, "error: no data"),  # said once
        ("end(75, 'interrupted; checkpoint: c')", f"end(1, {LOST!r})", 75, "interrupted; checkpoint: c"),
        (f"end(1, {LOST!r})", "end(2, 'error: image 4')", 2, "error: image 4"),
        (f"end(1, {LOST!r})", "os.kill(os.getpid(), signal.SIGKILL)", 1, "error: process 1 of 2 was ended by SIGKILL"),
        (f"end(1, {LOST!r})", "raise ValueError('a bug')", 1, "ValueError: a bug"),
        ("end(0)", "end(1, 'error: too little memory')", 1, "error: too little memory"),
        ("time.sleep(60)", "raise ValueError('a bug')", 1, "ValueError: a bug"),  # one that hangs is ended
        ("end(130, 'interrupted')", "time.sleep(60)", 130, "interrupted"),
    ],
)
def test_the_reason_is_told_whoever_ends_first(ended, main, other, code, message):
    ends, said = ended(main, other)
    assert ends == code
    assert message in said
    assert "Traceback" not in said or "raise" in other
    assert said.count(message) == 1


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_reaches_all_and_their_answer_counts(ended, name, code):
    hear = f"signal.signal(signal.{name}, lambda *_: [Path(f'heard{{rank}}').touch(), end({code}, f'asked {{rank}}')])"
    wait = "time.sleep(60)"
    ask = f"[os.kill(os.getppid(), signal.{name}), time.sleep(60)]"
    assert ended(wait, ask, f"{hear}\nboth()") == (code, "asked 0")
    assert all(Path(f"heard{rank}").exists() for rank in range(2))


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_before_anyone_hears_it_counts_too(ended, name, code):
    deaf = f"signal.signal(signal.{name}, signal.SIG_DFL)\nboth()"  # as a process that is only about to import
    assert ended("time.sleep(60)", f"[os.kill(os.getppid(), signal.{name}), time.sleep(60)]", deaf) == (
        code, "interrupted",
    )  # fmt: skip
