"""The paper's tables: what it prints, what is planned and shared, what a verdict is, what is written."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import harness.core.environment
import harness.data.splits
import harness.runs.run
from assigners import registry
from harness.cli import main
from harness.comparison.intervals import Gap, Interval
from harness.core.errors import RunFailed, UserError
from harness.paper import outcome, scales
from harness.paper.outcome import verdict
from harness.paper.planning import NOT_REGISTERED, plan_table
from harness.paper.published import METRICS, published
from harness.paper.rows import TABLES, table
from harness.paper.scales import SCALES, scale
from harness.protocol.protocol import load_protocol
from harness.records.identity import RunSpec, data_record
from harness.records.store import ResultsStore
from harness.runs.run import RunOutcome
from harness.training.build import resolve_assigner
from tests.support.fakes import MemorySet, make_record, objects


def splits(source):
    return [MemorySet([objects()] * 4, split=split, checksum=f"{source} {split}") for split in ("train", "val")]


def data_of(source="shapes"):
    return data_record(source.partition(":")[0], *splits(source))


LENGTHS = {1: 5, 2: 5, 3: 6, 4: 3, 5: 5, 6: 4, 7: 19, 8: 8}
REGISTERED = {entry.name for entry in registry.catalogue()}


# --- what the paper prints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "length"), LENGTHS.items())
def test_published_tables_are_whole_and_consistent(number, length):
    rows = published(number)
    assert list(rows) == [str(row) for row in range(1, length + 1)]
    for row in rows.values():
        known = row.metrics
        assert row.method
        assert row.split
        assert all(0 < value < 100 for value in known.values())
        assert list(known) == [name for name in METRICS if name in known]
        if "AP" in known:
            assert known["AP75"] >= known["AP"] - 1  # AP is a mean over thresholds from .5 on
            assert known["AP50"] >= known["AP"]
            assert known["AP50"] >= known["AP75"]
        if "APl" in known:
            assert known["APs"] < known["APm"] < known["APl"]


def test_lost_cells_stay_empty_and_say_so():
    lost = {(number, row.row) for number in LENGTHS for row in published(number).values() if "AP" not in row.metrics}
    assert lost == {(1, "1"), (1, "2")}
    assert published(1)["1"].metrics == {"AP75": 41.7}
    assert "lost" in published(1)["1"].note
    assert "lost" in published(1)["2"].note
    assert published(7)["13"].metrics == published(7)["9"].metrics
    assert "row 9" in published(7)["13"].note


def test_the_final_method_is_the_same_row_in_every_ablation():
    final = {(1, "5"), (3, "3"), (3, "5"), (4, "3"), (5, "3"), (6, "4")}
    assert {tuple(published(n)[row].metrics.items())[:3] for n, row in final} == {
        (("AP", 41.1), ("AP50", 58.9), ("AP75", 44.8))
    }


@pytest.mark.parametrize("content", [None, "a,b\n1,2\n", "\x00"])
def test_a_published_table_that_is_none_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "table4.csv").write_text(content)
    with pytest.raises(UserError, match=r"table4\.csv"):
        published(4, tmp_path)


# --- rows and scales ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", LENGTHS)
def test_every_published_row_is_a_row_to_run(number):
    rows = TABLES[number].rows
    assert list(dict.fromkeys(row.published for row in rows)) == list(published(number))
    assert {row.reference for row in rows} <= {row.name for row in rows}
    for row in rows:
        name, options = registry.parse_spec(row.assigner)
        if name in REGISTERED:
            resolve_assigner(name, options)  # raises for options that are none


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("number", LENGTHS)
def test_every_row_has_a_protocol_at_every_scale(number, name):
    made = scale(name)
    if number == 7 and not made.backbones:
        with pytest.raises(UserError, match="no table 7"):
            made.overrides(TABLES[7].rows[0], made.origin(TABLES[7], "coco"))
        return
    kinds = {"coco"} if number != 8 else {"voc", "wider"}
    for kind in kinds if made.full else {*made.protocols}:
        origin = made.origin(TABLES[number], kind)
        base = load_protocol(origin)
        for row in TABLES[number].rows:
            changed = load_protocol(origin, made.overrides(row, origin))
            assert changed.schedule == base.schedule
            assert changed.data == base.data
            assert changed.model.deformable_stages == ((3, 4, 5) if row.deformable else ())
            assert bool(changed.evaluation.test_scales) >= row.multi_scale


def test_test_scales_follow_the_protocol_below_the_papers_size():
    row = TABLES[7].row("17")
    assert "evaluation.test_scales=[96,128,160]" in scale("cpu").overrides(row, "shapes-cpu")
    assert load_protocol("shapes-cpu", scale("cpu").overrides(row, "shapes-cpu")).evaluation.test_flip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: table("9"), "no table '9'"),
        (lambda: table("four"), "no table 'four'"),
        (lambda: table("-1"), "no table '-1'"),
        (lambda: scale("gpu"), "unknown scale 'gpu', did you mean 'cpu'"),
        (lambda: table("4").row("4"), "table 4 has no row '4'; its rows: 1, 2, 3"),
    ],
)
def test_what_there_is_not_is_told(make, message):
    with pytest.raises(UserError) as mistake:
        make()
    assert message in str(mistake.value)
    assert "\n" not in str(mistake.value)


# --- verdicts ----------------------------------------------------------------------------------------------------


def gained(mean, half=None, seeds=3):
    low, high, p = (mean - half, mean + half, 0.04) if half is not None else (None, None, None)
    return Gap(mean, low, high, p, seeds, 2.0, None, None)


@pytest.mark.parametrize(
    ("paper", "ours", "wanted"),
    [
        (0.7, gained(2.0, 1.0), outcome.SAME),
        (-0.7, gained(-2.0, 1.0), outcome.SAME),
        (0.7, gained(-2.0, 1.0), outcome.OPPOSITE),
        (-0.7, gained(2.0, 1.0), outcome.OPPOSITE),
        (0.7, gained(2.0, 2.5), outcome.UNCLEAR),
        (0.7, gained(2.0, 2.0), outcome.UNCLEAR),  # zero itself is in the interval
        (0.7, gained(2.0), outcome.UNCLEAR),  # one seed, no replicates
        (0.7, gained(2.0, 1.0, seeds=1), outcome.UNCLEAR),  # the images alone: another training may say otherwise
        (0.0, gained(2.0, 1.0), outcome.NO_GAP),
        (0.0, gained(0.5, 1.0), outcome.UNCLEAR),
        (None, gained(2.0, 1.0), outcome.LOST),
        (None, None, outcome.REFERENCE),
        (0.0, None, outcome.REFERENCE),
    ],
)
def test_a_verdict_is_of_the_gain(paper, ours, wanted):
    assert verdict(paper, ours) == wanted


@pytest.mark.parametrize(
    ("interval", "wanted"),
    [
        (Interval(40.9, 40.5, 41.3, 3), outcome.WITHIN),
        (Interval(40.9, 40.7, 41.0, 3), outcome.SAME),
        (Interval(41.1, None, None, 1), outcome.SAME),  # a single run has no interval to hold anything
    ],
)
def test_where_numbers_may_be_compared_they_come_first(interval, wanted):
    assert verdict(0.7, gained(2.0, 1.0), (41.1, interval)) == wanted


# --- on the command line, with the engine's place taken by one that makes records up -------------------------------


class Engine:
    """Notes what it is asked for, fails where it is told to, and saves made-up records."""

    def __init__(self):
        self.asked, self.requests, self.aps, self.failing = [], [], {}, set()

    def run(self, request):
        chosen = resolve_assigner(request.assigner, request.options)
        options, changed = chosen.options, chosen.changed
        words = (request.assigner, *(f"{key}={value}" for key, value in changed.items()))
        self.asked.append((*words, request.seed))
        self.requests.append(request)
        if (request.assigner, request.seed) in self.failing:
            raise RunFailed("loss is not finite at step 3")
        data = data_of(request.data)
        spec = RunSpec(request.protocol, data, request.assigner, options, request.seed)
        store = ResultsStore(request.results)
        ap = self.aps.get(request.assigner, 30.0) + request.seed
        record = make_record(
            request.protocol, assigner=request.assigner, options=options, seed=request.seed, run_id=spec.run_id,
            data=data, changed_options=changed, command=request.command, ap=ap,
        )  # fmt: skip
        return RunOutcome(record, store.save(record), store.folder(record.run_id).path, store.root / "leaderboard.csv")


@pytest.fixture
def engine(monkeypatch):
    made = Engine()
    monkeypatch.setattr(harness.runs.run, "run", made.run)
    monkeypatch.setattr(harness.data.splits, "open_splits", lambda source, _: splits(source))
    monkeypatch.setattr(harness.core.environment, "environment", lambda _: {"device": "a processor"})
    return made


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, ["table", *map(str, words)])


def written(name="table-4-cpu", results="results"):
    text = (Path(results) / "tables" / f"{name}.csv").read_text()
    return {row["row"]: row for row in csv.DictReader(io.StringIO(text))}


def test_a_table_is_run_written_and_resumed(call, engine):
    engine.aps = {"uniform": 40.0, "qd": 40.5, "iqdet": 43.0}
    result = call(4, "--seeds", 2, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert engine.asked == [(name, seed) for seed in (0, 1) for name in ("uniform", "qd", "iqdet")]
    assert {request.protocol.digest for request in engine.requests} == {"623bec5995cf"}
    rows = written()
    assert [(row["AP"], row["paper_AP"], row["gain"]) for row in rows.values()] == [
        ("40.50", "40.4", ""),
        ("41.00", "40.8", "0.50"),
        ("43.50", "41.1", "3.00"),
    ]
    # Equal differences at both seeds leave no doubt.
    assert [row["verdict"] for row in rows.values()] == [outcome.REFERENCE, outcome.SAME, outcome.SAME]
    assert rows["2"]["paper_gain"] == "0.4"
    assert rows["3"]["run_ids"].split() == sorted(rows["3"]["run_ids"].split())

    before = {path.name: path.read_bytes() for path in Path("results/tables").iterdir()}
    again = call(4, "--seeds", 2, "--threads", 1)
    assert again.exit_code == 0
    assert len(engine.asked) == 6
    assert {path.name: path.read_bytes() for path in Path("results/tables").iterdir()} == before
    assert not [name for name in before if name.endswith(".tmp")]


def test_the_markdown_says_what_it_is(call, engine):
    engine.aps = {"iqdet": 43.0}
    call(4, "--seeds", "0,2")
    text = Path("results/tables/table-4-cpu.md").read_text()
    lines = text.splitlines()
    assert lines[0] == "# Table 4 at scale cpu: sampling strategies"
    assert lines[2].startswith("| row | method | setting | paper AP |")
    assert len({line.count(" | ") for line in lines[2:7]}) == 1  # every row has every cell
    assert "| 3 | QD (ours) | draws from the quality distribution, bilinear | 41.1 | 58.9 | 44.8 |" in text
    assert "| 44.0 ± 12.7 |" in text
    assert "| +0.7 | +13.0 [+13.0, +13.0] | same direction | `iqdet` |" in text
    assert "protocol shapes-cpu on memory; seeds 0, 2" in text
    assert "Compare gains alone" in text


def test_runs_are_shared_between_rows_and_tables(call, engine):
    assert call(1, "--seeds", 1).exit_code == 0
    assert engine.asked == [("center", 0), ("center", 0), ("uniform", 0), ("uniform_center", 0), ("iqdet", 0)]
    qualities = [request.protocol.model.quality for request in engine.requests]
    assert qualities == ["centerness", "iou", "iou", "iou", "iou"]
    assert engine.requests[0].command.endswith("--set model.quality=centerness")
    before = len(engine.asked)
    call(2, "--seeds", 1)
    assert engine.asked[before:] == [("fixed_qd", 0), ("iqdet", "learn=mu", 0), ("iqdet", "learn=mu_sigma", 0)]
    before = len(engine.asked)
    call(4, "--seeds", 1)
    assert engine.asked[before:] == [("qd", 0)]
    before = len(engine.asked)
    assert call(3, "--seeds", 1).exit_code == 0
    assert len(engine.asked) == before + 4  # of six rows, two are the run that is there
    rows = written("table-3-cpu")
    assert rows["5"]["verdict"] == rows["3"]["verdict"] == outcome.REFERENCE
    assert rows["5"]["run_ids"] == rows["3"]["run_ids"]


def test_the_gains_of_table_1_are_over_the_number_of_table_2(call, engine):
    call(1, "--seeds", 1)
    rows = written("table-1-cpu")
    assert [row["paper_gain"] for row in rows.values()] == ["", "", "1.7", "0.9", "2.4"]
    assert rows["1"]["paper_AP"] == rows["2"]["paper_AP"] == ""
    assert rows["2"]["verdict"] == outcome.LOST


def test_a_record_from_before_an_option_counts(call, engine):
    options = resolve_assigner("iqdet", {}).options
    del options["learn"], options["extractor"]
    protocol = load_protocol("shapes-cpu")
    run_id = RunSpec(protocol, data_of(), "iqdet", options, 0).run_id
    old = make_record(protocol, assigner="iqdet", options=options, data=data_of(), ap=55.0, run_id=run_id)
    ResultsStore(Path("results")).save(old)
    assert call(4, "--seeds", 1).exit_code == 0
    assert engine.asked == [("uniform", 0), ("qd", 0)]
    assert written()["3"]["AP"] == "55.00"
    assert written()["3"]["run_ids"] == old.run_id


def test_rows_alone_are_run_and_the_others_shown_as_they_are(call, engine):
    result = call(4, "--seeds", 1, "--only", "3")
    assert result.exit_code == 0, result.output
    assert engine.asked == [("iqdet", 0)]
    rows = written()
    assert [row["verdict"] for row in rows.values()] == [outcome.INCOMPLETE] * 3
    assert rows["1"]["AP"] == ""
    assert call(4, "--seeds", 1, "--only", "1,2", "--only", "2").exit_code == 0
    assert engine.asked[1:] == [("uniform", 0), ("qd", 0)]
    assert written()["3"]["gain"] == "0.00"


def test_a_missing_run_is_told_and_marked(call, engine):
    engine.failing = {("qd", 1)}
    result = call(4, "--seeds", 2)
    assert result.exit_code == 1
    assert "missing  row 2 (qd) seed 1\n" in result.output
    assert "failed   qd seed 1\n" in result.output
    assert "again    harness table 4 --seeds 2 --rerun failed\n" in result.output
    assert "| 1 of 2 |" in Path("results/tables/table-4-cpu.md").read_text()
    assert [row["verdict"] for row in written().values()] == [outcome.REFERENCE, outcome.INCOMPLETE, outcome.UNCLEAR]
    engine.failing = set()
    assert call(4, "--seeds", 2).exit_code == 1  # what failed is not run again unasked
    assert len(engine.asked) == 6
    assert call(4, "--seeds", 2, "--rerun", "failed").exit_code == 0
    assert engine.asked[6:] == [("qd", 1)]


def test_an_assigner_to_come_says_so_and_runs_by_itself_once_it_is_there(call, engine, monkeypatch):
    row = replace(TABLES[4].rows[1], assigner="atss_to_come")
    monkeypatch.setitem(TABLES, 4, replace(TABLES[4], rows=(TABLES[4].rows[0], row, TABLES[4].rows[2])))
    result = call(4, "--seeds", 1)
    assert result.exit_code == 0, result.output
    assert written()["2"]["verdict"] == NOT_REGISTERED
    entry = replace(registry.find("atss"), name="atss_to_come")
    monkeypatch.setattr(registry, "_BUILTIN", (*registry._BUILTIN, entry))
    assert call(4, "--seeds", 1).exit_code == 0
    assert engine.asked[-1] == ("atss_to_come", 0)
    assert written()["2"]["AP"] == "30.00"


def test_a_plan_tells_what_is_done_missing_and_what_it_costs(call, engine):
    call(4, "--seeds", 1, "--only", 3)
    result = call(4, "--seeds", 2, "--dry-run", "--json")
    rows = json.loads(result.stdout)["rows"]
    assert [row["states"]["done"] for row in rows] == [0, 0, 1]
    assert [row["to_run"] for row in rows] == [2, 2, 1]
    assert rows[2]["seconds"] == pytest.approx(5.0 + 5 * 3.0 / 1000, abs=0.1)
    assert len(engine.asked) == 1
    assert not json.loads(call(7, "--dry-run", "--json").stdout)["rows"][0]["seconds"]


def test_the_papers_table_7_is_planned_without_its_data(call, engine):
    result = call(7, "--scale", "paper", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert len(rows) == 19
    assert [row["row"] for row in rows] == list(published(7))
    assert {row["remark"] for row in rows[:16]} <= {NOT_REGISTERED, "needs --data coco:DIR"}
    assert [row["remark"] for row in rows[16:]] == [
        f"needs --data coco:DIR; evaluated alone, on the weights of row {giver}" for giver in (14, 15, 16)
    ]
    assert [row["evaluated_alone"] for row in rows] == [0] * 16 + [3] * 3
    assert all(row["seconds"] is None for row in rows)
    assert len({row["protocol"]["hash"] for row in rows}) == 4
    assert "unknown" in call(7, "--scale", "paper", "--dry-run").stdout


def test_rows_at_several_scales_are_planned_as_evaluations_of_what_is_trained_once(call, engine):
    rows = {row["row"]: row for row in plan_of_7(call)}
    assert [rows[name]["evaluated_alone"] for name in rows] == [0] * 16 + [1] * 3
    assert "57 runs" in call(7, "--dry-run").stdout
    assert "; 9 of them only evaluated, on the weights of others; " in call(7, "--dry-run").stdout
    # Alone they train: nothing of what they test is there, nor will be.
    rows = {row["row"]: row for row in plan_of_7(call, "--only", "16,17")}
    assert [rows[name]["evaluated_alone"] for name in ("16", "17")] == [0, 0]

    assert call(7, "--seeds", 1, "--only", 14).exit_code == 0
    assert {row["row"]: row for row in plan_of_7(call)}["17"]["evaluated_alone"] == 0  # a record without its weights
    store = ResultsStore(Path("results"))
    (record,) = store.load_all()[0]
    folder = store.folder(record.run_id)
    for path in (folder.network, folder.trace):
        path.write_bytes(b"")
    row = {row["row"]: row for row in plan_of_7(call)}["17"]
    assert row["remark"].startswith("evaluated alone, on the weights of row 14; per tested pixel as in 1 run of atss")
    # Three scales of 3/4, 1 and 5/4, each mirrored too, and five images at 3 ms; the training's 5 s are not counted.
    passes = 2 * (96**2 + 128**2 + 160**2) / 128**2
    assert row["seconds"] == pytest.approx(data_of().val.images * 0.003 * passes)


def plan_of_7(call, *words):
    return json.loads(call(7, "--seeds", 1, "--dry-run", "--json", *words).stdout)["rows"]


def test_a_probe_is_the_smallest_run_of_each_row_and_tells_a_plan_its_cost(call, engine):
    words = (7, "--scale", "paper", "--data", "coco:some")
    result = call(*words, "--only", "1,7,12", "--probe", "--json")
    assert result.exit_code == 0, result.output
    assert engine.asked == [("center", 0), ("center", 0), ("iqdet", 0)]
    assert {request.results for request in engine.requests} == {Path("results/probes")}
    for request in engine.requests:
        assert request.protocol.schedule.steps == 2
        assert request.protocol.data.val_images == 1
        assert not request.protocol.model.pretrained
        assert request.protocol.data.short_edge == 800
    assert [request.protocol.model.backbone.partition(".")[0] for request in engine.requests] == [
        "resnet101", "resnext101_64x4d", "resnext101_64x4d",
    ]  # fmt: skip
    assert set(json.loads(result.stdout)["rows"]) == {"1", "7", "12"}
    assert not Path("results/tables").exists()

    rows = {row["row"]: row for row in json.loads(call(*words, "--dry-run", "--json").stdout)["rows"]}
    assert {rows[name]["states"]["done"] for name in rows} == {0}  # a probe answers nothing
    assert rows["1"]["seconds"] == pytest.approx(3 * (180_000 * 16 * 0.01234 + 4 * 0.003), rel=1e-6)
    assert rows["11"]["remark"] == "per image as in 2 runs of other assigners"  # of the same network
    assert rows["14"]["seconds"] is None  # deformable: nothing like it was probed

    again = call(*words, "--only", "1,7,12", "--probe")
    assert again.exit_code == 0
    assert len(engine.asked) == 3
    engine.failing = {("atss", 0)}
    failed = call(*words, "--only", "4", "--probe")
    assert failed.exit_code == 1
    assert "missing  rows 4 (failed)" in failed.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["9"], "no table '9'; the paper's tables are 1 to 8"),
        (["4", "--scale", "papr"], "did you mean 'paper'"),
        (["4", "--only", "7"], "table 4 has no row '7'"),
        (["4", "--seeds", "0"], "seeds: must be a count"),
        (["4", "--seeds", "x"], "neither a count"),
        (["4", "--rerun", "sometimes"], "rerun"),
        (["1", "--scale", "paper"], "rows 1, 2, 3, 4, 5 need data of their own; add --data coco:DIR"),
        (["1", "--scale", "paper", "--data", "shapes"], "scale paper has no protocol for shapes data"),
        (["8"], "add --data voc:DIR --data wider:DIR"),
        (["8", "--data", "voc:x"], "add --data wider:DIR, or leave them out with --only 1,2,3,4"),
        (["8", "--data", "coco:x"], "table 8 is about voc and wider data, not coco"),
        (["8", "--data", "voc:x", "--data", "voc:y"], "one kind twice"),
        (["4", "--data", "voc:x", "--data", "coco:y"], "made on one data set"),
    ],
)
def test_a_mistake_is_one_line(call, engine, words, message):
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not engine.asked


def test_table_8_runs_on_both_data_sets(call, engine):
    result = call(8, "--seeds", 1, "--data", "voc:VOCdevkit", "--data", "wider:wider", "--json")
    assert result.exit_code == 0, result.output
    assert [request.data for request in engine.requests] == ["voc:VOCdevkit"] * 4 + ["wider:wider"] * 4
    assert {request.protocol.name for request in engine.requests} == {"small"}
    assert [row["reference"] for row in json.loads(result.stdout)["rows"]] == ["1"] * 4 + ["5"] * 4


def test_other_data_make_another_file(call, engine):
    call(4, "--seeds", 1, "--data", "coco:somewhere")
    assert {request.protocol.name for request in engine.requests} == {"small"}
    assert written("table-4-cpu-coco")


def test_no_table_mixes_protocols(tmp_path, engine):
    for number in LENGTHS:
        sources = ["voc:x", "wider:y"] if number == 8 else []
        plan = plan_table(
            TABLES[number], SCALES["cpu"], (0,), ResultsStore(tmp_path), lambda *_: "", sources=sources
        )  # fmt: skip
        for planned in plan.rows:
            base = load_protocol(planned.place.origin).content()
            allowed = {text.partition("=")[0] for text in planned.tuning.overrides}
            for section, values in planned.protocol.content().items():
                changed = {key for key, value in values.items() if base[section].get(key) != value}
                assert {f"{section}.{key}" for key in changed} <= allowed
            assert {run.spec.protocol for run in planned.runs} <= {planned.protocol}


LEAST = """
[data]
train_images = 4
val_images = 2
short_edge = 64
long_edge = 64
[model]
backbone = "test_resnet"
channels = 8
head_depth = 1
[schedule]
optimizer = "adamw"
lr = 1e-3
batch_size = 2
steps = 2
warmup_steps = 1
[evaluation]
score_threshold = 0.0
"""


def test_a_real_table_end_to_end(tmp_path, monkeypatch):
    protocol = tmp_path / "least.toml"
    protocol.write_text(LEAST)
    monkeypatch.setitem(scales.SCALES, "cpu", replace(SCALES["cpu"], protocols={"shapes": str(protocol)}))
    monkeypatch.chdir(tmp_path)
    words = ["table", "4", "--seeds", "2", "--device", "cpu", "--threads", "1", "--workers", "0", "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert [len(row["run_ids"]) for row in values["rows"]] == [2, 2, 2]
    assert {row["verdict"] for row in values["rows"]} <= {outcome.REFERENCE, *outcome.VERDICTS} - {outcome.INCOMPLETE}
    assert all(Path(path).exists() for path in values["files"].values())
    assert len(list(Path("results/runs").glob("*.json"))) == 6
    commands = {record.command for record in ResultsStore(Path("results")).load_all()[0]}
    assert "harness run --assigner qd --data shapes --protocol least.toml --seed 1 --threads 1 --device cpu" in commands


def test_a_real_table_7_trains_once_and_tests_twice(tmp_path, monkeypatch):
    protocol = tmp_path / "least.toml"
    protocol.write_text(LEAST)
    least = replace(
        SCALES["cpu"], protocols={"shapes": str(protocol)}, backbones={"resnext101_64x4d": "test_resnet"},
        test_scales=(64, 96),
    )  # fmt: skip
    monkeypatch.setitem(scales.SCALES, "cpu", least)
    rows = [replace(row, backbone=row.backbone and "resnext101_64x4d", deformable=False) for row in TABLES[7].rows]
    monkeypatch.setitem(TABLES, 7, replace(TABLES[7], rows=tuple(rows)))
    monkeypatch.chdir(tmp_path)
    words = ["table", "7", "--seeds", "1", "--only", "14,16,17,19", "--device", "cpu", "--threads", "1"]
    planned = CliRunner().invoke(main, [*words, "--dry-run", "--json"])
    assert [row["evaluated_alone"] for row in json.loads(planned.stdout)["rows"][13:]] == [0, 0, 0, 1, 0, 1]
    result = CliRunner().invoke(main, [*words, "--workers", "0"])
    assert result.exit_code == 0, result.output
    ids = {name: row["run_ids"] for name, row in written("table-7-cpu").items()}
    records = {record.run_id: record for record in ResultsStore(Path("results")).load_all()[0]}
    assert len(records) == 4
    for trained, tested in (("14", "17"), ("16", "19")):
        assert "trained_as" not in records[ids[trained]].progress
        assert records[ids[tested]].progress["trained_as"] == ids[trained]
    assert result.output.count("trained as") == 2
