"""``harness sweep`` on the command line, with the engine's place taken by one that makes records up."""

from __future__ import annotations

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from click.testing import CliRunner

import harness.core.environment
import harness.data.splits
import harness.runs.run
from harness.cli import main
from harness.comparison.intervals import seeds_needed
from harness.core.errors import Interrupted, RunFailed, UserError
from harness.core.files import exclusively
from harness.protocol.protocol import load_protocol
from harness.records.failures import load_failures
from harness.records.identity import RunSpec, data_record
from harness.records.store import ResultsStore
from harness.runs.run import RunOutcome
from harness.sweeps.execute import carry_out
from harness.sweeps.plan import make_plan
from harness.sweeps.request import sweep_request
from harness.training.build import resolve_assigner
from tests.support.fakes import MemorySet, make_record, objects

DATA = data_record("shapes", *(MemorySet([objects()] * 4, split=split, checksum=split) for split in ("train", "val")))
TINY = ["-p", "tiny", "--results", "out"]


class Engine:
    """Notes what it is asked for, fails where it is told to, and saves made-up records."""

    def __init__(self):
        self.requests = []
        self.faults = {}  # (assigner, seed) -> what to raise, or what to do first
        self.ap = lambda request: 30.0 + request.seed

    @property
    def asked(self):
        return [(request.assigner, request.seed) for request in self.requests]

    def run(self, request):
        self.requests.append(request)
        chosen = resolve_assigner(request.assigner, request.options)
        options, changed = chosen.options, chosen.changed
        spec = RunSpec(request.protocol, DATA, request.assigner, options, request.seed)
        store = ResultsStore(request.results)
        with store.lock(spec.run_id):
            fault = self.faults.get((request.assigner, request.seed))
            if isinstance(fault, BaseException):
                raise fault
            if fault is not None:
                fault(store, spec.run_id)
            record = make_record(
                request.protocol, assigner=request.assigner, options=options, seed=request.seed, ap=self.ap(request),
                run_id=spec.run_id, data=DATA, changed_options=changed, command=request.command,
            )  # fmt: skip
            return RunOutcome(
                record, store.save(record), store.folder(spec.run_id).path, store.root / "leaderboard.csv"
            )


@pytest.fixture
def engine(monkeypatch):
    made = Engine()
    splits = [MemorySet([objects()] * 4, split=split, checksum=split) for split in ("train", "val")]
    monkeypatch.setattr(harness.runs.run, "run", made.run)
    monkeypatch.setattr(harness.data.splits, "open_splits", lambda *_: splits)
    monkeypatch.setattr(harness.core.environment, "environment", lambda _: {"device": "a processor"})
    return made


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def sweep(call):
    """A sweep under `tiny` into ``out``."""
    return lambda *words: call("sweep", *words, *TINY)


def store():
    return ResultsStore(Path("out"))


def run_ids():
    return [record.run_id for record in store().load_all()[0]]


def run_id(assigner, seed, options=None):
    return RunSpec(
        load_protocol("tiny"), DATA, assigner, resolve_assigner(assigner, options or {}).options, seed
    ).run_id


def failure(assigner, seed):
    return json.loads((Path("out/failed") / f"{run_id(assigner, seed)}.json").read_text())


def interrupt(assigner, seed):
    """Leave the checkpoint of an interrupted run."""
    folder = store().folder(run_id(assigner, seed)).path / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")


# --- running -----------------------------------------------------------------------------------------------------


def test_every_assigner_runs_with_every_seed_and_seeds_are_outermost(sweep, engine):
    result = sweep("-a", "atss,center[radius=1.5,2]", "-a", "center", "--seeds", 2, "--threads", 3, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert engine.asked == [(name, seed) for seed in (0, 1) for name in ("atss", "center", "center")]
    assert [request.options for request in engine.requests[:3]] == [{}, {"radius": "1.5"}, {"radius": "2"}]
    request = engine.requests[1]
    assert (request.resume, request.restart, request.threads, request.device) == (True, False, 3, "cpu")
    assert request.results == Path("out")
    assert request.again == f"{request.command} --results out --resume"
    assert "[1/6] atss seed 0\n" in result.stdout
    assert "[6/6] center[radius=2.0] seed 1 (" in result.stdout  # by then there are records to tell the time from
    assert "AP 31.0" in result.stdout
    assert len(run_ids()) == 6
    assert not Path("out/failed").exists()


def test_the_recorded_command_asks_the_same_question_alone(sweep, call, engine):
    words = ["--seeds", "3,", "--set", "schedule.steps=7", "--tune", "lr=0.5", "--threads", 2]
    sweep("-a", "iqdet[positives=8,peak=sigmoid]", *words)
    (request,) = engine.requests
    words = shlex.split(request.command)
    assert words[:2] == ["harness", "run"]
    call(*words[1:])
    again = engine.requests[-1]
    for name in ("assigner", "options", "data", "protocol", "seed", "threads", "device", "command"):
        assert getattr(again, name) == getattr(request, name)
    assert request.seed == 3
    assert request.protocol.schedule.lr == load_protocol("tiny").schedule.lr / 2


def test_a_sweep_file_says_the_same_and_flags_replace_its_values(call, engine):
    Path("my.toml").write_text(
        'assigners = ["atss"]\nseeds = [4, 2]\nprotocol = "tiny"\ntune = { lr = [1, 2] }\n[set]\nschedule.steps = 5\n'
    )
    assert call("sweep", "my.toml").exit_code == 0
    assert engine.asked == [("atss", 4)] * 2 + [("atss", 2)] * 2
    assert {request.protocol.schedule.steps for request in engine.requests} == {5}
    engine.requests.clear()
    assert call("sweep", "my.toml", "-a", "center", "--seeds", "4,").exit_code == 0
    assert engine.asked == [("center", 4)] * 2


def test_what_is_done_is_not_run_again_unless_asked_for(sweep, engine):
    sweep("-a", "atss", "--seeds", 2)
    engine.requests.clear()
    again = sweep("-a", "atss,center", "--seeds", 2)
    assert engine.asked == [("center", 0), ("center", 1)]
    assert again.stdout.count("done before") == 2
    assert [run["AP"] for run in json.loads(sweep("-a", "atss", "--seeds", 2, "--json").stdout)["runs"]] == [30.0, 31.0]
    engine.requests.clear()
    assert sweep("-a", "atss", "--seeds", 1, "--rerun", "failed").exit_code == 0
    assert engine.requests == []
    assert sweep("-a", "atss", "--seeds", 1, "--rerun", "always").exit_code == 0
    assert engine.asked == [("atss", 0)]
    assert Path(f"out/runs/{run_id('atss', 0)}.2.json").is_file()


def test_a_corrupt_record_is_named_and_its_run_is_missing(sweep, engine):
    sweep("-a", "atss", "--seeds", 1)
    Path(f"out/runs/{run_id('atss', 0)}.json").write_text("{")
    result = sweep("-a", "atss", "--seeds", 1)
    assert result.exit_code == 0
    assert "left out: " in result.stderr
    assert len(engine.requests) == 2


# --- failures ----------------------------------------------------------------------------------------------------


def test_a_run_that_fails_is_written_down_and_the_sweep_goes_on(sweep, engine):
    def diverge(results, name):
        (results.folder(name).path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 7}\n{"st')
        raise RunFailed("non-finite loss\nat step 7")

    engine.faults = {("atss", 0): diverge, ("center", 1): UserError("voc:x: no folder named x")}
    result = sweep("-a", "atss,center", "--seeds", 2)
    assert result.exit_code == 1
    assert len(engine.requests) == 4
    assert len(run_ids()) == 2
    noted = failure("atss", 0)
    tiny = load_protocol("tiny")
    assert noted.pop("created").endswith("Z")
    assert noted == {
        "schema": 1, "run_id": run_id("atss", 0), "assigner": "atss", "options": resolve_assigner("atss", {}).options,
        "seed": 0, "protocol": {"name": "tiny", "hash": tiny.digest}, "error": "non-finite loss at step 7", "step": 7,
        "command": engine.requests[0].command,
    }  # fmt: skip
    assert failure("center", 1)["step"] is None
    assert "failed: non-finite loss at step 7" in result.stdout
    assert "failed: atss seed 0, center seed 1\n" in result.stdout
    assert "again:  harness sweep --assigners atss,center --seeds 2" in result.stdout
    assert not store().folder(run_id("atss", 0)).path.joinpath("error.txt").exists()


def test_failed_runs_are_left_alone_until_asked_for_and_forgotten_on_success(sweep, engine):
    engine.faults = {("atss", 0): RunFailed("once"), ("center", 0): RunFailed("always")}
    sweep("-a", "atss,center", "--seeds", 1)
    engine.requests.clear()
    left = sweep("-a", "atss,center", "--seeds", 1)
    assert (left.exit_code, engine.requests) == (1, [])
    assert left.stdout.count("failed before") == 2
    again = shlex.split(left.stdout.partition("again:  ")[2].partition("\n")[0])
    assert again[-4:] == ["--rerun", "failed", "--results", "out"] or "--rerun failed" in " ".join(again)
    del engine.faults["atss", 0]
    result = CliRunner().invoke(main, again[1:])
    assert result.exit_code == 1
    assert engine.asked == [("atss", 0), ("center", 0)]
    assert [f.run_id for f in load_failures(store())[0]] == [run_id("center", 0)]
    assert sweep("-a", "atss", "--seeds", 1).exit_code == 0


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), KeyError("a bug"), RuntimeError("a bug")])
def test_a_bug_is_a_failure_that_keeps_its_traceback(sweep, engine, error):
    engine.faults = {("atss", 0): error}
    result = sweep("-a", "atss,center", "--seeds", 1)
    assert result.exit_code == 1
    assert len(run_ids()) == 1
    kind = type(error).__name__
    assert failure("atss", 0)["error"].startswith(f"{kind}: ")
    assert "Traceback" not in result.output
    text = (store().folder(run_id("atss", 0)).path / "error.txt").read_text()
    assert text.startswith("Traceback")
    assert kind in text


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device"), BlockingIOError(11, "again")])
def test_what_the_system_refuses_is_a_failure_in_one_line(sweep, engine, error):
    engine.faults = {("atss", 0): error}
    assert sweep("-a", "atss", "--seeds", 1).exit_code == 1
    assert failure("atss", 0)["error"] == (getattr(error, "strerror", None) or "MemoryError")
    assert not (store().folder(run_id("atss", 0)).path / "error.txt").exists()


def test_a_foreign_failure_is_named_and_left_out(sweep, engine):
    folder = Path("out/failed")
    folder.mkdir(parents=True)
    (folder / f"{run_id('atss', 0)}.json").write_text("{")
    (folder / "other.json").write_text('{"schema": 7}')
    result = sweep("-a", "atss", "--seeds", 1)
    assert result.exit_code == 0
    assert result.stderr.count("left out: ") == 2
    assert len(engine.requests) == 1


# --- stopping and going on ---------------------------------------------------------------------------------------


def test_ctrl_c_stops_the_sweep_and_the_same_command_goes_on(sweep, engine):
    def stop(results, name):
        raise Interrupted(results.folder(name).path / "checkpoint", engine.requests[-1].again)

    engine.faults = {("center", 0): stop}
    result = sweep("-a", "atss,center", "--seeds", 2, "--gap", 2)
    assert result.exit_code == 130
    assert engine.asked == [("atss", 0), ("center", 0)]
    assert not Path("out/failed").exists()
    alone, first, second = result.stderr.splitlines()
    assert alone == f"this run alone: {engine.requests[1].again}"
    assert first == f"interrupted; checkpoint: {store().folder(run_id('center', 0)).path / 'checkpoint'}"
    command = shlex.split(second.removeprefix("go on with: "))
    assert command[:2] == ["harness", "sweep"]
    interrupt("center", 0)
    engine.faults.clear()
    engine.requests.clear()
    assert CliRunner().invoke(main, command[1:]).exit_code == 0
    assert engine.asked == [("center", 0), ("atss", 1), ("center", 1)]
    assert engine.requests[0].resume


def test_ctrl_c_outside_of_the_training_says_the_same(sweep, engine):
    engine.faults = {("atss", 0): KeyboardInterrupt()}
    result = sweep("-a", "atss,center", "--seeds", 1)
    assert result.exit_code == 130
    assert result.stderr.startswith("interrupted\ngo on with: harness sweep --assigners atss,center")
    assert not Path("out/failed").exists()


# --- runs that differ in their evaluation alone --------------------------------------------------------------------


def test_a_run_does_not_train_again_what_another_process_is_training(sweep, engine):
    words = ("-a", "atss", "--seeds", 1, "--tune", "evaluation.nms_iou=1,0.5")
    with exclusively(store().folder(run_id("atss", 0)).claim, wait=False):
        result = sweep(*words)
    assert not engine.asked
    assert "in progress elsewhere: it evaluates the weights of atss" in result.stdout
    assert sweep(*words).exit_code == 0
    assert engine.asked == [("atss", 0)] * 2  # in order: the second one finds what the first one trained


def test_a_preview_tells_who_takes_whose_weights(sweep, engine):
    words = ("-a", "atss,center", "--seeds", 1, "--tune", "evaluation.nms_iou=1,0.5", "--dry-run", "--json")
    runs = json.loads(sweep(*words).stdout)["runs"]
    taken = {run["run_id"]: run["weights_of"] for run in runs}
    assert sorted(filter(None, taken.values())) == sorted(run_id(name, 0) for name in ("atss", "center"))
    assert all(taken[giver] is None for giver in filter(None, taken.values()))


# --- several processes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["lock", "claim"])
def test_a_run_that_another_process_holds_is_tried_once_more_at_the_end(sweep, engine, file):
    with exclusively(store().folder(run_id("atss", 0)).path / file, wait=False):
        result = sweep("-a", "atss,center", "--seeds", 1)
    assert result.exit_code == 0
    assert ("center", 0) in engine.asked
    assert result.stdout.count("in progress elsewhere") == 3  # twice as it went, and in the table
    assert [record.assigner for record in store().load_all()[0]] == ["center"]
    assert not Path("out/failed").exists()


def test_a_run_that_is_free_at_the_end_is_run_then(sweep, engine):
    held = exclusively(store().folder(run_id("atss", 0)).path / "lock", wait=False)
    held.__enter__()
    engine.faults = {("center", 0): lambda *_: held.__exit__(None, None, None)}
    assert sweep("-a", "atss,center", "--seeds", 1).exit_code == 0
    assert len(run_ids()) == 2
    assert engine.asked[-1] == ("atss", 0)


@pytest.mark.parametrize("rerun", ["never", "always"])
def test_what_another_process_finished_meanwhile_is_not_run_again(sweep, call, engine, rerun):
    if rerun == "always":
        sweep("-a", "center", "--seeds", 1)
    elsewhere = Engine()
    asked = harness.runs.run.RunRequest("center", {}, "shapes", load_protocol("tiny"), results=Path("out"))
    engine.requests.clear()
    engine.faults = {("atss", 0): lambda *_: elsewhere.run(asked)}
    result = sweep("-a", "atss,center", "--seeds", 1, "--rerun", rerun)
    assert result.exit_code == 0
    assert engine.asked == [("atss", 0)]
    assert "done before" in result.stdout


def test_what_failed_elsewhere_meanwhile_counts_as_failed(sweep, engine):
    def fail_center(results, _):
        (results.root / "failed").mkdir()
        (results.root / "failed" / f"{run_id('center', 0)}.json").write_text("{}")

    engine.faults = {("atss", 0): fail_center}
    result = sweep("-a", "atss,center", "--seeds", 1, "--rerun", "failed")
    assert result.exit_code == 1
    assert engine.asked == [("atss", 0)]


def test_sweeps_at_once_share_the_runs(tmp_path, engine, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = sweep_request({"assigners": ["atss,center,paa"], "seeds": 2, "protocol": "tiny"}, "sweep")
    plan = make_plan(request, store(), "tiny", lambda *_: "harness run")
    together, trained = Barrier(3), []

    def train(run):
        trained.append(run.run_id)
        return engine.run(
            harness.runs.run.RunRequest(
                run.choice.assigner, {}, "shapes", run.spec.protocol, run.spec.seed, results=Path("out")
            )
        ).record

    def one(_):
        together.wait(timeout=60)
        return carry_out(plan, store(), train, lambda *_: None, lambda _: None)

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(one, range(3)))
    assert sorted(trained) == sorted(run.run_id for run in plan.runs)
    assert sorted(run_ids()) == sorted(trained)
    assert sum(result.outcome == "ran" for ended in results for result in ended) == 6
    assert not any(result.failed for ended in results for result in ended)


# --- looking first -----------------------------------------------------------------------------------------------


def test_a_dry_run_counts_and_estimates_and_runs_nothing(sweep, engine):
    engine.ap = lambda request: (
        {"atss": 30.0, "center": 33.0}[request.assigner] + request.seed * (request.assigner == "atss")
    )
    sweep("-a", "atss,center", "--seeds", 2)
    engine.faults = {("paa", 0): RunFailed("lost")}
    sweep("-a", "paa", "--seeds", 1)
    interrupt("paa", 1)
    engine.requests.clear()
    words = ["-a", "atss,paa,center[radius=2]", "--seeds", 3, "--gap", 0.5, "--dry-run"]
    shown = sweep(*words)
    assert shown.exit_code == 0, shown.output
    assert engine.requests == []
    assert "failed: paa seed 0\n" in shown.stdout
    assert "--rerun failed" in shown.stdout
    assert "2 runs of atss" in shown.stdout
    assert "4 runs of other assigners" in shown.stdout
    assert "30 s" in shown.stdout  # six runs of 5.012 s

    answer = json.loads(sweep(*words, "--json").stdout)
    rows = {row["name"]: row for row in answer["assigners"]}
    assert rows["atss"]["counts"] == {"done": 2, "failed": 0, "interrupted": 0, "missing": 1}
    assert rows["paa"]["counts"] == {"done": 0, "failed": 1, "interrupted": 1, "missing": 1}
    assert rows["center[radius=2.0]"]["counts"]["missing"] == 3
    assert (rows["paa"]["todo"], rows["paa"]["memory_mb"]) == (2, 512.4)
    assert answer["total"]["todo"] == 6
    assert answer["total"]["seconds"] == pytest.approx(6 * 5.012)
    states = {run["run_id"]: (run["state"], run["to_run"]) for run in answer["runs"]}
    assert states[run_id("paa", 0)] == ("failed", False)
    assert states[run_id("paa", 1)] == ("interrupted", True)
    # Gaps of 3 and 2 scatter by the root of a half.
    assert answer["seeds"]["spread"]["sd"] == pytest.approx(0.5**0.5)
    assert answer["seeds"]["seeds"] == seeds_needed(0.5, 0.5**0.5)
    assert f"seeds for a gap of 0.5 AP: {answer['seeds']['seeds']} (" in shown.stdout


def test_what_no_record_tells_is_unknown(sweep, engine):
    words = ["-a", "atss,center", "--seeds", 1, "--dry-run"]
    shown = sweep(*words)
    assert shown.exit_code == 0
    assert shown.stdout.count("unknown") == 6  # time and memory of two assigners and of all
    assert "nothing yet to estimate them from" in shown.stdout
    answer = json.loads(sweep(*words, "--json").stdout)
    assert answer["seeds"] is None
    assert answer["total"]["seconds"] is None
    assert not Path("out").exists()


# --- tuning ------------------------------------------------------------------------------------------------------


def test_every_assigner_gets_the_same_search_and_the_sensitivity_is_shown(sweep, engine):
    rate = load_protocol("tiny").schedule.lr
    points = {"center": {0.5: 30.0, 1.0: 34.0, 2.0: 31.0}, "atss": {0.5: 30.0, 1.0: 34.0, 2.0: 40.0}}
    engine.ap = lambda request: points[request.assigner][request.protocol.schedule.lr / rate]
    result = sweep("-a", "atss,center", "--seeds", 1, "--tune", "lr=0.5,1,2")
    assert result.exit_code == 0, result.output
    assert len(engine.requests) == 6
    digest = load_protocol("tiny").digest
    assert f"6 runs on shapes, protocol tiny ({digest}) and 3 tunings of it\n" in result.stdout
    assert "[2/6] center schedule.lr x 0.5 seed 0" in result.stdout
    assert "warning: atss is best at the edge of the search for schedule.lr" in result.stdout
    assert "warning: center" not in result.stdout
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("│ center") and "seed" not in line]
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["30.0", "34.0", "31.0", "lr x 1", "4.0"]
    # The point in the middle is the protocol itself: nothing is left to run there, and other runs do not count.
    engine.requests.clear()
    again = json.loads(sweep("-a", "atss,center", "--seeds", 1, "--tune", "lr=1,2", "--json").stdout)
    assert engine.requests == []
    (search,) = again["sensitivity"]
    assert search["points"] == [[rate], [2 * rate]]
    assert [(row["name"], row["AP"], row["spread"]) for row in search["assigners"]] == [
        ("atss", [34.0, 40.0], 6.0), ("center", [34.0, 31.0], 3.0),
    ]  # fmt: skip
    assert json.loads(sweep("-a", "atss,center", "--seeds", 1, "--json").stdout)["sensitivity"] == []


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no assigners"),
        (["-a", ","], "no assigner in ','"),
        (["-a", "atss,iqdt"], "did you mean 'iqdet'"),
        (["-a", "atss,iqdet[positives=8"], "bracket is not closed"),
        (["-a", "atss,iqdet[positivs=8]"], "did you mean 'positives'"),
        (["-a", "atss,iqdet[positives=8,x]"], "iqdet.positives is 'x'"),
        (["-a", "atss", "--seeds", "three"], "--seeds 'three' is neither a count"),
        (["-a", "atss", "--seeds", "0"], "seeds: must be a count"),
        (["-a", "atss", "-p", "tny"], "did you mean 'tiny'"),
        (["-a", "atss", "--set", "schedule.stps=3"], "did you mean 'steps'"),
        (["-a", "atss", "--tune", "lr"], "--tune 'lr' is not of the form"),
        (["-a", "atss", "--tune", "lr=one"], "--tune 'lr=one' is not of the form"),
        (["-a", "atss", "--tune", "lr=-1"], "tune: lr must list factors"),
        (["-a", "atss", "--tune", "box_weight=2"], "did you mean 'loss.box_weight'"),
        (["-a", "atss", "--rerun", "allways"], "'never', 'failed' or 'always'"),
        (["-a", "atss", "--gap", "0"], "--gap"),
        (["missing.toml"], "sweep file missing.toml cannot be read"),
        (["broken.toml"], "is not valid TOML"),
        (["wrong.toml"], "unknown key 'seed', did you mean 'seeds'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_run(call, engine, words, message):
    Path("broken.toml").write_text("assigners = ")
    Path("wrong.toml").write_text('assigners = ["atss"]\nseed = 3\n')
    result = call("sweep", *words, "--results", "out")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert engine.requests == []
    assert not Path("out").exists()


def test_one_process_only(sweep, engine, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = sweep("-a", "atss")
    assert result.exit_code == 2
    assert "once for each GPU" in result.stderr


def test_help_has_examples(call):
    text = call("sweep", "--help").stdout
    assert "Examples:\n    harness sweep" in text
    assert "CUDA_VISIBLE_DEVICES" in text
