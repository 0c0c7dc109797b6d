"""What people's machines do to standard output: full devices, readers gone, other encodings and locales, no streams."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from rich.progress import Progress
from rich.table import Table

from harness.cli import main
from harness.cli.console import output
from harness.cli.console.streams import Stream, ended, unbreakable
from harness.core.errors import Unwritable, UserError, as_utf8, reason, writing
from harness.records.store import ResultsStore
from tests.support.runs import DEADLINE, environment

RUN = [
    "run", "-a", "center", "--protocol", "tiny", "--set", "schedule.steps=1", "--set", "schedule.batch_size=2", "--set",
    "data.short_edge=64", "--set", "data.long_edge=64", "--set", "data.train_images=2", "--set", "data.val_images=1",
    "--device", "cpu", "--threads", "1", "--workers", "0", "--results", "out",
]  # fmt: skip
NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
FULL = Path("/dev/full")

full_device = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def harness(*words, cwd, shell="", **more):
    """A real process; `shell` redirects its streams, in the words of a POSIX shell."""
    command = [sys.executable, "-m", "harness", *words]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(
        command, cwd=cwd, env=environment(**more), capture_output=True, timeout=DEADLINE, check=False
    )  # fmt: skip


def recorded(folder):
    return len(ResultsStore(folder / "out").load_all()[0])


# --- a device that is full, a reader that is gone -----------------------------------------------------------------


class Broken(io.StringIO):
    """A stream in memory that takes nothing."""

    def __init__(self, number=errno.ENOSPC):
        super().__init__()
        self.number, self.tried = number, 0

    def write(self, text):
        self.tried += 1
        raise OSError(self.number, os.strerror(self.number))


def test_a_stream_that_breaks_is_silent_from_then_on():
    broken = Broken()
    stream = Stream(broken)
    assert stream.write("12345") == 5
    stream.write("more")
    stream.flush()
    assert stream.failure is not None
    assert broken.tried == 1


@pytest.mark.parametrize(
    ("number", "needed", "code", "ends", "told"),
    [
        (errno.ENOSPC, True, 0, 2, "error: standard output cannot be written: No space left on device; free "),
        (errno.ENOSPC, True, 1, 1, "error: "),
        (errno.ENOSPC, False, 0, 0, "warning: standard output cannot be written: No space left on device; free "),
        (errno.ENOSPC, False, 1, 1, "warning: "),
        (errno.EPIPE, True, 0, 0, ""),
        (errno.EPIPE, False, 130, 130, ""),
    ],
)
def test_what_lost_output_means_for_the_exit_code(capsys, number, needed, code, ends, told):
    stream = Stream(Broken(number))
    stream.needed = needed
    stream.write("x")
    assert ended(stream, code) == ends
    shown = capsys.readouterr().err
    assert shown.startswith(told)
    assert shown.count("\n") == bool(told)


def test_output_that_was_written_changes_nothing(capsys):
    stream = Stream(io.StringIO())
    stream.write("x")
    assert ended(stream, 1) == 1
    assert capsys.readouterr().err == ""


def test_a_display_that_moves_survives_too(monkeypatch):
    class Terminal(Broken):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal())
    with unbreakable() as out:
        screen = output.console(False, files=True)
        with Progress(console=screen) as live:
            live.advance(live.add_task("training", total=2))
        output.say(screen, "done")
        assert (out.failure is not None, out.needed) == (True, False)
        output.emit({})
        assert out.needed


@full_device
@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["run", "--help"], ["bench", "summary"]])
def test_a_full_device_is_one_line(tmp_path, words):
    repository = Path(__file__).resolve().parents[2]
    where = ["--results", str(repository / "results")] if words[0] == "bench" else []
    done = harness(*words, *where, cwd=tmp_path, shell="> /dev/full")
    told = b"error: standard output cannot be written: No space left on device; free the place or choose another\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_a_reader_that_had_enough_is_no_error(tmp_path):
    done = harness("ls", cwd=tmp_path, shell="| head -n 1")
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "harness", "ls"]
    gone = subprocess.run(command, env=environment(), cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (0, b"")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """The command line in this process, on a standard output that really is a device or a pipe.

    Returns:
        a function that takes words and the file or descriptor to write to; it returns the exit code and standard error.
    """
    monkeypatch.chdir(tmp_path)

    def called(*words, to, encoding="utf-8"):
        with monkeypatch.context() as patch, open(to, "w", encoding=encoding) as out:
            patch.setattr(sys, "stdout", out)
            with pytest.raises(SystemExit) as end:
                main(list(words), prog_name="harness")
        return end.value.code, capsys.readouterr().err

    return called


@full_device
def test_a_run_goes_on_where_its_progress_cannot_be_shown(call, tmp_path):
    code, told = call(*RUN, to=FULL)
    assert (code, told.count("\n")) == (0, 1), told
    assert told.startswith("warning: standard output cannot be written: No space left on device")
    assert recorded(tmp_path) == 1
    code, told = call(*RUN, "--json", to=FULL)
    assert code == 2
    assert told.splitlines()[-1].startswith("error: standard output cannot be written: No space left on device")
    assert recorded(tmp_path) == 2


def test_a_run_goes_on_where_its_reader_has_gone(call, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    assert call(*RUN, to=writer) == (0, "")
    assert recorded(tmp_path) == 1


def test_closed_streams_are_no_reason_to_stop_and_no_file_takes_their_place(tmp_path):
    done = harness(*RUN, cwd=tmp_path, shell="<&- >&- 2>&-")
    assert done.returncode == 0
    records, problems = ResultsStore(tmp_path / "out").load_all()
    assert (len(records), problems) == (1, [])
    listed = harness("ls", "--json", cwd=tmp_path, shell=">&-")
    assert listed.returncode == 2
    assert listed.stderr.startswith(b"error: standard output cannot be written: Bad file descriptor")
    mistake = harness("ls", "nothing", cwd=tmp_path, shell="2>&-")
    assert (mistake.returncode, mistake.stdout, mistake.stderr) == (2, b"", b"")


# --- encodings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", "? ? ?"), ("latin-1", "ä ± ?"), ("utf-8", "ä ± ≤")])
def test_characters_that_an_encoding_lacks_are_replaced(encoding, expected):
    raw = io.BytesIO()
    stream = Stream(io.TextIOWrapper(raw, encoding=encoding))
    stream.write("ä ± ≤")
    stream.write("\udcff")  # half a character fits no encoding
    stream.flush()
    assert raw.getvalue().decode(encoding) == f"{expected}?"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_json_is_valid_in_any_encoding_and_tables_have_edges(encoding, monkeypatch):
    value = {"name": "bär ≤ 😀", "half": "\udcff"} if encoding == "utf-8" else {"name": "bär ≤ 😀"}
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    with unbreakable() as out, click.Context(click.Command("x")):
        output.emit({"name": value["name"]})
        out.flush()
        assert json.loads(raw.getvalue().decode("utf-8")) == {"name": value["name"]}
        raw.seek(0)
        raw.truncate()
        screen = output.console(False)
        table = Table(title="[a] ≤")
        table.add_column("[b]")
        screen.print(table)
        text = raw.getvalue().decode(encoding)
    assert ("┏" in text, "+--" in text) == ((True, False) if encoding == "utf-8" else (False, True))
    assert "[a]" in text
    assert "[b]" in text


def test_a_run_in_ascii_ends_well(call, tmp_path):
    Path("größe≤.toml").write_text('[schedule]\nsteps = 1\nbatch_size = 2\nlr = 0.01\noptimizer = "sgd"\n')
    words = [word if word != "tiny" else "größe≤.toml" for word in RUN]
    assert call(*words, to="shown", encoding="ascii") == (0, "")
    shown = Path("shown").read_text("ascii")
    assert "gr??e?.toml" in shown
    assert "+---" in shown
    assert call("leaderboard", "--results", "out", "--json", to="rows", encoding="latin-1")[0] == 0
    assert json.loads(Path("rows").read_text("utf-8"))[0]["protocol"].startswith("größe≤")


# --- a locale without UTF-8 ---------------------------------------------------------------------------------------


def test_a_name_that_the_locale_cannot_hold_is_not_called_wrong(tmp_path):
    done = harness("predict", "bär.jpg", cwd=tmp_path, **NO_UTF8)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"in this locale (ascii); set LC_ALL=C.UTF-8 or PYTHONUTF8=1" in done.stderr
    assert harness("ls", cwd=tmp_path, **NO_UTF8).returncode == 0


def test_an_error_of_the_locale_is_told_as_one(monkeypatch):
    error = UnicodeEncodeError("ascii", "bär", 1, 2, "ordinal not in range(128)")
    with pytest.raises(UnicodeEncodeError), writing(Path("x")):
        raise error  # under UTF-8 it is a bug
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert reason(error) == "this locale (ascii) has no 'ä'; set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
    with pytest.raises(Unwritable, match="cannot write x: this locale"), writing(Path("x")):
        raise error


def test_a_name_from_a_file_that_the_locale_cannot_hold_is_one_line(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        (tmp_path / "data" / "annotations").mkdir(exist_ok=True)
        document = {
            "images": [{"id": 1, "file_name": "bär.jpg", "width": 64, "height": 64}], "annotations": [],
            "categories": [{"id": 1, "name": "a"}],
        }  # fmt: skip
        (tmp_path / "data" / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
        (tmp_path / "data" / split).mkdir()
    splits = ["--train-split", "train", "--val-split", "val"]
    done = harness(*RUN, "--data", "coco:data", *splits, cwd=tmp_path, **NO_UTF8)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
    assert b"set LC_ALL=C.UTF-8 or PYTHONUTF8=1" in done.stderr


def test_a_name_in_no_encoding_is_shown_with_escapes():
    assert as_utf8("plain") == "plain"
    assert as_utf8(os.fsdecode(b"b\xffr")) == "b\\xffr"


# --- where and on what -------------------------------------------------------------------------------------------


def test_a_working_directory_that_was_deleted(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = ["sh", "-c", 'rmdir ../gone && exec "$@"', "sh", sys.executable, "-m", "harness", *RUN]
    done = subprocess.run(command, cwd=gone, env=environment(), capture_output=True, timeout=DEADLINE, check=False)
    told = b"error: the working directory has been deleted; change to another\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_a_results_folder_of_any_name(call):
    name = "a[b]\n[/b]:smile:"
    assert call(*RUN[:-1], name, to="shown") == (0, "")
    assert f"record       {name}/runs/" in Path("shown").read_text()
    code, told = call("leaderboard", "--results", f"{name} 2", to="shown")
    assert (code, told.count("\n")) == (2, 1)


def test_a_dumb_terminal_gets_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr(sys, "stdout", Terminal())
    screen = output.console(False)
    assert (screen.is_terminal, screen.width) == (False, 70)
    monkeypatch.setenv("TERM", "xterm")
    screen = output.console(False)
    assert (screen.is_terminal, screen.width) == (True, 70)


def test_unwritable_is_the_users_to_mend():
    assert issubclass(Unwritable, UserError)
