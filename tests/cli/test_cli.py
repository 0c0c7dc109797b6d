"""The command line: what it asks the engine for, what it prints where, how it ends, and that it is quick to answer."""

import errno
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli import VERBS, main
from harness.cli.console.requests import portable
from harness.core.errors import Interrupted, RunFailed, UserError
from harness.protocol.protocol import load_protocol
from harness.records.schema import RunRecord
from harness.records.store import ResultsStore
from tests.support.fakes import DATA, data_part, make_record
from tests.support.runs import environment


@dataclass(frozen=True)
class Request:
    assigner: str
    options: dict[str, Any]
    data: str
    protocol: Any
    seed: int
    device: str
    threads: int | None
    workers: int | None
    resume: bool
    restart: bool
    results: Path
    command: str
    again: str
    console: Any

    def question(self):
        """Everything but where the answer goes and how this was asked."""
        skipped = ("results", "command", "again", "console", "workers", "resume", "restart", "data")
        return {name: value for name, value in vars(self).items() if name not in skipped}


@dataclass(frozen=True)
class Outcome:
    record: RunRecord
    path: Path
    work_dir: Path
    leaderboard: Path


@pytest.fixture
def engine(monkeypatch):
    """The engine's place, taken by one that notes what it is asked for and saves a made-up record."""
    module: Any = ModuleType("harness.runs.run")
    module.requests, module.failure = [], None

    def run(request):
        module.requests.append(request)
        if module.failure is not None:
            raise module.failure
        if os.environ.get("RANK", "0") != "0":
            return None
        record = make_record(request.protocol, assigner=request.assigner, seed=request.seed, command=request.command)
        store = ResultsStore(request.results)
        request.console.print("training")
        return Outcome(record, store.save(record), store.folder(record.run_id).path, store.root / "leaderboard.csv")

    def evaluate_run(store, run_id, *, data, device, workers, console, **more):
        module.requests.append((run_id, data, device, workers))
        return store.find(run_id).metrics

    module.RunRequest, module.run, module.evaluate_run = Request, run, evaluate_run
    monkeypatch.setitem(sys.modules, "harness.runs.run", module)
    return module


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def test_run_asks_the_engine_for_what_was_typed(call, engine):
    result = call(
        "run", "-a", "center[radius=0,tie=area]", "--option", "radius=2", "--data", "voc:some/where", "--train-split",
        "trainval", "--val-split", "test", "--protocol", "tiny", "--set", "schedule.steps=7", "--seed", 3, "--device",
        "cpu", "--threads", 2, "--workers", 1, "--resume", "--results", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (request,) = engine.requests
    assert request.assigner == "center"
    assert request.options == {"radius": "2", "tie": "area"}
    assert request.data == "voc:some/where"
    assert request.protocol.data.train_split == "trainval"
    assert request.protocol.data.val_split == "test"
    assert request.protocol.schedule.steps == 7
    assert (request.seed, request.device, request.threads, request.workers) == (3, "cpu", 2, 1)
    assert (request.resume, request.results) == (True, Path("out"))


@pytest.mark.parametrize(("data", "protocol"), [("shapes", "shapes-cpu"), ("coco:x", "small"), ("voc:x", "small")])
def test_the_default_protocol_follows_the_data_and_is_said(call, engine, data, protocol):
    result = call("run", "-a", "atss", "--data", data)
    assert engine.requests[0].protocol == load_protocol(protocol)
    digest, source = load_protocol(protocol).digest, data.removesuffix(":x")
    assert f"protocol {protocol} ({digest}, the default for {source})" in result.stdout


def test_run_ends_with_the_numbers_the_places_and_the_next_command(call, engine):
    result = call("run", "-a", "center", "--protocol", "tiny")
    record = ResultsStore(Path("results")).find("center")
    for words in ("AP50", "30.0", "images/s", "memory MB", "512", "centre fill", "[0, 0.05)", "66.7", "0.500"):
        assert words in result.stdout
    assert f"results/runs/{record.run_id}.json" in result.stdout
    assert "next         harness run --assigner atss --data shapes --protocol tiny --seed 0" in result.stdout
    assert "harness leaderboard" in result.stdout
    assert result.stderr == ""


def test_json_is_alone_on_standard_output(call, engine):
    result = call("run", "-a", "center", "--protocol", "tiny", "--json")
    answer = json.loads(result.stdout)
    assert answer["record"] == ResultsStore(Path("results")).find("center").as_json()
    assert Path(answer["path"]).is_file()
    assert "training" in result.stderr
    assert "AP50" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["-a", "iqdet"],
        [
            "-a",
            "iqdet[positives=8,peak=softmax]",
            "--set",
            "model.backbone=resnet18",
            "--set",
            "data.scale_jitter=[0.8, 1.2]",
        ],
        ["-a", "atss", "--data", "voc:data/my set", "--val-split", "test", "--threads", "2", "--device", "cpu"],
    ],
)
def test_the_recorded_command_asks_the_same_question_again(call, engine, words):
    call("run", *words)
    command = shlex.split(engine.requests[0].command)
    assert command[:2] == ["harness", "run"]
    call(*command[1:])
    first, second = engine.requests
    assert first.question() == second.question()
    assert first.command == second.command


def test_a_command_names_no_place_outside_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert portable("shapes") == "shapes"
    assert portable("voc:data/set") == "voc:data/set"
    assert portable(f"voc:{tmp_path}/data/set/") == "voc:data/set"
    assert portable("coco:../../elsewhere/set") == "coco:set"
    assert portable("coco:/elsewhere/set") == "coco:set"


def test_what_is_printed_works_here(call, engine):
    where = ["--data", "voc:/elsewhere/set", "--results", "my results", "--protocol", "tiny"]
    shown = call("run", "-a", "atss[k=5]", *where).stdout
    next_command = shown.partition("next         ")[2].partition("\n")[0]
    assert shlex.split(next_command)[2:8] == [
        "--assigner",
        "center",
        "--data",
        "voc:/elsewhere/set",
        "--protocol",
        "tiny",
    ]
    assert next_command.endswith("--results 'my results'")
    assert "harness leaderboard --results 'my results'" in shown
    engine.failure = Interrupted(Path("work/last.pt"), engine.requests[0].command)
    stopped = call("run", "-a", "atss[k=5]", *where)
    command = shlex.split(stopped.stderr.partition("go on with: ")[2])
    engine.failure = None
    call(*command[1:])
    first, last = engine.requests[0], engine.requests[-1]
    assert last.question() == first.question()
    assert (last.data, last.results, last.resume) == (first.data, first.results, True)
    assert "/elsewhere" not in first.command


def test_two_processes_are_part_of_the_command_and_one_speaks(call, engine, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    call("run", "-a", "atss")
    assert engine.requests[0].command.startswith("harness run --assigner atss")
    assert engine.requests[0].command.endswith("--devices 2")
    monkeypatch.setenv("RANK", "1")
    for words in (["run", "-a", "atss"], ["run", "-a", "atss", "--json"], ["run", "-a", "atts"]):
        result = call(*words)
        assert (result.stdout, result.stderr) == ("", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "-a", "iqdt"], "did you mean 'iqdet'"),
        (["run", "-a", "iqdet[positives=8"], "bracket is not closed"),
        (["run", "-a", "iqdet", "--option", "positives"], "not of the form key=value"),
        (["run", "-a", "iqdet", "--protocol", "smal"], "did you mean 'small'"),
        (["run", "-a", "iqdet", "--set", "schedule.stps=3"], "did you mean 'steps'"),
        (["run", "-a", "iqdet", "--seed", "x"], "--seed"),
        (["run"], "--assigner"),
        (["run", "-a", "iqdet", "--sed", "1"], "--seed"),
        (["rnu"], "did you mean 'run'"),
        (["--bogus"], "--bogus"),
        (["eval", "nothing"], "no run 'nothing'"),
        (["ls", "assigner"], "did you mean 'assigners'"),
        (["leaderboard"], "harness run"),
        (["leaderboard", "--results", "elsewhere", "--check"], "elsewhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(call, engine, words, message):
    result = call(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (UserError("voc:x: no folder\nnamed x"), 2, "error: voc:x: no folder named x\n"),
        (RunFailed("loss is nan at step 3"), 1, "error: loss is nan at step 3\n"),
        (
            Interrupted(Path("work/last.pt"), "harness run -a x --resume"),
            130,
            "interrupted; checkpoint: work/last.pt\ngo on with: harness run --assigner atss --data shapes "
            "--protocol shapes-cpu --seed 0 --resume\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_how_a_run_ends_early(call, engine, failure, code, message):
    engine.failure = failure
    result = call("run", "-a", "atss")
    assert result.exit_code == code
    assert result.stderr == message


def test_a_bug_keeps_its_traceback(call, engine):
    engine.failure = ZeroDivisionError("a bug")
    result = call("run", "-a", "atss")
    assert result.exception is engine.failure


def test_eval_takes_the_beginning_of_a_name(call, engine):
    call("run", "-a", "atss", "--protocol", "tiny")
    run_id = ResultsStore(Path("results")).find("atss").run_id
    result = call("eval", "atss", "--data", "shapes", "--workers", 1)
    assert engine.requests[-1] == (run_id, "shapes", "auto", 1)
    assert run_id in result.stdout
    assert "AP50" in result.stdout
    answer = json.loads(call("eval", "atss", "--data", "shapes", "--json").stdout)
    assert answer["metrics"]["AP"] == 30.0
    assert answer["run_id"] == run_id


def test_eval_knows_only_the_embedded_data_by_itself(call, engine):
    store, tiny = ResultsStore(Path("results")), load_protocol("tiny")
    for assigner, data in (("atss", DATA), ("center", data_part(kind="shapes", title="shapes"))):
        store.save(make_record(tiny, assigner=assigner, data=data))
    call("eval", "center")
    assert engine.requests[-1][1] == "shapes"
    result = call("eval", "atss")
    assert result.exit_code == 2
    assert "give --data voc:DIR" in result.stderr


def test_leaderboard_writes_shows_and_checks(call, engine):
    for assigner in ("atss", "center"):
        call("run", "-a", assigner, "--protocol", "tiny")
    shown = call("leaderboard")
    assert Path("results/leaderboard.csv").is_file()
    assert "protocol tiny" in shown.stdout
    assert "atss" in shown.stdout
    assert call("leaderboard", "--check").exit_code == 0
    rows = json.loads(call("leaderboard", "--json", "--protocol", "tiny").stdout)
    assert {row["assigner"] for row in rows} == {"atss", "center"}
    assert rows[0]["APs"] is None
    assert rows[0]["AP"] == 30.0
    wrong = call("leaderboard", "--protocol", "tinny")
    assert wrong.exit_code == 2
    assert "did you mean 'tiny'" in wrong.stderr
    table = Path("results/leaderboard.csv")
    table.write_text(table.read_text().replace("30.00", "31.00"))
    drift = call("leaderboard", "--check")
    assert drift.exit_code == 2
    assert "line 2" in drift.stderr
    assert "31.00" in table.read_text()


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EROFS, "Read-only file system")]
)
def test_a_leaderboard_that_cannot_be_written_is_shown(call, engine, monkeypatch, error):
    call("run", "-a", "atss", "--protocol", "tiny")

    def refuse(*_):
        raise error

    monkeypatch.setattr("harness.core.files.publish_file", refuse)
    for words in ([], ["--json"]):
        result = call("leaderboard", *words)
        assert result.exit_code == 0
        assert "atss" in result.stdout
        assert result.stderr == (
            f"shown but not written: cannot write results/leaderboard.csv: {error.strerror}; "
            "free or unlock the place, or choose another\n"
        )
    assert not Path("results/leaderboard.csv").exists()
    assert call("leaderboard", "--check").exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everything")
def test_a_leaderboard_in_a_folder_for_reading_is_shown(call, engine):
    call("run", "-a", "atss", "--protocol", "tiny")
    Path("results").chmod(0o500)
    result = call("leaderboard")
    Path("results").chmod(0o700)
    assert result.exit_code == 0
    assert "atss" in result.stdout
    assert "shown but not written: cannot write results/.leaderboard.lock: Permission denied" in result.stderr


def test_a_corrupt_record_is_named_and_the_rest_is_shown(call, engine):
    call("run", "-a", "atss", "--protocol", "tiny")
    Path("results/runs/broken.json").write_text("{")
    for words in (["leaderboard"], ["ls", "runs"]):
        result = call(*words)
        assert result.exit_code == 0
        assert "broken.json" in result.stderr
        assert "atss" in result.stdout
    assert "broken.json" in call("leaderboard", "--check").stderr


def test_ls_lists_everything_or_one_thing(call, engine):
    everything = call("ls").stdout
    for word in ("iqdet", "shapes-cpu", "voc:DIR", "runs: none yet"):
        assert word in everything
    assert {row["name"] for row in json.loads(call("ls", "assigners", "--json").stdout)} >= {"center", "atss", "iqdet"}
    call("run", "-a", "atss", "--protocol", "tiny")
    listed = json.loads(call("ls", "--json").stdout)
    assert set(listed) == {"assigners", "protocols", "data", "runs"}
    assert [row["AP"] for row in listed["runs"]] == [30.0]
    hashes = {row["name"]: row["hash"] for row in listed["protocols"]}
    assert hashes["tiny"] == load_protocol("tiny").digest


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_examples_and_shares_its_options(call, verb):
    text = call(verb, "--help").stdout
    assert f"Examples:\n    harness {verb}" in text
    assert "--json" in text
    assert "--results" in text or verb == "verify"  # which looks at no run


@pytest.mark.parametrize(
    "words",
    [["--help"], *([v, "--help"] for v in ("run", "eval", "predict", "inspect")), ["ls"], ["ls", "--json"]],
)
def test_the_installed_command_answers_without_torch(tmp_path, words):
    script = Path(sys.executable).with_name("harness")
    if not script.exists():
        pytest.skip("the package is not installed in this environment")
    for name in ("torch", "torchvision", "timm", "pandas", "pycocotools"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')\n")
    alone = {**os.environ, "PYTHONPATH": str(tmp_path)}
    start = [script] if words != ["ls"] else [sys.executable, "-m", "harness.cli"]  # the form torchrun uses
    done = subprocess.run([*start, *words], capture_output=True, text=True, env=alone, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_the_package_runs_like_the_command_and_without_torch(tmp_path, words):
    for name in ("torch", "torchvision", "timm", "pandas", "pycocotools"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')\n")
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    shown = [
        subprocess.run(
            [sys.executable, "-m", module, *words], capture_output=True, text=True, env=environment(PYTHONPATH=paths),
            cwd=tmp_path, check=False,
        )
        for module in ("harness", "harness.cli")
    ]  # fmt: skip
    assert [(done.returncode, done.stderr) for done in shown] == [(0, "")] * 2
    assert shown[0].stdout == shown[1].stdout
    assert shown[0].stdout.startswith("Usage: harness ")
