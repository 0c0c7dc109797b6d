"""Kills, Ctrl-C and damaged checkpoints: a run goes on to the same bits, or says what is wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from harness.core.errors import RunFailed, UserError
from harness.records.store import ResultsStore
from harness.runs import run as engine
from harness.training.trainer import Trainer
from tests.support.runs import DEADLINE, environment, files_of, request, run, small_protocol, toml_of, write_coco

SLOWLY = """
import sys, time
from pathlib import Path
from harness.training.trainer import Trainer
from tests.support.runs import request, run

original = Trainer._step
def step(self, batch, index, logged):
    if index == {at}:
        Path({flag!r}).touch()
        time.sleep({deadline})
    return original(self, batch, index, logged)
Trainer._step = step
run(request(Path({results!r}), "iqdet", checkpoint_seconds=0.0))
"""


def wait_for(ready, child):
    limit = time.monotonic() + DEADLINE
    while not ready():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < limit, "the child process did not get there"
        time.sleep(0.02)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, undisturbed):
    flag, results = tmp_path / "flag", tmp_path / "results"
    script = SLOWLY.format(at=5, flag=str(flag), results=str(results), deadline=DEADLINE)
    child = subprocess.Popen([sys.executable, "-c", script], env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        wait_for(flag.exists, child)
    finally:
        child.kill()
        child.communicate()
    clean = undisturbed("iqdet")
    work = results / "work" / clean.record.run_id
    assert json.loads((work / "checkpoint" / "state.json").read_text())["step"] == 5
    # What a dying process may leave behind: a trace beyond the checkpoint, a checkpoint half written.
    with (work / "metrics.jsonl").open("a") as trace:
        trace.write('{"step": 5, "lo')
    (work / "checkpoint.new").mkdir()
    (work / "checkpoint.new" / "model.safetensors").write_bytes(b"half")
    resumed = run(request(results, "iqdet", resume=True))
    assert files_of(resumed) == files_of(clean)
    assert resumed.record.metrics == clean.record.metrics
    assert resumed.record.progress == clean.record.progress
    assert not list(work.glob("checkpoint*"))


def stopped(tmp_path, how, *words):
    """A command with a loading process that meets `how` once there is a checkpoint: exit code and errors."""
    protocol = small_protocol(schedule={"steps": 5000}, evaluation={"every": 2})
    (tmp_path / "small.toml").write_text(toml_of(protocol))
    words = [*words, "--protocol", "small.toml", "--device", "cpu", "--threads", "1", "--workers", "1"]
    child = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *words], cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
    )  # fmt: skip
    try:
        wait_for(lambda: list(tmp_path.glob("results/work/*/checkpoint/state.json")), child)
        how(child)
        _, errors = child.communicate(timeout=DEADLINE)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    assert "Traceback" not in errors, errors
    return child.returncode, errors.strip().splitlines()


def to_all(number):
    """A signal to the whole group, as a terminal, a scheduler and `timeout` send it."""
    return lambda child: os.killpg(child.pid, number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_a_signal_to_the_whole_group(tmp_path, number, code):
    """Where the checkpoint lies and the command that goes on, in two lines."""
    ended, errors = stopped(tmp_path, to_all(number), "run", "-a", "center")
    assert ended == code, errors
    (checkpoint,) = tmp_path.glob("results/work/*/checkpoint")
    first, second = errors[-2:]
    assert first == f"interrupted; checkpoint: {checkpoint.relative_to(tmp_path)}"
    assert second.startswith("go on with: harness run --assigner center --data shapes --protocol small.toml")
    assert second.endswith("--resume")
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["step"] >= 2
    assert second == f"go on with: {state['command']}"  # for whoever finds the checkpoint later


def test_a_loading_process_that_is_killed_ends_the_run_in_a_line(tmp_path):
    def kill(child):
        (worker,) = loaders(child.pid)
        os.kill(worker, signal.SIGKILL)  # as the system does where memory runs out

    ended, errors = stopped(tmp_path, kill, "run", "-a", "center")
    assert ended == 1
    assert re.fullmatch(
        r"error: a loading process died at step \d+( \(Killed\))?; free memory or give fewer with --workers, and go on "
        "with --resume",
        errors[-1],
    ), errors


def loaders(parent):
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def test_a_scheduler_stops_a_sweep(tmp_path):
    """The run keeps its checkpoint and has not failed, and the next one does not begin."""
    ended, errors = stopped(tmp_path, to_all(signal.SIGTERM), "sweep", "-a", "center,atss", "--seeds", "1")
    assert ended == 75, errors
    assert errors[-1].startswith("go on with: harness sweep")
    (work,) = tmp_path.glob("results/work/*")
    assert work.name.startswith("center")
    assert not list(tmp_path.glob("results/fail*/*"))


@pytest.fixture(scope="module")
def dead_run(tmp_path_factory):
    """The results of a run that died at step 5 with a checkpoint."""
    original = Trainer._step
    results = tmp_path_factory.mktemp("dead")

    def step(self, batch, index, logged):
        if index == 5:
            raise RunFailed("power cut")
        return original(self, batch, index, logged)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(RunFailed):
            run(request(results, "iqdet", checkpoint_seconds=0.0))
    return results


@pytest.fixture
def checkpointed(tmp_path, dead_run):
    """A copy of it: the working directory, and what to ask to go on."""
    shutil.copytree(dead_run, tmp_path / "results")
    (work,) = (tmp_path / "results" / "work").iterdir()
    return work, request(tmp_path / "results", "iqdet", resume=True)


def test_a_kill_between_two_renames_loses_nothing(checkpointed, undisturbed):
    work, asked = checkpointed
    shutil.rmtree(work / "checkpoint.old")
    (work / "checkpoint").rename(work / "checkpoint.old")
    assert files_of(run(asked)) == files_of(undisturbed("iqdet"))


def damage(path, how):
    whole = path.read_bytes()
    flipped = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    contents = {"cut": whole[: len(whole) // 2], "rubbish": b"rubbish" * 40, "empty": b"", "flipped": flipped}
    path.unlink()
    if how != "gone":
        path.write_bytes(contents[how])


@pytest.mark.parametrize(("name", "how"), [("model.safetensors", "flipped"), ("state.json", "cut")])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(checkpointed, undisturbed, name, how):
    """One line names the file and the step; what follows has the bits of an undisturbed run."""
    work, asked = checkpointed
    damage(work / "checkpoint" / name, how)
    screen = Console(file=StringIO(), width=80)
    outcome, clean = run(replace(asked, console=screen)), undisturbed("iqdet")
    (warning,) = [line for line in screen.file.getvalue().splitlines() if line.startswith("warning: ")]
    assert warning.startswith(f"warning: checkpoint {work / 'checkpoint' / name} cannot be restored (")
    assert warning.endswith("); going on from the one before, at step 4")
    assert files_of(outcome) == files_of(clean)
    assert outcome.record.metrics == clean.record.metrics
    assert outcome.record.progress == clean.record.progress
    assert outcome.record.equal == clean.record.equal
    assert not list(work.glob("checkpoint*"))


def test_two_damaged_checkpoints_are_named_with_the_way_out(checkpointed):
    work, asked = checkpointed
    first, second = work / "checkpoint" / "optimizer.pt", work / "checkpoint.old" / "model.safetensors"
    damage(first, "rubbish")
    damage(second, "cut")
    with pytest.raises(UserError, match=r"cannot be restored \(.*; start the run anew with --restart$") as mistake:
        run(asked)
    assert str(first) in str(mistake.value)
    assert str(second) in str(mistake.value)
    assert first.exists()  # nothing is thrown away behind the user's back
    assert second.exists()


def test_a_checkpoint_of_another_run_is_refused(checkpointed):
    work, asked = checkpointed
    state = json.loads((work / "checkpoint" / "state.json").read_text())
    (work / "checkpoint" / "state.json").write_text(json.dumps({**state, "run_id": "another"}))
    with pytest.raises(UserError, match="is of run another, not iqdet-"):
        run(asked)


def test_an_unfinished_run_is_not_thrown_away_unasked(checkpointed, undisturbed):
    work, asked = checkpointed
    before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="--resume to go on, or --restart") as mistake:
        run(replace(asked, resume=False))
    assert str(work / "checkpoint") in str(mistake.value)
    assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == before
    assert files_of(run(asked)) == files_of(undisturbed("iqdet"))


def test_restart_begins_anew(checkpointed, undisturbed):
    _, asked = checkpointed
    assert files_of(run(replace(asked, resume=False, restart=True))) == files_of(undisturbed("iqdet"))


def test_resume_without_a_checkpoint_starts_anew(tmp_path, undisturbed):
    assert files_of(run(request(tmp_path, "atss", resume=True))) == files_of(undisturbed("atss"))


def test_a_resume_with_nothing_there_says_nothing(tmp_path, undisturbed):
    assert files_of(undisturbed("center")) == files_of(run(request(tmp_path / "silent", "center", resume=True)))
    assert not [line for line in lines_of(request(tmp_path, "center", resume=True)) if "begins" in line]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"protocol": small_protocol(schedule={"lr": 1e-3})}, "schedule.lr 0.003, not 0.001"),
        ({"options": {"positives": 8}}, "positives 12, not 8"),
        (
            {"protocol": small_protocol(data={"train_images": 5, "val_images": 3})},
            "other images or annotations in the training split; other images or annotations in the validation split; "
            "data.train_images 6, not 5; data.val_images 4, not 3",
        ),
        ({"protocol": small_protocol(data={"val_split": "train"})}, "validation split val, not train; data.val_split "),
        (None, "an older version left it, which took no note of what it is"),
    ],
)
def test_a_resume_names_the_unfinished_run_that_is_another(checkpointed, changes, differs):
    work, asked = checkpointed
    if changes is None:
        path = work / "checkpoint" / "state.json"
        state = json.loads(path.read_text())
        assert state.pop("question")["seed"] == 0
        path.write_text(json.dumps(state))
        changes = {"options": {"positives": 8}}
    (line,) = [line for line in lines_of(replace(asked, **changes)) if "begins" in line]
    assert line.startswith(f"begins at step 1; {work.name} (stopped after 5 steps) is another run: {differs}")
    assert (work / "checkpoint" / "state.json").exists()


def test_runs_of_another_seed_or_in_progress_are_not_named(checkpointed):
    work, asked = checkpointed
    assert not [line for line in lines_of(replace(asked, seed=1)) if "begins" in line]
    with ResultsStore(asked.results).lock(work.name):
        changed = replace(asked, options={"positives": 8})
        assert not [line for line in lines_of(changed) if "begins" in line]


def test_the_nearest_of_several_unfinished_runs_is_named(checkpointed):
    work, asked = checkpointed
    for number in range(3):
        other = work.with_name(f"{work.name.rpartition('-')[0]}-{number:010d}")
        shutil.copytree(work, other, ignore=shutil.ignore_patterns("checkpoint.old"))
        path = other / "checkpoint" / "state.json"
        state = json.loads(path.read_text())
        state["question"]["seed" if number else "options"] = {} if not number else 0
        path.write_text({0: json.dumps(state), 1: "[]", 2: "{"}[number])
    (line,) = [line for line in lines_of(replace(asked, options={"positives": 8})) if "begins" in line]
    assert f"{work.name} (stopped after 5 steps) is another run: positives 12, not 8" in line


def lines_of(asked):
    """What a run says."""
    screen = Console(file=StringIO(), width=80)
    run(replace(asked, console=screen))
    return screen.file.getvalue().splitlines()


def told(asked):
    """The record of a run that goes on, and the warnings on the way."""
    screen = Console(file=StringIO(), width=80)
    outcome = run(replace(asked, console=screen))
    return outcome.record, [line for line in screen.file.getvalue().splitlines() if line.startswith("warning: ")]


def code(commit, torch_version=torch.__version__):
    return {"commit": commit, "version": "0.1.0", "torch": str(torch_version)}


OLDER, OLD, NOW = "a" * 40, "b" * 40, "c" * 40


@pytest.mark.parametrize(
    ("trained_by", "earlier"),
    [
        ([code(NOW)], []),
        ([code(OLD)], [OLD]),
        ([code(OLDER), code(OLD), code(NOW)], [OLDER, OLD]),
        ([code(NOW, "2.11.0")], [f"{NOW} with torch 2.11.0"]),
        ([code(None)], ["version 0.1.0"]),
        ([], ["an earlier version"]),
        (None, ["an earlier version"]),
    ],
)
def test_other_code_that_trained_a_part_is_said_and_recorded(checkpointed, monkeypatch, trained_by, earlier):
    work, asked = checkpointed
    path = work / "checkpoint" / "state.json"
    state = json.loads(path.read_text())
    assert state.pop("trained_by"), "the dead run took note"
    assert state.pop("command") == "harness run --resume"
    path.write_text(json.dumps(state if trained_by is None else {**state, "trained_by": trained_by}))
    monkeypatch.setattr(engine, "source_version", lambda: {"commit": NOW, "version": "0.1.0"})
    record, warnings = told(asked)
    assert record.source.model_dump() == {"commit": NOW, "version": "0.1.0", "earlier": earlier}
    assert len(warnings) == bool(earlier)
    for name in (*earlier, *([NOW] if earlier else [])):
        assert name in warnings[0]


def test_code_is_noted_again_in_the_next_checkpoint(checkpointed, monkeypatch):
    """Stopped a second time, by a third commit: all three are known."""
    work, asked = checkpointed
    path = work / "checkpoint" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "trained_by": [code(OLDER)]}))
    original = Trainer._step

    def step(self, batch, index, logged):
        if index == 7:
            raise RunFailed("power cut")
        return original(self, batch, index, logged)

    monkeypatch.setattr(engine, "source_version", lambda: {"commit": OLD, "version": "0.1.0"})
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(RunFailed, match="power cut"):
            run(replace(asked, checkpoint_seconds=0.0, again="harness run --here --resume"))
    state = json.loads(path.read_text())
    assert state["trained_by"] == [code(OLDER), code(OLD)]
    assert state["command"] == "harness run --here --resume"
    monkeypatch.setattr(engine, "source_version", lambda: {"commit": NOW, "version": "0.1.0"})
    record, (warning,) = told(asked)
    assert record.source.earlier == [OLDER, OLD]
    assert f"{OLDER}, {OLD}; this is {NOW}" in warning


def test_a_run_in_one_piece_has_no_earlier_code(undisturbed):
    assert undisturbed("iqdet").record.source.earlier == []


@pytest.fixture
def photographs(tmp_path):
    """A COCO folder, and what to ask to train on it; images that cannot be read are left out."""
    data = write_coco(tmp_path / "data")
    protocol = small_protocol(data={"train_images": None, "val_images": None, "unreadable": "skip"})
    return data, request(tmp_path / "results", "iqdet", protocol, data=f"coco:{data}")


def at_step(patch, number, act):
    """Do something before a step."""
    original = Trainer._step

    def step(self, batch, index, logged):
        if index == number:
            act()
        return original(self, batch, index, logged)

    patch.setattr(Trainer, "_step", step)


def test_an_image_that_breaks_in_mid_epoch_is_named_and_the_training_kept(photographs, monkeypatch):
    """It is not left out as one that is broken from the start: what a step sees is a function of data and seed."""
    data, asked = photographs
    images = {path: path.read_bytes() for path in (data / "train").iterdir()}

    def corrupt():
        for path, content in images.items():
            os.utime(path.write_bytes(content[:300]) and path, (1e9, 1e9))

    with monkeypatch.context() as patch:
        at_step(patch, 3, corrupt)
        with pytest.raises(UserError) as mistake:
            run(replace(asked, again="harness run -a iqdet --resume"))
    (work,) = (asked.results / "work").iterdir()
    assert re.fullmatch(
        rf"image {data}/train/\d.png cannot be decoded: .*; replace or remove it; the training up to step 4 is kept in "
        rf"{work}, on the data as it was go on with: harness run -a iqdet --resume",
        str(mistake.value),
    )
    for path, content in images.items():
        path.write_bytes(content)
    resumed = run(replace(asked, resume=True))
    assert files_of(resumed) == files_of(run(replace(asked, results=asked.results / "undisturbed")))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_place_that_takes_no_more_files_keeps_the_checkpoint_and_says_how_to_go_on(
    tmp_path, undisturbed, monkeypatch, code
):
    write = Path.write_bytes

    def full(path, content):
        if path.parent.name == "checkpoint.new" and path.name == "optimizer.pt":
            raise OSError(code, os.strerror(code))
        return write(path, content)

    asked = request(tmp_path, "iqdet", checkpoint_seconds=0.0, again="harness run --resume")
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: patch.setattr(Path, "write_bytes", full))
        with pytest.raises(UserError) as mistake:
            run(asked)
    (work,) = (tmp_path / "work").iterdir()
    assert str(mistake.value) == (
        f"cannot write {work}/checkpoint.new: {os.strerror(code)}; free or unlock the place, or choose another; "
        f"the training up to step 3 is kept in {work}, go on with: harness run --resume"
    )
    assert sorted(path.name for path in work.glob("checkpoint*")) == ["checkpoint", "checkpoint.old"]
    assert files_of(run(replace(asked, resume=True))) == files_of(undisturbed("iqdet"))
