"""`harness doctor`: it finds what is wrong, says what to do, and nothing that it looks at can break it."""

import fcntl
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from harness.cli import main
from harness.core.errors import UserError
from harness.core.files import dump
from harness.data.check import CHECKED
from harness.data.shapes.shapes import ShapesSet
from harness.data.splits import UNLEARNT
from harness.doctor import Finding, all_checks, examine, software, storage
from harness.doctor import data as doctor_data
from harness.protocol.protocol import load_protocol
from harness.records.failures import save_failure
from harness.records.identity import RunSpec
from harness.records.leaderboard import write_leaderboard
from harness.records.pending import Pending, load_pending, pending_record, save_pending
from harness.records.store import ResultsStore
from tests.data.folders import coco_document, write_coco
from tests.data.test_shapes import DIGEST_OF_32
from tests.support.fakes import data_part, make_record

GIB = 2**30


def states(rows):
    return [(row.what, row.state) for row in rows]


# --- the runner --------------------------------------------------------------------------------------------------


def test_a_check_that_breaks_is_a_row_and_the_others_are_heard():
    def fine():
        yield Finding("fine", "ok", "well")

    def broken():
        yield Finding("broken", "ok", "so far")
        raise ZeroDivisionError("two\nlines")

    def refused():
        raise UserError("data x does not exist; check the path")

    begun = []
    rows = examine({"a": fine, "b": broken, "c": refused, "d": fine}, begun.append)
    assert begun == ["a", "b", "c", "d"]
    assert states(rows) == [("fine", "ok"), ("broken", "ok"), ("b", "problem"), ("c", "problem"), ("fine", "ok")]
    assert rows[2].detail == "this check broke: ZeroDivisionError: two lines"
    assert (rows[3].detail, rows[3].advice) == ("data x does not exist", "check the path")


# --- packages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "bound", "reached"),
    [
        ("2.11", "2.11", True), ("2.9", "2.11", False), ("2.11.0rc1+cpu", "2.11", True), ("3", "2.99.9", True),
        ("2.0", "2", True), ("2", "2.0.0", True), ("1.26.4", "1.26.5", False), ("unknown", "1", False),
    ],
)  # fmt: skip
def test_versions_are_compared_by_number(version, bound, reached):
    assert software.reaches(version, bound) is reached


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these packages are there, and that the distribution asks for those."""

    def pretend(versions, needed, python=">=3.11"):
        def version(name):
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(metadata, "requires", lambda _: needed)
        monkeypatch.setattr(metadata, "metadata", lambda _: {"Requires-Python": python})
        return list(software.packages())

    return pretend


def test_missing_and_old_packages_are_problems_with_their_command(installed):
    needed = ["torch>=2.11", "numpy>=1.26", "pandas>=2.2", 'pytest>=8; extra == "dev"']
    rows = installed({"torch": "2.10.1+cu126", "numpy": "2.0"}, needed)
    assert states(rows) == [("Python", "ok"), ("torch", "problem"), ("pandas", "problem"), ("packages", "ok")]
    assert (rows[1].detail, rows[1].advice) == ("2.10.1+cu126, older than 2.11", "pip install --upgrade 'torch>=2.11'")
    assert (rows[2].detail, rows[2].advice) == ("not installed", "pip install 'pandas>=2.2'")
    assert rows[3].detail.endswith(": numpy 2.0")


def test_an_old_python_is_a_problem(installed):
    (row, _) = installed({}, [], python=">=99.1")
    assert (row.what, row.state) == ("Python", "problem")
    assert "older than 99.1" in row.detail


def test_the_requirements_of_this_distribution_are_understood():
    try:
        needed = metadata.requires(software.DISTRIBUTION)
    except metadata.PackageNotFoundError:
        pytest.skip("the package is not installed in this environment")
    bounds = dict(filter(None, map(software._lower_bound, needed)))
    assert bounds["torch"] == "2.11"
    assert "pytest" not in bounds
    assert not [row for row in software.packages() if row.state == "problem"]


def test_without_an_installed_distribution_no_bound_is_invented(monkeypatch):
    def missing(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "metadata", missing)
    (row,) = software.packages()
    assert row.state == "warning"


def test_a_package_that_does_not_load_is_named(monkeypatch):
    def load(name):
        if name == "pycocotools.mask":
            raise ValueError("numpy.dtype size changed, may indicate binary incompatibility")
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(software, "import_module", load)
    rows = list(software.imports())
    assert states(rows) == [("import torchvision", "problem"), ("import pycocotools", "problem")]
    assert "nms does not exist" in rows[0].detail


@pytest.mark.parametrize(
    ("commit", "state", "words"), [("abc", "ok", "abc"), ("abc+dirty", "warning", "differ"), (None, "warning", "0.1.0")]
)
def test_the_code_is_named_as_in_a_record(monkeypatch, commit, state, words):
    monkeypatch.setattr(software, "source_version", lambda: {"commit": commit, "version": "0.1.0"})
    (row,) = software.source()
    assert row.state == state
    assert words in row.detail


def test_missing_tools_are_warnings(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(software, "find_spec", lambda name: None)
    assert states(software.tools()) == [("torchrun", "warning"), ("browser", "warning"), ("matplotlib", "warning")]
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/bin/{name}")
    assert states(software.tools()) == [("torchrun", "ok"), ("browser", "ok"), ("matplotlib", "ok")]


# --- data --------------------------------------------------------------------------------------------------------


def test_the_embedded_data_is_what_it_is_on_every_machine():
    assert doctor_data.SHAPES_DIGEST == DIGEST_OF_32
    assert states(doctor_data.embedded()) == [("embedded data", "ok")]


def test_a_pixel_that_differs_is_a_problem(monkeypatch):
    real = ShapesSet.load
    monkeypatch.setattr(ShapesSet, "load", lambda self, index: real(self, index) ^ (index == 31))
    assert states(doctor_data.embedded()) == [("embedded data", "problem")]


def opened(folder):
    spec = f"coco:{folder}"
    return examine({f"data {spec}": lambda: doctor_data.opened(spec, load_protocol("small"), folder / "none")})


@pytest.fixture
def coco(tmp_path):
    """A folder whose training split has a box without area."""
    for split in ("train2017", "val2017"):
        document = coco_document()
        if split == "val2017":
            document["annotations"] = document["annotations"][:2]
        write_coco(tmp_path, document, split)
    return tmp_path


def test_a_data_set_is_counted_checksummed_and_its_oddities_said(coco):
    train, *odd, val = opened(coco)
    assert (train.state, val.state) == ("ok", "ok")
    assert train.what == f"data coco:{coco}, train2017"
    assert train.detail.startswith("2 images, 2 boxes, 2 classes, checksum ")
    assert {(row.what, row.state) for row in odd} == {(train.what, "warning")}
    assert [row.detail for row in odd] == [
        "1 boxes without area dropped (train2017/a.jpg object 3)",
        f"1 {UNLEARNT} (dog)",  # of which there is a crowd
    ]


def test_data_that_cannot_be_used_is_a_problem_in_the_readers_words(coco):
    (coco / "val2017" / "a.jpg").write_bytes(b"no picture")
    bad = opened(coco)[-1]
    assert bad.state == "problem"
    assert "val2017/a.jpg cannot be decoded" in bad.detail
    (coco / "annotations" / "instances_train2017.json").write_text("{")
    (row,) = opened(coco)
    assert row.state == "problem"
    assert "instances_train2017.json" in row.detail
    (row,) = opened(coco / "gone")
    assert "does not exist" in row.detail


def test_splits_of_different_classes_are_a_problem(coco):
    document = coco_document()
    document["categories"].reverse()
    document["categories"][0]["name"] = "horse"
    write_coco(coco, document, "val2017")
    row = opened(coco)[-1]
    assert row.state == "problem"
    assert "different classes" in row.detail


# --- disk and results --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "state"), [(100 * GIB, "ok"), (GIB, "warning"), (2**20, "problem")])
def test_a_full_disk_is_told_beforehand(tmp_path, monkeypatch, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert states(storage.disk(tmp_path / "not" / "yet")) == [("disk", state)]


def test_a_place_is_tried_and_left_as_it_was(tmp_path):
    assert states(storage.writable(tmp_path)) == [("results", "ok")]
    (row,) = storage.writable(tmp_path / "not" / "yet")
    assert (row.state, row.detail) == ("ok", f"{tmp_path}/not/yet will be made in {tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_links_is_a_problem(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (row,) = storage.writable(tmp_path)
    assert row.state == "problem"
    assert "Operation not permitted" in row.detail
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_a_problem(tmp_path):
    (tmp_path / "results").write_text("")
    rows = examine(
        {name: check for name, check in all_checks(tmp_path / "results", {}).items() if name in ("results", "records")}
    )
    assert {row.state for row in rows if row.what != "records"} == {"problem"}


@pytest.fixture
def store(tmp_path):
    store = ResultsStore(tmp_path / "results")
    for seed in range(2):
        store.save(make_record(load_protocol("tiny"), seed=seed))
    write_leaderboard(store)
    return store


def test_records_and_the_table_of_them(store):
    assert states(storage.records(store.root)) == [("records", "ok"), ("leaderboard", "ok")]
    (store.root / "leaderboard.csv").write_text("")
    row = list(storage.records(store.root))[-1]
    assert (row.what, row.state) == ("leaderboard", "warning")
    assert row.advice == f"harness leaderboard --results {store.root}"


def test_a_file_that_is_no_record_is_a_problem_and_what_a_killed_writer_left_is_not(store):
    (store.runs_dir / "bad.json").write_text("{")
    (store.runs_dir / ".7-0.tmp").write_text("{")
    rows = list(storage.records(store.root))
    assert states(rows) == [("records", "ok"), ("record", "problem"), ("records", "warning")]
    assert "bad.json" in rows[1].detail
    assert f"rm {store.runs_dir}/.*.tmp" in rows[2].advice


def interrupt(store, run_id, content, folder="checkpoint"):
    path = store.folder(run_id).path / folder / "state.json"
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_interrupted_and_failed_runs_are_shown_with_their_command(store):
    assert states(storage.unfinished(store.root)) == [("unfinished runs", "ok")]
    interrupt(store, "a", {"run_id": "a", "step": 7, "command": "harness run -a x --results 'an old place' --resume"})
    interrupt(store, "b", {"run_id": "b", "step": 3}, "checkpoint.old")
    interrupt(store, "c", "{")
    interrupt(store, "d", "[" * 100_000)
    interrupt(store, "e", {"run_id": "e", "step": 1})
    interrupt(store, "g", "{")
    interrupt(store, "g", {"run_id": "g", "step": 2}, "checkpoint.old")  # which `--resume` goes on from
    (store.root / "failed").mkdir()
    failure = {
        "schema": 1, "run_id": "e", "assigner": "x", "options": {}, "seed": 0, "protocol": {"name": "p", "hash": "h"},
        "error": "loss is nan", "step": 4, "created": "2026-01-02T03:04:05Z", "command": "harness run -a y",
    }  # fmt: skip
    (store.root / "failed" / "e.json").write_text(dump(failure))
    (store.root / "failed" / "f.json").write_text("{}")
    rows = {row.what: row for row in storage.unfinished(store.root)}
    assert {row.state for row in rows.values()} == {"warning"}
    here = f"--results {store.root}"  # wherever it was when the run was interrupted
    assert (rows["run a"].detail, rows["run a"].advice) == (
        "interrupted after step 7",
        f"harness run -a x --resume {here}",
    )
    assert (rows["run b"].detail, rows["run b"].advice) == (
        "interrupted after step 3",
        "the command that began it, with --resume",
    )
    for name in ("run c", "run d"):
        assert "cannot be read" in rows[name].detail
        assert "--restart" in rows[name].advice
    assert (rows["run e"].detail, rows["run e"].advice) == (
        "failed after step 4: loss is nan",
        f"harness run -a y {here}",
    )
    assert rows["run g"].detail == "interrupted after step 2"
    assert "f.json" in rows["failed run"].detail


def test_a_run_in_progress_is_not_called_interrupted(store):
    interrupt(store, "a", {"run_id": "a", "step": 7})
    with store.lock("a"):
        (row,) = storage.unfinished(store.root)
    assert (row.state, row.detail) == ("ok", "in progress in another process")
    assert states(storage.unfinished(store.root)) == [("run a", "warning")]
    with (store.folder("a").path / "lock").open() as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)  # looking has not kept it


def wait_for_record(store, seed):
    """A trained run without a record."""
    record = make_record(load_protocol("tiny"), assigner="atss", seed=seed)
    save_pending(store, Pending(pending_record(record.as_json()), "voc:my data", []))
    interrupt(store, record.run_id, {"run_id": record.run_id, "step": 60})
    return record


def test_trained_runs_that_wait_for_their_record_are_shown_with_what_completes_it(store):
    names = [wait_for_record(store, seed).run_id for seed in range(4)]
    save_failure(store, load_pending(store, names[1]).spec(), "image x cannot be decoded", "harness run")
    (store.folder(names[2]).path / "trained.json").write_text("{")
    with store.lock(names[3]):
        rows = {row.what: row for row in storage.unfinished(store.root)}
    assert list(rows) == [f"run {name}" for name in sorted(names)]
    assert [rows[f"run {name}"].state for name in names] == ["warning", "warning", "warning", "ok"]
    advice = f"harness eval {names[0]} --data 'voc:my data' --results {store.root}"
    assert (rows[f"run {names[0]}"].detail, rows[f"run {names[0]}"].advice) == ("trained, but without a record", advice)
    assert rows[f"run {names[1]}"].detail == "trained, but without a record: image x cannot be decoded"
    assert rows[f"run {names[2]}"].advice.endswith("trained.json and run again with --resume")
    assert rows[f"run {names[3]}"].detail == "in progress in another process"


def test_work_folders_that_no_run_needs_are_shown_with_their_size_and_what_removes_them(store):
    known = store.load_all()[0][0].run_id
    for name, content in {"weights": "network.safetensors", "trace": "metrics.jsonl", known: "metrics.jsonl"}.items():
        store.folder(name).path.mkdir(parents=True)
        (store.folder(name).path / content).write_bytes(bytes(1_200_000))
    for name in ("empty", "locked"):
        store.folder(name).path.mkdir()
    (store.folder("locked").path / "lock").touch()
    interrupt(store, "stopped", {"run_id": "stopped", "step": 7})
    work = store.root / "work"
    with store.lock("busy"):
        rows = {row.what: (row.state, row.detail, row.advice) for row in storage.unfinished(store.root)}
    assert rows.pop("run stopped")[1] == "interrupted after step 7"
    assert rows == {
        "work folder weights": ("warning", "weights but no record; 1.2 MB", f"rm -r {work / 'weights'}"),
        "work folder trace": (
            "warning", "no checkpoint, no weights and no record; 1.2 MB", f"rm -r {work / 'trace'}",
        ),
        "work folders": (
            "warning", "2 folders without anything but a lock: empty, locked",
            f"rm -r {work / 'empty'} {work / 'locked'}",
        ),
    }  # fmt: skip


def test_an_unfinished_run_whose_data_has_changed_since_is_told_apart(store):
    """It has the question of a later record but for checksums; one of other options can still go on."""
    record = store.load_all()[0][0]
    spec = RunSpec(load_protocol("tiny"), record.data, record.assigner, record.options, record.seed)
    old = data_part(val={"checksum": "33"})
    for name, question in (
        ("left", replace(spec, data=old).question),
        ("other", replace(spec, data=old, options={"radius": 9.0}).question),
        ("later", replace(spec, data=old).question),
        ("unknown", None),
    ):
        interrupt(store, name, {"run_id": name, "step": 5, "question": question})
        os.utime(store.folder(name).path / "checkpoint" / "state.json", (2e9, 2e9) if name == "later" else (1e9, 1e9))
    rows = {row.what: row for row in storage.unfinished(store.root)}
    assert set(rows) == {"work folder left", "run other", "run later", "run unknown"}
    row = rows["work folder left"]
    assert f"run {record.run_id} was finished since on other data of this name; " in row.detail
    assert row.advice.startswith(f"rm -r {store.root / 'work' / 'left'} (unless its data is still there: then ")


# --- the verb ----------------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, ["doctor", *map(str, words)])


def left(folder):
    return {path: path.is_file() and path.read_bytes() for path in Path(folder).rglob("*")}


def test_the_whole_examination(call, store, coco):
    before = left(".")
    result = call("--data", f"coco:{coco}", "--json")
    assert result.exit_code in (0, 1), result.exception
    answer = json.loads(result.stdout)
    assert set(answer) == {"ok", "rows"}
    assert all(set(row) == {"what", "state", "detail", "advice"} for row in answer["rows"])
    found = {row["what"]: row["state"] for row in answer["rows"]}
    expected = {"Python", "imports", "cores", "memory", "computation on cpu", "embedded data", "disk", "results"}
    assert expected <= set(found)
    assert found[f"data coco:{coco}, val2017"] == "ok"
    assert (result.exit_code == 0) == answer["ok"] == ("problem" not in found.values())
    assert not any("broke" in row["detail"] for row in answer["rows"])
    assert "embedded data" in result.stderr
    remembered = {path for path in left(".") if CHECKED in path.parts}
    assert len([path for path in remembered if path.suffix == ".json"]) == 2  # one for each split that was looked at
    assert {path: value for path, value in left(".").items() if path not in remembered} == before


@pytest.mark.parametrize(
    ("rows", "code", "last"),
    [
        ([Finding("a", "ok", "x"), Finding("b", "warning", "y", "do z")], 0, "nothing is in the way"),
        ([Finding("a", "problem", "x")], 1, "doctor: 1 problem"),
        ([Finding("a", "problem", "x"), Finding("b", "problem", "[bold]y[/bold]", "w" * 300)], 1, "doctor: 2 problems"),
    ],
)
def test_the_exit_code_counts_problems_alone(call, monkeypatch, rows, code, last):
    monkeypatch.setattr("harness.cli.doctor.all_checks", lambda results, data: {"all": lambda: rows})
    result = call()
    assert result.exit_code == code
    assert (result.stdout if code == 0 else result.stderr).splitlines()[-1] == last
    lines = result.stdout.splitlines()
    for row in rows:
        assert any(line.startswith(f"{row.state:<7}  {row.what}") and row.detail in line for line in lines)
        assert not row.advice or any(line.endswith(f"-> {row.advice}") for line in lines)


def test_a_name_with_brackets_is_no_markup_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    checks = {"data coco:a[/b]": lambda: [Finding("data coco:a[/b]", "ok", "[c]")]}
    monkeypatch.setattr("harness.cli.doctor.all_checks", lambda results, data: checks)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(SystemExit) as end:
        main(["doctor"], prog_name="harness")
    assert end.value.code == 0
    assert isinstance(sys.stdout, io.StringIO)
    assert "data coco:a[/b]  [c]" in sys.stdout.getvalue()


def test_data_of_no_known_kind_is_a_row_and_no_traceback(call, monkeypatch):
    monkeypatch.setattr("harness.cli.doctor.all_checks", lambda *given: only_data(*given))
    result = call("--data", "vco:x", "--data", "voc:gone")
    assert result.exit_code == 1
    assert "did you mean 'voc'" in result.stdout
    assert "does not exist" in result.stdout
    assert result.stderr == "doctor: 2 problems\n"


def test_splits_are_named_as_for_a_run(call, monkeypatch, coco):
    monkeypatch.setattr("harness.cli.doctor.all_checks", lambda *given: only_data(*given))
    write_coco(coco, split="another")
    result = call("--data", f"coco:{coco}", "--train-split", "another", "--val-split", "val2017", "--json")
    whats = [row["what"] for row in json.loads(result.stdout)["rows"] if row["state"] == "ok"]
    assert whats == [f"data coco:{coco}, another", f"data coco:{coco}, val2017"]


def only_data(results, protocols):
    return {name: check for name, check in all_checks(results, protocols).items() if name.startswith("data ")}
