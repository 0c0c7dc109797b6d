"""Two checkpoints: whole whenever a process dies, and one for the other where a file is damaged."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
import torch

from harness.core.errors import UserError
from harness.training.checkpoint import (
    TrainState,
    clear_checkpoint,
    find_checkpoint,
    load_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)


def parts(step=0):
    """A network whose weights are the step, its optimiser with a state, and its average."""
    model, ema = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    for network in (model, ema):
        torch.nn.init.constant_(network.weight, float(step))
    return model, optimizer, ema


def saved(folder, step, after=None):
    save_checkpoint(folder, TrainState("run", step=step), *parts(step), after)


def restored(folder):
    """The step that is restored, which the weights must be of, and what is said."""
    model, optimizer, ema = parts()
    found = restore_checkpoint(folder, "run", model, optimizer, ema)
    assert found is not None
    for network in (model, ema):
        assert network.weight.eq(found.state.step).all()
    return found.state.step, found.damage


@pytest.fixture
def folder(tmp_path):
    """Three saves, of which the last two are kept."""
    for step in (3, 4, 5):
        saved(tmp_path / "checkpoint", step)
    return tmp_path / "checkpoint"


def names(folder):
    return sorted(path.name for path in folder.parent.iterdir())


def test_the_last_two_are_kept_and_both_are_cleared(folder):
    assert names(folder) == ["checkpoint", "checkpoint.old"]
    assert restored(folder) == (5, "")
    assert load_checkpoint(folder.with_name("checkpoint.old"), "run", *parts()).step == 4
    clear_checkpoint(folder, allowed=True)
    assert names(folder) == []
    assert restore_checkpoint(folder, "run", *parts()) is None


def flipped(content):
    """One bit of the last tensor's bytes, or of the last field: no length tells."""
    return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


FILES = ("model.safetensors", "ema.safetensors", "optimizer.pt", "state.json")
HOW = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "rubbish": lambda _: b"rubbish" * 40,
    "zeros": lambda whole: bytes(len(whole)),  # what a power cut makes of blocks that were never written
    "empty": lambda _: b"",
    "flipped": flipped,
}


# A state that reads well is believed, so no bit of it is flipped.
DAMAGES = [(name, how) for name in FILES for how in (*HOW, "gone") if (name, how) != ("state.json", "flipped")]


@pytest.mark.parametrize(("name", "how"), DAMAGES)
def test_a_damaged_file_is_named_and_the_one_before_serves(folder, name, how):
    for place, left in ((folder, True), (folder.with_name("checkpoint.old"), False)):
        path = place / name
        whole = path.read_bytes()
        path.unlink()
        if how != "gone":
            path.write_bytes(HOW[how](whole))
        if left:
            step, damage = restored(folder)
            assert step == 4
            assert damage.startswith(f"checkpoint {path} cannot be restored (")
    if (name, how) == ("state.json", "gone"):
        assert restore_checkpoint(folder, "run", *parts()) is None  # neither is a checkpoint
        return
    with pytest.raises(UserError, match=r"start the run anew with --restart$") as mistake:
        restored(folder)
    assert str(mistake.value).count("cannot be restored") == 2


def test_the_one_before_stays_until_there_is_another_newer_one(folder):
    """A damaged newest one makes room, not the good one that the training went on from."""
    (folder / "optimizer.pt").write_bytes(b"rubbish")
    old = folder.with_name("checkpoint.old")
    found = restore_checkpoint(folder, "run", *parts())
    assert found is not None
    assert found.folder == old
    saved(folder, 6, found.folder)
    assert load_checkpoint(old, "run", *parts()).step == 4
    assert restored(folder) == (6, "")
    saved(folder, 7)
    assert load_checkpoint(old, "run", *parts()).step == 6


def test_another_runs_checkpoint_is_refused_though_there_is_one_before(folder):
    save_checkpoint(folder, TrainState("other", step=6), *parts(6))
    with pytest.raises(UserError, match="is of run other, not run"):
        restored(folder)


class Killed(BaseException):
    """Nothing runs any more, what cleans up included."""


def killed_at(moment, patch):
    """Let the process die before its file operation of this number; a write is half done. True where it came to it."""
    done, died = count(), []

    def dying(original, half=None):
        def operation(*words, **more):
            if died or next(done) == moment:
                if half is not None and not died:
                    half(*words)
                died.append(True)
                raise Killed
            return original(*words, **more)

        return operation

    write = Path.write_bytes

    def half(path, content):
        write(path, bytes(content)[: len(content) // 2])

    for name in ("rename", "mkdir", "unlink", "rmdir", "fsync"):
        patch.setattr(os, name, dying(getattr(os, name)))
    patch.setattr(Path, "write_bytes", dying(write, half))
    patch.setattr(Path, "write_text", dying(Path.write_text, lambda path, text, _: half(path, text.encode())))
    return died


@pytest.mark.parametrize("damaged", [False, True])
def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path, monkeypatch, damaged):
    """And a save that follows is whole again, killed or not; never is there more than two and the one being written."""
    for moment in count():
        folder = tmp_path / str(moment) / "checkpoint"
        for step in (4, 5):
            saved(folder, step)
        if damaged:
            (folder / "model.safetensors").write_bytes(b"half")
        kept, _ = restored(folder)
        old = folder.with_name("checkpoint.old")
        with monkeypatch.context() as patch:
            died = killed_at(moment, patch)
            with suppress(Killed):
                saved(folder, 6, old if damaged else folder)
        assert restored(folder)[0] in ((kept, 6) if died else (6,))
        assert {*names(folder)} <= {"checkpoint", "checkpoint.old", "checkpoint.new"}
        found = restore_checkpoint(folder, "run", *parts())
        assert found is not None
        with monkeypatch.context() as patch:
            killed_again = killed_at(moment, patch)
            with suppress(Killed):
                saved(folder, 7, found.folder)
        assert restored(folder)[0] in ((found.state.step, 7) if killed_again else (7,))
        saved(folder, 8, folder if find_checkpoint(folder) == folder else old)
        assert restored(folder) == (8, "")
        assert names(folder) == ["checkpoint", "checkpoint.old"]
        if not died:
            break
    assert moment > 15  # files, syncs, renames and removals


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["mkdir", "fsync", "rename"])
def test_a_place_that_takes_no_more_is_told_in_a_line_and_nothing_is_lost(folder, monkeypatch, operation, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, refuse)
        with pytest.raises(UserError, match=rf"cannot write {folder}.*: {os.strerror(code)}; free or unlock"):
            saved(folder, 6)
    assert restored(folder) == (5, "")
    saved(folder, 7)
    assert restored(folder) == (7, "")
    assert names(folder) == ["checkpoint", "checkpoint.old"]


@pytest.fixture
def mount(tmp_path):
    """A function that mounts a file system of this size, or changes the one that is there, and its folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes the superuser")
    place = tmp_path / "mounted"
    place.mkdir()

    def mounted(*options):
        words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return place

    yield mounted
    subprocess.run(["umount", str(place)], capture_output=True)


def test_a_disk_that_is_really_full_or_read_only(mount):
    """Ten pages hold two checkpoints of four files and not a third."""
    page = os.sysconf("SC_PAGESIZE")
    folder = mount(f"size={10 * page}") / "checkpoint"
    for step in (4, 5):
        saved(folder, step)
    for options, why in (([f"size={10 * page}"], "No space left on device"), (["ro"], "Read-only file system")):
        mount("remount", *options)
        with pytest.raises(UserError, match=rf"cannot write {folder}.*: {why}; free or unlock the place"):
            saved(folder, 6)
        assert names(folder) == ["checkpoint", "checkpoint.old"]
        assert restored(folder) == (5, "")
    mount("remount", "rw", f"size={20 * page}")
    saved(folder, 6)
    assert restored(folder) == (6, "")
