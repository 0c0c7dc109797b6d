"""A run whose evaluation fails keeps its training, and `harness eval` or --resume completes its record."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from harness.cli import main
from harness.core.errors import InProgress, Interrupted, RunFailed, UserError
from harness.records.details import load_details
from harness.records.failures import load_failures, save_failure
from harness.records.pending import find_pending, load_pending, pending_runs
from harness.records.store import ResultsStore
from harness.runs import completion
from harness.runs import run as engine
from harness.runs.run import evaluate_run
from harness.training.trainer import Trainer
from tests.support.fakes import make_record
from tests.support.runs import files_of, request, run, small_protocol, write_coco

TIMES = ("step_ms", "images_per_s", "train_s", "peak_memory_mb", "eval_ms_per_image")
PROTOCOL = small_protocol(schedule={"steps": 4}, data={"train_images": None, "val_images": None})


def without_times(record):
    return record.model_dump(exclude={"created": True, "cost": set(TIMES), "environment": {"evaluated"}})


def not_looked_at(patch):
    """Let a run begin that would be refused: as if its images broke after they were looked at."""
    patch.setattr(engine, "checked", lambda images, *_: images)


@pytest.fixture(autouse=True)
def _images_that_break_later(monkeypatch):
    not_looked_at(monkeypatch)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A COCO folder with a validation image cut short, and a run on it that failed after its last step."""
    root = tmp_path_factory.mktemp("broken")
    image = write_coco(root / "coco") / "val" / "3.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:300])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        not_looked_at(patch)
        with pytest.raises(UserError) as failure:
            run(request(Path("results"), "iqdet", PROTOCOL, data="coco:coco"))
    return root, whole, str(failure.value)


@pytest.fixture
def failed(tmp_path, broken, monkeypatch):
    """A copy of it: what to ask, the store, the run's id, and how to mend the image."""
    root, whole, _ = broken
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    store = ResultsStore(tmp_path / "results")
    (work,) = (store.root / "work").iterdir()
    asked = request(store.root, "iqdet", PROTOCOL, data="coco:coco", resume=True)
    return asked, store, work.name, lambda: (tmp_path / "coco" / "val" / "3.png").write_bytes(whole)


@pytest.fixture
def no_training(monkeypatch):
    def step(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.fixture
def call():
    return lambda *words: CliRunner().invoke(main, [*map(str, words)])


@pytest.fixture
def clean(tmp_path_factory):
    """The same run where every image can be read."""
    root = tmp_path_factory.mktemp("clean")
    return run(request(root / "results", "iqdet", PROTOCOL, data=f"coco:{write_coco(root / 'coco')}"))


def evaluate(call, run_id, *words):
    return call("eval", run_id, "--results", "results", "--device", "cpu", "--workers", 0, *words)


def test_the_error_names_the_image_and_what_completes_the_run(broken):
    root, _, message = broken
    (work,) = (root / "results" / "work").iterdir()
    assert "image coco/val/3.png cannot be decoded" in message
    assert message.endswith(
        f"; the training is kept in {work.relative_to(root)}, complete the run with: "
        f"harness eval {work.name} --data coco:coco"
    )
    assert {path.name for path in work.iterdir()} == {
        "lock", "metrics.jsonl", "network.safetensors", "assigner.safetensors", "checkpoint", "trained.json",
    }  # fmt: skip
    assert not (root / "results" / "runs").exists()


def test_eval_completes_the_record_of_the_mended_data(failed, clean, call, no_training):
    _, store, run_id, mend = failed
    mend()
    done = evaluate(call, run_id[:-4], "--json")
    assert done.exit_code == 0, done.stderr
    told = f"the validation split has changed since the training: the record is that of {clean.record.run_id}"
    assert [line for line in done.stderr.splitlines() if told in line and line.endswith(f"no longer {run_id}")]
    (record,), problems = store.load_all()
    assert not problems
    assert json.loads(done.stdout)["run_id"] == record.run_id == clean.record.run_id
    evaluated = getattr(record.environment, "evaluated", {})  # with torch's own number of threads
    assert evaluated.keys() <= {"threads"}
    assert without_times(record) == without_times(clean.record)
    work = store.folder(record.run_id).path
    assert files_of(replace(clean, work_dir=work)) == files_of(clean)
    assert {path.name for path in work.iterdir()} == {path.name for path in clean.work_dir.iterdir()}
    assert not store.folder(run_id).path.exists()
    assert load_details(store, [record.run_id]) == load_details(ResultsStore(clean.path.parents[1]), [record.run_id])
    assert (store.root / "leaderboard.csv").exists()


def test_a_resume_on_the_mended_data_trains_no_step(failed, clean, no_training):
    asked, store, run_id, mend = failed
    mend()
    screen = Console(file=StringIO(), width=80)
    outcome = run(replace(asked, console=screen))
    assert without_times(outcome.record) == without_times(clean.record)
    assert outcome.record.cost.step_ms > 0
    assert f"no longer {run_id}" in screen.file.getvalue()
    assert [path.name for path in (store.root / "work").iterdir()] == [clean.record.run_id]
    assert {path.name for path in outcome.work_dir.iterdir()} == {path.name for path in clean.work_dir.iterdir()}


def test_a_resume_before_it_is_mended_fails_the_same_way(failed, broken, no_training):
    asked, store, run_id, _ = failed
    with pytest.raises(UserError) as failure:
        run(asked)
    assert str(failure.value).partition("; the training")[0] == broken[2].partition("; the training")[0]
    assert (store.folder(run_id).path / "checkpoint" / "state.json").exists()
    assert load_pending(store, run_id).run_id == run_id


def test_an_image_of_the_same_length_leaves_the_run_its_id(tmp_path, call, monkeypatch):
    """And the failure that a sweep wrote down is forgotten."""
    monkeypatch.chdir(tmp_path)
    image = write_coco(tmp_path / "coco") / "val" / "3.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:300] + bytes(len(whole) - 300))
    with pytest.raises(UserError, match="cannot be decoded"):
        run(request(Path("results"), "center", PROTOCOL, data="coco:coco"))
    store = ResultsStore(Path("results"))
    (run_id,) = pending_runs(store)
    save_failure(store, load_pending(store, run_id).spec(), "cannot be decoded", "harness run")
    image.write_bytes(whole)
    done = evaluate(call, "center")
    assert done.exit_code == 0, done.stderr
    assert "has changed" not in done.output
    assert [record.run_id for record in store.load_all()[0]] == [run_id]
    assert {path.name for path in store.folder(run_id).path.iterdir()} == {
        "lock",
        "metrics.jsonl",
        "network.safetensors",
        "samples",
    }
    assert load_failures(store) == ([], [])


def test_a_run_that_begins_anew_says_so_or_is_refused(failed):
    asked, store, run_id, _ = failed
    with pytest.raises(UserError, match=r"is trained and waits for its record at .*--resume to complete it, or --rest"):
        run(replace(asked, resume=False))
    steps = []
    original = Trainer._step

    def step(self, *given):
        steps.append(store.folder(run_id).trained.exists())
        return original(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(UserError, match="cannot be decoded"):
            run(replace(asked, resume=False, restart=True))
    assert steps == [False] * 4


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            RunFailed,
            "out of memory while evaluating; free memory; the tr",
        ),
        (MemoryError(), RunFailed, "complete the run with: harness eval center-small-test-s0-"),
        (KeyboardInterrupt(), Interrupted, r"trained\.json; continue with: harness run --resume"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_other_faults_keep_the_training_too(tmp_path, undisturbed, monkeypatch, fault, kind, told, late):
    """Also after the record is written: then no second one is."""

    def fail(*_, **__):
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(*((completion, "make_details") if late else (engine, "detect")), fail)
        with pytest.raises(kind, match=told):
            run(request(tmp_path))
    clean = undisturbed("center")
    assert len(list(tmp_path.glob("runs/*.json"))) == late
    monkeypatch.setattr(Trainer, "_step", fail)
    resumed = run(request(tmp_path, resume=True))
    assert without_times(resumed.record) == without_times(clean.record)
    assert files_of(resumed) == files_of(clean)
    assert [path.name for path in tmp_path.glob("runs/*.json")] == [clean.path.name]
    assert not list(resumed.work_dir.glob("checkpoint*"))


def test_a_bug_keeps_its_traceback_with_a_note(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr(engine, "detect", fail)
    with pytest.raises(RuntimeError, match="a defect") as defect:
        run(request(tmp_path))
    assert defect.value.__notes__[0].startswith("the training is kept in ")


def test_a_kill_before_the_weights_are_saved_is_resumed_with_the_losses(tmp_path, undisturbed, monkeypatch):
    clean = undisturbed("iqdet")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "save_network", killed)
        with pytest.raises(KeyboardInterrupt):
            run(request(tmp_path, "iqdet"))
    monkeypatch.setattr(Trainer, "_step", killed)
    resumed = run(request(tmp_path, "iqdet", resume=True))
    assert without_times(resumed.record) == without_times(clean.record)


def test_the_code_that_evaluates_and_the_code_that_trained_are_both_recorded(failed, monkeypatch, call):
    _, store, run_id, mend = failed
    trained_by = load_pending(store, run_id).trained_by
    mend()
    monkeypatch.setattr(completion, "source_version", lambda: {"commit": "c" * 40, "version": "0.1.0"})
    assert evaluate(call, run_id).exit_code == 0
    (record,), _ = store.load_all()
    assert record.source.model_dump() == {
        "commit": "c" * 40, "version": "0.1.0", "earlier": [trained_by[0]["commit"] or "version 0.1.0"],
    }  # fmt: skip


def test_another_split_or_other_data_does_not_complete_it_and_says_so(failed, call, tmp_path):
    _, store, run_id, _ = failed
    write_coco(tmp_path / "other")
    for words in (("--val-split", "train"), ("--data", "coco:other")):
        done = evaluate(call, run_id, *words)
        assert done.exit_code == 0, done.stderr
        assert f"{run_id} waits for its record, which this does not complete: that is of coco coco, split val; " in (
            done.output
        )
    assert not store.runs_dir.exists()
    assert store.folder(run_id).trained.exists()
    metrics = evaluate_run(store, run_id, data="coco:coco", device="cpu", workers=0, val_split="train")
    assert metrics["AP"] is not None


def test_results_and_details_of_a_run_that_is_completed(failed, call):
    _, store, run_id, mend = failed
    mend()
    done = evaluate(call, run_id, "--details", "--results-json", "found.json", "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer.keys() == {"run_id", "data", "metrics", "record", "results_json"}
    assert json.loads((store.root.parent / "found.json").read_text())
    assert load_details(store, [answer["run_id"]])[0]


def test_names_of_runs_with_and_without_a_record(tmp_path, failed):
    _, store, run_id, _ = failed
    assert find_pending(store, run_id) == find_pending(store, "iqd") == run_id
    assert find_pending(store, "") is None
    assert find_pending(store, "center") is None
    record = make_record(PROTOCOL, assigner="iqdet")
    store.save(record)
    assert find_pending(store, record.run_id) is None
    assert find_pending(store, run_id) == run_id
    with pytest.raises(UserError, match=rf"'iqdet' is ambiguous: .*{run_id} \(without a record yet\).*; give more"):
        find_pending(store, "iqdet")


def test_a_repeat_that_waits_beside_its_first_record(tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = request(tmp_path / "results", "center", small_protocol(schedule={"steps": 2}))
    first = run(asked)

    def fail(*_, **__):
        raise UserError("the data is gone; bring it back")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "detect", fail)
        with pytest.raises(UserError, match="bring it back; the training is kept"):
            run(asked)
    done = evaluate(call, first.record.run_id)
    assert done.exit_code == 0, done.stderr
    assert [path.name for path in sorted((tmp_path / "results" / "runs").iterdir())] == [
        first.path.name.replace(".json", ".2.json"), first.path.name,
    ]  # fmt: skip


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "rubbish": lambda text: "[1, 2]",
    "deep": lambda text: "[" * 100_000,
    "lacking": lambda text: json.dumps({**json.loads(text), "record": {}}),
    "newer": lambda text: json.dumps({**json.loads(text), "schema": 2}),
    "another": lambda text: text.replace("iqdet-small-test-s0", "another-small-test-s0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_the_way_out(failed, call, damage):
    asked, store, run_id, _ = failed
    path = store.folder(run_id).trained
    path.write_text(DAMAGES[damage](path.read_text()))
    done = evaluate(call, run_id)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: results/work/iqdet-small-test-s0-")
    assert line.endswith(f"; delete results/work/{run_id}/trained.json and run again with --resume")
    with pytest.raises(UserError, match=r"and run again with --resume$"):
        run(asked)


def test_damaged_weights_are_named_and_the_checkpoint_still_serves(failed, call, no_training):
    asked, store, run_id, _ = failed
    weights = store.folder(run_id).path / "network.safetensors"
    for spoil in (lambda: weights.write_bytes(b"no weights"), weights.unlink):
        spoil()
        done = evaluate(call, run_id)
        assert done.exit_code == 2
        assert "network.safetensors" in done.stderr
        assert done.stderr.rstrip().endswith("trained.json and run again with --resume")
    store.folder(run_id).trained.unlink()
    with pytest.raises(UserError, match=r"cannot be decoded.*the training is kept"):
        run(asked)
    assert weights.exists()


def test_what_is_in_the_way_of_the_mended_run_is_named(failed, clean, call):
    _, store, run_id, mend = failed
    mend()
    work = store.folder(clean.record.run_id).path
    (work / "checkpoint").mkdir(parents=True)
    (work / "checkpoint" / "state.json").write_text("{}")
    done = evaluate(call, run_id)
    assert done.exit_code == 2
    assert f"makes {run_id} the run {work.name}, and that one lies unfinished already; remove " in done.stderr
    shutil.rmtree(work)
    store.save(clean.record)
    done = evaluate(call, run_id)
    assert f"{work.name}, and that one has a record already; remove " in done.stderr
    assert store.folder(run_id).trained.exists()


def test_a_run_that_is_at_it_is_left_alone(failed, call):
    _, store, run_id, _ = failed
    with store.lock(run_id):
        done = evaluate(call, run_id)
        assert done.exit_code == 2
        assert "in progress in another process" in done.stderr
        with pytest.raises(InProgress), store.lock(run_id):
            pass
    assert os.listdir(store.folder(run_id).path)
