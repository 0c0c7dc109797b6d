"""Records are immutable, complete and found again, whoever writes at the same time."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.core.errors import UserError
from harness.core.files import dump, write_atomically
from harness.protocol.protocol import load_protocol
from harness.records.identity import RunSpec, data_identity, data_record
from harness.records.leaderboard import check_leaderboard, write_leaderboard
from harness.records.store import ResultsStore
from tests.support.fakes import DATA, MemorySet, data_part, make_record, objects


@pytest.fixture
def protocol():
    return load_protocol("tiny")


@pytest.fixture
def store(tmp_path):
    return ResultsStore(tmp_path / "results")


def spec(protocol, **changes):
    return RunSpec(
        **({"protocol": protocol, "data": DATA, "assigner": "iqdet", "options": {"p": 1}, "seed": 0} | changes)
    )


def test_a_run_id_is_readable_and_follows_from_content_alone(protocol):
    run_id = spec(protocol).run_id
    assert run_id.startswith("iqdet-tiny-s0-")
    assert run_id == spec(protocol).run_id
    moved = data_part(train={"warnings": {"odd": 1}})
    assert spec(protocol, data=moved).run_id == run_id


@pytest.mark.parametrize(
    "changes",
    [
        {"assigner": "atss"},
        {"options": {"p": 2}},
        {"seed": 1},
        {"data": data_part(title="other")},
        {"data": data_part(val={"checksum": "33"})},
        {"data": data_part(train={"split": "trainval"})},
    ],
)
def test_whatever_moves_a_result_moves_the_hash(protocol, changes):
    assert spec(protocol, **changes).run_id.rsplit("-", 1)[1] != spec(protocol).run_id.rsplit("-", 1)[1]


def test_a_changed_protocol_gives_a_name_that_a_file_can_have(protocol):
    changed = load_protocol("tiny", ("schedule.steps=7", 'model.backbone="resnet18"'))
    assert spec(changed).run_id.rsplit("-", 1)[1] != spec(protocol).run_id.rsplit("-", 1)[1]
    assert spec(changed).run_id.startswith("iqdet-tiny-s0-")


def test_the_data_part_counts_both_splits_and_holds_no_path():
    train = MemorySet([objects([[0, 0, 9, 9]] * 3), objects()], split="train", checksum="t")
    train.warnings["boxes without area dropped"] = 2
    val = MemorySet([objects([[0, 0, 9, 9]])], checksum="v")
    assert data_record("voc", train, val).model_dump() == {
        "kind": "voc",
        "title": "memory",
        "classes": ["a", "b"],
        "train": {
            "split": "train", "images": 2, "boxes": 3, "checksum": "t", "warnings": {"boxes without area dropped": 2},
        },
        "val": {"split": "val", "images": 1, "boxes": 1, "checksum": "v", "warnings": {}},
    }  # fmt: skip


def test_the_identity_of_data_describes_no_image(monkeypatch):
    """A plan opens sets of many thousand procedural images only to know which they are."""
    train, val = MemorySet([objects()], split="train", checksum="t"), MemorySet([objects()], checksum="v")
    full = data_record("voc", train, val)
    monkeypatch.setattr(MemorySet, "annotations", lambda *_: pytest.fail("an image was described"))
    identity = data_identity("voc", train, val)
    assert {role: getattr(full, role).checksum for role in ("train", "val")} == {"train": "t", "val": "v"}
    of_both = {"kind": True, "title": True, "classes": True, "train": {"split", "images", "checksum"}}
    of_both["val"] = of_both["train"]
    assert identity.model_dump() == full.model_dump(include=of_both)


def test_what_is_saved_is_what_is_loaded(store, protocol):
    record = make_record(protocol)
    path = store.save(record)
    assert path == store.runs_dir / f"{record.run_id}.json"
    assert path.read_text() == dump(record.as_json())
    assert store.load_all() == ([record], [])


def test_a_repeat_never_replaces_a_record(store, protocol):
    first, second = make_record(protocol, ap=30.0), make_record(protocol, ap=31.0)
    before = store.save(first).read_bytes()
    path = store.save(second)
    assert path.name == f"{first.run_id}.2.json"
    assert (store.runs_dir / f"{first.run_id}.json").read_bytes() == before
    assert [r.metrics.AP for r in store.load_all()[0]] == [30.0, 31.0]


def test_attempts_load_in_the_order_of_their_number(store, protocol):
    for attempt in range(11):
        store.save(make_record(protocol, ap=float(attempt)))
    assert [r.metrics.AP for r in store.load_all()[0]] == [float(n) for n in range(11)]


def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", __name__])  # import once, not for every process
    return context


def _save_some(start, root, seed, count):
    store, protocol = ResultsStore(root), load_protocol("tiny")
    start.wait()
    for attempt in range(count):
        # The first attempts are of a run of the writer's own, the others of a run that it shares with three more.
        of = 10 + seed if attempt < 2 else seed % 2
        store.save(make_record(protocol, seed=of, ap=float(seed), progress={"writer": seed, "attempt": attempt}))
        write_leaderboard(store)


def test_eight_processes_that_save_at_once_lose_nothing(store):
    context = processes()
    start = context.Barrier(8)
    writers = [context.Process(target=_save_some, args=(start, store.root, seed, 5)) for seed in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 8
    records, problems = store.load_all()
    assert problems == []
    written = {(r.progress["writer"], r.progress["attempt"]) for r in records}
    assert written == {(writer, attempt) for writer in range(8) for attempt in range(5)}
    assert all(path.suffix == ".json" for path in store.runs_dir.iterdir())
    check_leaderboard(store)
    table = (store.root / "leaderboard.csv").read_text()
    assert table.count("\n") == 1 + 8 + 2  # a heading, a run of each writer's own, two that they share


def _die_while_saving(root, stage):
    protocol = load_protocol("tiny")

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    if stage == "in the middle of the file":
        _cut_at(os.fsync, die)
    elif stage == "before the name":
        os.link = die
    else:
        Path.unlink = die
    ResultsStore(root).save(make_record(protocol))


def _cut_at(fsync, die):
    def half(handle):
        os.truncate(handle, os.fstat(handle).st_size // 2)
        fsync(handle)
        die()

    os.fsync = half


@pytest.mark.parametrize(
    ("stage", "saved"), [("in the middle of the file", 0), ("before the name", 0), ("after the name", 1)]
)
def test_a_killed_writer_leaves_a_whole_record_or_none(store, protocol, stage, saved):
    writer = processes().Process(target=_die_while_saving, args=(store.root, stage))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    record = make_record(protocol)
    assert store.load_all() == ([record] * saved, [])
    store.save(record)  # what the dead one left is in nobody's way
    assert store.load_all() == ([record] * (saved + 1), [])


def test_a_write_that_fails_leaves_nothing_behind(store, protocol, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UserError, match=r"cannot write .*\.json: no links here"):
        store.save(make_record(protocol))
    assert list(store.runs_dir.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 1},
        {"schema": 3},
        {"run_id": "../outside"},
        {"created": "yesterday"},
        {"metrics": {"AP": -1.0}},
        {"data": {**DATA.model_dump(), "title": "/home/me/data"}},
        {"hostname": "here"},
    ],
)
def test_what_is_no_record_cannot_be_made(protocol, changes):
    with pytest.raises(ValidationError):
        make_record(protocol, **changes)
    with pytest.raises(ValidationError):
        make_record(protocol).with_parts(**changes)


def test_a_number_that_is_none_is_not_saved(store, protocol):
    with pytest.raises(ValueError, match="JSON"):
        store.save(make_record(protocol, progress={"loss": float("nan")}))
    assert not store.runs_dir.exists()


def test_bad_files_are_named_and_left_out(store, protocol):
    good = make_record(protocol)
    whole = store.save(good).read_text()
    (store.runs_dir / "cut.json").write_text(whole[: len(whole) // 2])
    (store.runs_dir / "list.json").write_text("[]")
    (store.runs_dir / "old.json").write_text(json.dumps(good.as_json() | {"schema": 0}))
    (store.runs_dir / "renamed.json").write_text(whole)
    (store.runs_dir / "short.json").write_text(json.dumps({"schema": 1, "run_id": "short"}))
    (store.runs_dir / "notes.txt").write_text("not a record, and not in the way")
    records, problems = store.load_all()
    assert records == [good]
    assert len(problems) == 5
    for name, line in zip(("cut", "list", "old", "renamed", "short"), problems, strict=True):
        assert f"{name}.json" in line
        assert "\n" not in line


CORRUPT = {
    "empty": b"",
    "binary": bytes(range(256)),
    "no UTF-8": '{"schema": 2, "run_id": "größe"}'.encode("latin-1"),
    "UTF-16": '{"schema": 2}'.encode("utf-16"),
    "a number alone": b"7",
    "null": b"null",
    "another program's": b'{"name": "package", "version": "1.0.0", "dependencies": {}}',
    "a number of 5000 digits": b'{"schema": 2, "seed": ' + b"9" * 5000 + b"}",
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "line ends": b"\n\r\n",
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT)
def test_a_corrupt_file_is_named_in_one_line_and_left_out(store, protocol, content):
    good = make_record(protocol)
    store.save(good)
    (store.runs_dir / "bad.json").write_bytes(content)
    left_out(store, good, "bad.json")


DAMAGED = {
    "infinity": {"progress": {"loss": float("inf")}},
    "NaN": {"options": {"radius": float("nan")}},
    "1e999": {"metrics": {"AP": float("inf")}},
    "half a character": {"command": "harness \ud800"},
    "a number of 400 digits": {"cost": {"step_ms": 10**400}},
    "text for a number": {"seed": "0"},
    "a truth value for a number": {"seed": True},
    "AP beyond 100": {"metrics": {"AP": 100.5}},
    "an unknown key": {"colour": "red"},
    "a line end in a key": {"two\nlines": 1},
}


@pytest.mark.parametrize("changes", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_named_in_one_line_and_left_out(store, protocol, changes):
    good, bad = make_record(protocol), make_record(protocol, seed=1).as_json()
    store.save(good)
    for key, value in changes.items():
        bad[key] = {**bad[key], **value} if isinstance(bad.get(key), dict) else value
    (store.runs_dir / f"{bad['run_id']}.json").write_text(json.dumps(bad))
    left_out(store, good, f"{bad['run_id']}.json")


@pytest.mark.parametrize(("levels", "count"), [(10, 2), (200, 1), (700, 1), (900, 1), (980, 1), (5000, 1)])
def test_a_record_is_not_nested_deeper_than_a_writer_can_follow(store, protocol, levels, count):
    deep = make_record(protocol, seed=1, progress={"deep": "here"})
    store.save(make_record(protocol))
    text = dump(deep.as_json()).replace('"here"', '{"deep":' * levels + "1" + "}" * levels)
    (store.runs_dir / f"{deep.run_id}.json").write_text(text)
    records, problems = store.load_all()
    assert (len(records), len(problems)) == (count, 2 - count)
    assert all("levels" in problem or "recursion" in problem for problem in problems)


PLACES = {
    "a folder": lambda path: path.mkdir(),
    "a loop of links": lambda path: path.symlink_to(path.name),
    "a broken link": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES)
def test_what_is_no_file_is_named_in_one_line_and_left_out(store, protocol, make):
    good = make_record(protocol)
    store.save(good)
    make(store.runs_dir / "bad.json")
    left_out(store, good, "bad.json")


@pytest.mark.parametrize(
    ("name", "shown"), [("two\nlines.json", "two\\nlines.json"), (b"\xff.json", "\\udcff.json"), ("ü.json", "ü.json")]
)
def test_a_name_that_no_line_can_hold_is_escaped(store, protocol, name, shown):
    good = make_record(protocol)
    store.save(good)
    try:
        (store.runs_dir / os.fsdecode(name)).write_text("{}")
    except OSError:
        pytest.skip("this file system takes no such name")
    left_out(store, good, shown)


def left_out(store, good, shown):
    """Every reader goes on with the good record alone, and is told of the other file."""
    records, (problem,) = store.load_all()
    assert records == [good]
    assert problem.startswith(f"{store.runs_dir}{os.sep}{shown}")
    assert problem.isprintable()
    problem.encode()
    assert len(problem) < 600
    assert store.find(good.run_id) == good
    assert write_leaderboard(store).read_text().count("\n") == 2
    with pytest.raises(UserError, match="move it out of"):
        check_leaderboard(store)


def test_records_that_cannot_be_listed_are_no_empty_store(tmp_path):
    (tmp_path / "runs").write_text("a file in place of the folder")
    records, (problem,) = ResultsStore(tmp_path).load_all()
    assert records == []
    assert problem == f"{tmp_path / 'runs'} cannot be read: Not a directory"


def test_an_empty_store_is_empty(store):
    assert store.load_all() == ([], [])


def test_find_takes_an_id_or_a_beginning(store, protocol):
    for assigner, seed in (("center", 0), ("center", 1), ("atss", 0)):
        store.save(make_record(protocol, assigner=assigner, seed=seed))
    newest = make_record(protocol, assigner="atss", ap=50.0)
    store.save(newest)
    assert store.find("atss") == newest
    assert store.find(newest.run_id) == newest
    assert store.find("center-tiny-s1").seed == 1
    with pytest.raises(UserError, match="ambiguous"):
        store.find("center")
    with pytest.raises(UserError, match=f"did you mean '{newest.run_id}'"):
        store.find(newest.run_id.replace("atss", "tass"))
    with pytest.raises(UserError, match="no run ''"):
        store.find("")


def test_only_one_process_works_on_a_run(store):
    with store.lock("a"):
        with pytest.raises(UserError, match="in progress"), store.lock("a"):
            pass
        with store.lock("b"):
            pass
    with store.lock("a"):
        pass


def test_an_error_inside_the_lock_stays_what_it_is(store):
    with pytest.raises(BlockingIOError), store.lock("a"):
        raise BlockingIOError


def test_writing_atomically_replaces_whole_files(tmp_path):
    path = tmp_path / "folder" / "table.csv"
    write_atomically(path, "one\n")
    write_atomically(path, "two\n")
    assert path.read_bytes() == b"two\n"
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]
