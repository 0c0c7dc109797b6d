"""Boards: what stands beside what, what it is called, and what may be compared."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from harness.cli import main
from harness.comparison.board import boards, parts
from harness.comparison.pair import compare, differing_keys
from harness.core.errors import UserError
from harness.protocol.protocol import load_protocol
from harness.records.details import Trace, learning_curves, load_details, save_details
from harness.records.store import ResultsStore
from tests.support.fakes import changed, data_part, make_details, make_record

DAY = "2026-01-{:02d}T00:00:00Z"


@pytest.fixture
def tiny():
    return load_protocol("tiny")


def details_of(record, noise=0.0, seed=0):
    """Replicates around the record's AP with image noise that is the same for every run."""
    shared = np.random.default_rng(0).normal(0, 1, 200)
    own = np.random.default_rng(seed).normal(0, noise, 200) if noise else 0
    return make_details(record, (record.metrics.AP + shared + own).tolist())


def runs(protocol, **aps):
    seeded = ((name, seed, ap) for name, values in aps.items() for seed, ap in enumerate(values))
    return [make_record(protocol, assigner=name, seed=seed, ap=ap) for name, seed, ap in seeded]


# ---- what stands beside what ----------------------------------------------------------------------------------------


def test_best_mean_first_and_undefined_last(tiny):
    records = runs(tiny, center=(30.0, 31.0, 32.0), atss=(35.0, 33.0), paa=(None,))
    (board,) = boards(records, {})
    assert [entry.name for entry in board.entries] == ["atss", "center", "paa"]
    assert [entry.mean("AP") for entry in board.entries] == [34.0, 31.0, None]
    assert board.entry("center").seeds == (0, 1, 2)
    assert set(board.gaps) == {("atss", "center")}
    assert board.gaps["atss", "center"].mean == pytest.approx(((35 - 30) + (33 - 31)) / 2)


def test_hashes_decide_what_is_one_question(tiny):
    renamed = tiny.model_copy(update={"name": "another name"})
    other = load_protocol("tiny", ("schedule.steps=7",))
    moved = data_part(val={"checksum": "33"})
    records = [
        make_record(tiny), make_record(renamed, assigner="atss"), make_record(other, assigner="paa"),
        make_record(tiny, assigner="qd", run_id="elsewhere", data=moved),
    ]  # fmt: skip
    found = [{entry.name for entry in board.entries} for board in boards(records, {})]
    assert sorted(map(sorted, found)) == [["atss", "center"], ["paa"], ["qd"]]


def test_the_newest_run_names_the_question(tiny):
    renamed = tiny.model_copy(update={"name": "another name"})
    first, last = make_record(tiny), make_record(renamed, assigner="atss", created=DAY.format(9))
    for records in ([first, last], [last, first]):
        (board,) = boards(records, {})
        assert board.question.protocol == "another name"


def test_declared_extras_are_on_a_board_of_their_own(tiny):
    voting = make_record(tiny, assigner="paa", declares={"score_voting": True}, options={"score_voting": True})
    found = boards([make_record(tiny), voting], {})
    assert [(board.kind, [entry.name for entry in board.entries]) for board in found] == [
        ("fair", ["center"]),
        ("extended", ["paa"]),
    ]
    with pytest.raises(UserError, match=r"center and paa are not compared.*score_voting.*extended board"):
        compare(found, "center", "paa")


def test_an_old_default_shows_as_the_option_that_it_is_now(tiny):
    def run(value, changed, day, seed):
        return make_record(
            tiny, assigner="iqdet", options={"gate": value, "k": 12}, changed_options=changed, seed=seed,
            created=DAY.format(day),
        )  # fmt: skip

    old = [run("grid", {}, 1, seed) for seed in (0, 1)] + [run("cell", {"gate": "cell"}, 2, 0)]
    (before,) = boards(old, {})
    assert {entry.name for entry in before.entries} == {"iqdet", "iqdet[gate=cell]"}
    (after,) = boards([*old, run("cell", {}, 3, 1)], {})
    assert {entry.name: entry.seeds for entry in after.entries} == {"iqdet[gate=grid]": (0, 1), "iqdet": (0, 1)}


def test_letters_and_the_smallest_gap(tiny):
    records = runs(tiny, paa=(50.0, 50.2, 49.8), atss=(49.9, 50.1, 50.0), center=(20.1, 19.9, 20.0))
    (board,) = boards(records, {})
    groups = dict(zip((entry.name for entry in board.entries), board.letters, strict=True))
    assert set(groups["paa"]) & set(groups["atss"])
    assert not set(groups["paa"]) & set(groups["center"])
    assert 0 < board.smallest < 5


# ---- two side by side -----------------------------------------------------------------------------------------------


def test_the_interval_holds_training_and_images(tiny):
    records = runs(tiny, atss=(35.0, 36.1, 35.2), center=(33.0, 34.2, 33.5))
    (alone,) = compare(boards(records, {}), "atss", "center")
    details = {record.run_id: details_of(record, noise=0.5, seed=n) for n, record in enumerate(records)}
    (both,) = compare(boards(records, details), "atss", "center")
    assert alone.gaps["AP"].mean == both.gaps["AP"].mean == pytest.approx((2.0 + 1.9 + 1.7) / 3)
    assert alone.gaps["AP"].se_image is None
    # The shared image noise cancels; what is left is each run's own, over three seeds.
    assert both.gaps["AP"].se_image == pytest.approx(0.5 * 2**0.5 / 3**0.5, rel=0.4) or both.gaps["AP"].se_image < 0.5
    assert both.gaps["AP"].se_image < 0.8


def test_two_protocols_are_refused_with_the_keys_that_differ(tiny):
    other = load_protocol("tiny", ("schedule.steps=7", "loss.gamma=1.5"))
    with pytest.raises(UserError, match=r"loss\.gamma 2\.0 / 1\.5, schedule\.steps \d+ / 7") as caught:
        compare(boards([make_record(tiny), make_record(other, assigner="atss")], {}), "center", "atss")
    assert "\n" not in str(caught.value)


def test_what_is_no_entry(tiny):
    found = boards(runs(tiny, center=(1.0,), atss=(2.0,)), {})
    with pytest.raises(UserError, match="no finished run of 'atsss', did you mean 'atss'"):
        compare(found, "atsss", "center")
    with pytest.raises(UserError, match="the same entry"):
        compare(found, "center", "center[radius=1.50]")


def test_entries_by_name_by_default_and_by_run(tiny):
    records = [
        make_record(tiny, options={"radius": 1.5}, ap=1.0),
        make_record(tiny, options={"radius": 2.5}, changed_options={"radius": 2.5}, ap=2.0),
    ]
    found = boards(records, {})
    for wanted in ("center[radius=2.5]", records[1].run_id):
        (comparison,) = compare(found, wanted, "center")
        assert comparison.gaps["AP"].mean == 1.0


def test_differing_keys():
    found = differing_keys({"a": {"b": 1, "c": 2}, "d": 1}, {"a": {"b": 1, "c": 3}})
    assert list(found) == [("a.c", 2, 3), ("d", 1, None)]


def test_the_verb(tiny, tmp_path):
    store = ResultsStore(tmp_path)
    for record in runs(tiny, atss=(35.0, 36.1, 35.2), center=(33.0, 34.2, 33.5)):
        store.save(record)
        save_details(store, details_of(record))
    answer = CliRunner().invoke(main, ["compare", "atss", "center", "--results", str(tmp_path), "--json"])
    assert answer.exit_code == 0, answer.output
    (comparison,) = json.loads(answer.stdout)
    assert comparison["gaps"]["AP"]["mean"] == pytest.approx(1.866, abs=1e-3)
    assert comparison["verdict"].startswith("atss is ahead of center by")
    shown = CliRunner().invoke(main, ["compare", "center", "atss", "--results", str(tmp_path)]).output
    assert "verdict: atss is ahead of center" in shown
    assert "-1.87" in shown
    refused = CliRunner().invoke(main, ["compare", "atss", "nobody", "--results", str(tmp_path)])
    assert refused.exit_code == 2
    assert refused.output.count("\n") == 1


def test_gaps_by_the_shape_of_objects(tiny):
    records = runs(tiny, atss=(35.0, 36.0), center=(33.0, 34.0), paa=(30.0, 31.0))
    parts = ("[0, 0.1)", "[0.1, 0.25)", "[0.25, inf)")
    known = {"atss": ((40, 30, None), (42, 31, 20)), "center": ((39, 20, 10), (40, 21, 11))}

    def binned(record):
        rows = known.get(record.assigner, [(None,) * 3] * 2)[record.seed]
        bins = {
            name: {"count": 3, "recall": 50.0, "mean_iou": 0.5} | ({} if ap is None else {"AP": float(ap)})
            for name, ap in zip(parts, rows, strict=True)
        }
        return changed(record, metrics={"bins": {"eccentricity": bins}})

    found = boards([binned(record) for record in records], {})
    (comparison,) = compare(found, "atss", "center")
    means = {name: gap.mean for name, gap in comparison.gaps.items() if "eccentricity" in name}
    assert means == {
        "AP, eccentricity [0, 0.1)": 1.5, "AP, eccentricity [0.1, 0.25)": 10.0, "AP, eccentricity [0.25, inf)": 9.0,
        "AP, eccentricity [0.25, inf) minus [0, 0.1)": 7.0,
    }  # fmt: skip
    (comparison,) = compare(found, "atss", "paa")
    assert not any("eccentricity" in name for name in comparison.gaps)


# ---- details --------------------------------------------------------------------------------------------------------


def test_broken_details_are_named_and_left_out(tiny, tmp_path):
    store = ResultsStore(tmp_path)
    good, bad, foreign = runs(tiny, center=(1.0, 2.0, 3.0))
    save_details(store, details_of(good))
    path = save_details(store, details_of(bad))
    path.write_text(path.read_text()[:-40])
    moved = save_details(store, details_of(foreign))
    moved.write_text(moved.read_text().replace(foreign.run_id, good.run_id))
    found, problems = load_details(store, [record.run_id for record in (good, bad, foreign)])
    assert set(found) == {good.run_id}
    assert len(problems) == 2
    assert all("harness eval" in problem and "\n" not in problem for problem in problems)


def test_learning_curves_are_means_over_equal_stretches(tmp_path):
    trace = tmp_path / "metrics.jsonl"
    late = [None if n < 10 else 1.0 for n in range(1000)]
    lines = [{"step": n, "losses": {"box": float(n)}, "statistics": {"iq": iq}} for n, iq in enumerate(late)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = learning_curves(trace)
    assert len(curves.step) == 100
    assert curves.losses["box"][:2] == [4.5, 14.5]
    assert curves.statistics["iq"][:2] == [None, 1.0]
    assert learning_curves(tmp_path / "none") == Trace(step=[])


def test_variants_stand_beside_their_own_default_and_cost_the_others_nothing(tiny):
    def run(assigner, ap, seed, **changed):
        options = {"k": 1, **changed}
        return make_record(tiny, assigner=assigner, ap=ap, seed=seed, options=options, changed_options=changed)

    usual = [run(name, ap + seed / 10, seed) for name, ap in (("atss", 40.0), ("center", 20.0)) for seed in (0, 1, 2)]
    (alone,) = boards(usual, {})
    assert parts(alone) == [alone]
    varied = [run("atss", 40.0 + k / 100, seed, k=k) for k in range(2, 12) for seed in (0, 1, 2)]
    defaults, variants = parts(boards([*usual, *varied], {})[0])
    assert [entry.name for entry in defaults.entries] == ["atss", "center"]
    assert defaults.letters == alone.letters
    assert defaults.told_apart == {("atss", "center")}
    assert {entry.assigner for entry in variants.entries} == {"atss"}
    assert {"atss", "atss[k=2]"} <= {entry.name for entry in variants.entries}
    assert (defaults.part, variants.part) == ("defaults", "variants")


def test_one_seed_tells_nobody_apart_however_sure_the_images_are(tiny):
    records = runs(tiny, atss=(60.0,), center=(20.0,))
    details = {record.run_id: details_of(record, noise=0.1, seed=n) for n, record in enumerate(records)}
    (board,) = boards(records, details)
    assert board.gaps["atss", "center"].p < 1e-6
    assert not board.told_apart
    assert board.letters == ("a", "a")
