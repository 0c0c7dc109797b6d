"""``harness verify``: it passes what is sound, finds what is not, and knows a user's mistake from a defect."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from assigners.contract import HeadInfo
from harness.cli import main
from harness.core.errors import UserError
from harness.verify.checks.catalogue import CHECKS, EXAMPLES, run_check
from harness.verify.published.cases import golden_files, hard_assignment, read_case
from harness.verify.published.compare import compare
from harness.verify.published.peers import PEERS, ZOO
from harness.verify.subject import find_subject
from tests.support.runs import environment

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SMALL = "p01_one_256.npz"
FEW = (SMALL, "p02_empty_256.npz", "p12_aligned_320.npz")  # the oracles' own tests look at all
QUICK = ("--examples", "1")

# A sound third-party assigner, and what is changed to break it.
OWN = """
import torch
from assigners import Assigner, Assignment, HeadInfo, Samples
from assigners.rules.center import CenterSampling
from assigners.parts.negatives import negatives_outside_ignore


class Own(Assigner):
    def __init__(self, head: HeadInfo, *, radius: float = 1.5) -> None:
        super().__init__()
        self.rule = CenterSampling(head, radius=radius)

    def forward(self, grid, targets, predictions, step):
        answer = self.rule(grid, targets, predictions, step)
        samples, negative = answer.samples, answer.negative_weight
        # HERE
        return Assignment(samples, negative)
"""

LOOP = """
negative = torch.ones_like(negative)
for box in range(targets.num_boxes):
    negative[targets.image[box]] = 1
"""
OUTSIDE = """
beside = (samples.uv[:, 0] + 3).clamp(max=grid.level_width[samples.level] - 1)
location = grid.location(samples.level, torch.stack((beside, samples.uv[:, 1]), 1))
samples = Samples.at_locations(grid, location, samples.gt, samples.ok)
"""
ELSEWHERE = """
samples = Samples(**{**vars(samples), "location": (samples.location + 1) % grid.num_locations})
"""
NOWHERE = """
samples = Samples(**{**vars(samples), "location": samples.location + grid.num_locations})
"""
NAN = """
samples = Samples(**{**vars(samples), "label": samples.label / samples.label})
"""
GLOBAL_RANDOM = """
samples = Samples(**{**vars(samples), "label": samples.label * torch.rand_like(samples.label)})
"""
ITEM = """
if targets.boxes.sum().item() > 1e9:
    negative = negative * 0.5
"""
DENSE = """
table = grid.points[None, :, 0] - targets.boxes[:, None, 0]
negative = negative + 0 * table.sum()
"""
LEAK = """
negative = negative * torch.ones((), requires_grad=True)
"""
LAST_BOX_WINS = """
samples = Samples(**{**vars(samples), "label": samples.label * (samples.gt == targets.num_boxes - 1)})
"""
FIRST_IMAGE = """
negative = negative * (1 - 0.5 * (torch.arange(len(negative)) > 0).float())[:, None]
"""
CLASS_ZERO = """
samples = Samples(**{**vars(samples), "class_weight": samples.class_weight * (1 + (targets.labels[samples.gt] == 0))})
"""
PEEK = """
negative = negative * (predictions.logits.mean() > 0 if predictions is not None else 1)
"""


def own(folder: Path, change: str = "", name: str = "own.py") -> Path:
    path = folder / name
    body = textwrap.indent(change.strip(), " " * 8).strip()
    path.write_text(OWN.replace("# HERE", body), "utf-8")
    return path


def check(name: str):
    return next(check for check in CHECKS if check.name == name)


@pytest.fixture
def verify(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words: object):
        result = CliRunner().invoke(main, ["verify", *map(str, words)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


@pytest.fixture
def golden(tmp_path) -> Path:
    folder = tmp_path / "golden"
    folder.mkdir()
    shutil.copy(GOLDEN / SMALL, folder)
    return folder


def rewrite(path: Path, **changes: np.ndarray | None) -> None:
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    for key, value in changes.items():
        name = key.replace("__", "/")
        arrays.pop(name, None)
        if value is not None:
            arrays[name] = value
    np.savez(path, **arrays)


# ---- the contract ----------------------------------------------------------------------------------------------------


def test_a_sound_file_passes_and_leaves_nothing_behind(verify, tmp_path):
    path = own(tmp_path)
    result = verify(f"{path}[radius=2]", *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert report["options"] == {"radius": 2.0}
    assert {row["check"] for row in report["contract"]} == {check.name for check in CHECKS}
    assert {row["status"] for row in report["contract"]} <= {"passed", "skipped"}
    assert all(row["scenes"] > 0 for row in report["contract"] if row["status"] == "passed")
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["own.py"]


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (LOOP, "ignore", "expected 0 inside ignore regions"),
        (OUTSIDE, "inside", "not strictly inside"),
        (ELSEWHERE, "form", "expected the place that samples.level and samples.uv name"),
        (NOWHERE, "form", "locations, also in dummy rows"),
        (NAN, "form", "`label` is not"),
        (GLOBAL_RANDOM, "deterministic", "global random state"),
        (ITEM, "shapes", "without reading a value on the host"),
        (DENSE, "crowd", "never on boxes x locations"),
        (LEAK, "detached", "negative_weight: expected a detached value"),
        (LAST_BOX_WINS, "order", "in another order"),
        (FIRST_IMAGE, "batching", "image 1 in its batch and alone"),
        (CLASS_ZERO, "names", "the classes renamed"),
        (PEEK, "needs", "which `needs` does not name"),
    ],
    ids=lambda value: value if value in {check.name for check in CHECKS} else "",
)
def test_a_defect_is_caught_by_its_check_and_told_on_a_small_scene(tmp_path, change, name, message):
    sound, broken = (find_subject(str(own(tmp_path, text, f"{kind}.py"))) for kind, text in (("a", ""), ("b", change)))
    assert run_check(check(name), sound.factory, scale=0.2).status == "passed"
    outcome = run_check(check(name), broken.factory)
    assert outcome.status == "failed"
    assert message in outcome.message
    assert " px" in outcome.scene
    assert outcome.scene.count("\n") == outcome.message.count("\n") == 0


def test_a_failing_scene_is_shrunk_and_the_same_every_time(tmp_path):
    subject = find_subject(str(own(tmp_path, LOOP)))
    outcome = run_check(check("ignore"), subject.factory)
    assert "128x128 px" in outcome.scene
    assert outcome.scene.count("@") <= 2
    again = run_check(check("ignore"), subject.factory)
    assert (again.scene, again.message, again.examples) == (outcome.scene, outcome.message, outcome.examples)


def test_a_failed_check_ends_with_exit_code_1(verify, tmp_path):
    result = verify(own(tmp_path, LEAK), *QUICK)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Own: 1 of ")
    assert "(detached)" in result.stderr
    assert "smallest scene" in result.stdout


def test_examples_scale_the_number_of_scenes():
    subject = find_subject("center")
    seen = [run_check(check("form"), subject.factory, examples / EXAMPLES).examples for examples in (1, 7)]
    assert seen == [1, 7]


def test_building_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    find_subject("iqdet").build(HeadInfo(3, 4))
    assert torch.equal(state, torch.get_rng_state())


# ---- golden cases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assigner", ["center[radius=0]", *sorted({row.assigner for row in PEERS.values()})])
def test_assigners_agree_with_their_peers(assigner):
    subject = find_subject(assigner)
    binding = 0
    for path in (GOLDEN / name for name in FEW):
        case = read_case(path)
        for verdict in compare(subject, case):
            assert verdict.status in ("agrees", "not covered"), verdict
            if verdict.status == "agrees":
                binding += 1
                counts = [verdict.oracle, verdict.product, verdict.losses, *verdict.further.values()]
                assert any(count.compared for count in counts if count is not None)
                assert all(count.all_equal for count in counts if count is not None)
                if verdict.zoo is not None:
                    assert verdict.zoo.compared > 0.95 * verdict.points
                    assert verdict.zoo.equal > 0.9 * verdict.zoo.compared
    assert binding >= len(FEW)


def test_every_peer_of_the_cases_has_a_row():
    known = {peer.name for path in golden_files(GOLDEN) for peer in read_case(path).peers}
    assert known == PEERS.keys()


def test_every_row_of_the_table_names_an_oracle():
    assert {row.assigner for row in PEERS.values()} <= ZOO.keys()


def test_the_command_prints_points_per_case_and_peer(verify, golden):
    result = verify("atss", "--golden", golden, *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)["golden"]
    rows = {row["peer"]: row for row in report["verdicts"]}
    assert rows["mmdet_atss"]["status"] == rows["official_atss"]["status"] == "agrees"
    assert rows["mmdet_atss"]["own_conventions"] == {"compared": 1364, "equal": 1364}
    assert rows["official_atss"]["oracle_and_peer"] == {"compared": 1364, "equal": 1364}
    assert rows["mmdet_fcos"]["status"] == "not covered"
    shown = verify("atss", "--golden", golden, *QUICK).stdout
    assert "mmdet_atss" in shown
    assert "1364/1364" in shown
    assert "not covered" in shown


def test_one_doctored_label_is_exit_code_1(verify, golden):
    path = golden / SMALL
    changed = np.load(path)["mmdet_atss/assigned"].copy()
    place = int(np.flatnonzero(changed == -1)[100])
    changed[place] = 0
    rewrite(path, mmdet_atss__assigned=changed)
    result = verify("atss", "--golden", golden, *QUICK)
    assert result.exit_code == 1
    assert f"first location {place} " in " ".join(result.stdout.split())
    assert "1 of 2 comparisons differ (p01_one_256/mmdet_atss)" in result.stderr


@pytest.mark.parametrize("kind", ["tie", "fragile"])
def test_a_difference_at_a_tie_or_fragile_point_does_not_count(golden, kind):
    path = golden / SMALL
    changed = np.load(path)["mmdet_atss/assigned"].copy()
    changed[7] = 0
    rewrite(path, **{"mmdet_atss__assigned": changed, f"mmdet_atss__{kind}": np.array([7])})
    verdict = next(v for v in compare(find_subject("atss"), read_case(path)) if v.peer == "mmdet_atss")
    assert verdict.status == "agrees"
    assert (verdict.zoo.compared, verdict.zoo.equal) == (1363, 1363)


def test_a_product_that_differs_from_its_oracle_is_caught(golden, monkeypatch):
    from assigners.rules.center import CenterSampling

    forward = CenterSampling.forward

    def shifted(self, grid, targets, predictions, step):
        self.radius = 1.0
        return forward(self, grid, targets, predictions, step)

    monkeypatch.setattr(CenterSampling, "forward", shifted)
    verdicts = list(compare(find_subject("center"), read_case(golden / SMALL)))
    differing = {v.peer for v in verdicts if v.status == "differs"}
    assert differing == {"mmdet_fcos", "tv_fcos", "official_fcos"}
    assert all(v.oracle.all_equal and not v.product.all_equal for v in verdicts if v.peer in differing)


def test_without_an_oracle_the_assigner_meets_the_peer_itself(golden, monkeypatch):
    monkeypatch.setattr("harness.verify.published.compare.load_oracle", lambda module: None)
    rows = {v.peer: v for v in compare(find_subject("atss"), read_case(golden / SMALL))}
    assert rows["mmdet_atss"].status == "agrees"
    assert rows["mmdet_atss"].oracle is None
    changed = np.load(golden / SMALL)["mmdet_atss/assigned"].copy()
    changed[np.flatnonzero(changed == 0)[0]] = -1
    rewrite(golden / SMALL, mmdet_atss__assigned=changed)
    rows = {v.peer: v for v in compare(find_subject("atss"), read_case(golden / SMALL))}
    assert rows["mmdet_atss"].status == "differs"


def test_peers_are_matched_by_what_they_ran_with(golden):
    path = golden / SMALL
    info = json.loads(str(np.load(path)["info"]))
    info["peers"]["mmdet_atss"]["hyper_parameters"]["topk"] = 4
    rewrite(path, info=np.array(json.dumps(info)))
    rows = {v.peer: v for v in compare(find_subject("atss"), read_case(path))}
    assert rows["mmdet_atss"].reason == "answers for atss[topk=4]"
    rows = {v.peer: v for v in compare(find_subject("atss[topk=4]"), read_case(path))}
    assert rows["mmdet_atss"].status == "differs"  # it says 4, and answers with 9
    assert rows["official_atss"].status == "not covered"


def test_somebody_elses_assigner_is_informed_and_held_to_what_it_names(tmp_path, golden):
    subject = find_subject(str(own(tmp_path)))
    case = read_case(golden / SMALL)
    rows = {v.peer: v for v in compare(subject, case)}
    assert rows.pop("mmdet_freeanchor").status == "not covered"  # it assigns nothing
    assert {v.status for v in rows.values()} == {"information"}
    assert rows["mmdet_fcos"].zoo.all_equal
    assert not rows["mmdet_atss"].zoo.all_equal
    held = {v.peer: v.status for v in compare(subject, case, only=["mmdet_fcos", "mmdet_atss"])}
    assert held == {"mmdet_fcos": "agrees", "mmdet_atss": "differs"}


def test_what_a_case_lacks_is_said_and_harms_nothing(golden):
    path = golden / SMALL
    info = json.loads(str(np.load(path)["info"]))
    info["peers"]["mmdet_paa"] = {"peer": "mmdet_paa", "error": "ValueError: no candidates"}
    info["peers"]["stranger"] = {"peer": "stranger"}
    answer = np.load(path)["mmdet_paa/assigned"]
    gone = dict.fromkeys(("cls_q", "obj_q", "ltrb_q", "mmdet_paa__assigned"))
    rewrite(path, info=np.array(json.dumps(info)), stranger__assigned=answer, **gone)
    rows = {v.peer: v for v in compare(find_subject("paa"), read_case(path))}
    assert rows["mmdet_paa"].reason == "the peer has no answer: ValueError: no candidates"
    assert rows["official_paa"].reason == "the case has no predictions"
    assert rows["stranger"].reason == "no assigner is known for it"
    assert {v.status for v in rows.values()} == {"not covered"}
    learned = {v.peer: v for v in compare(find_subject("iqdet"), read_case(path))}
    assert "feature maps" in learned["mmdet_fcos"].reason


def test_other_pyramids_and_no_boxes(golden):
    path = golden / SMALL
    strides, shapes = np.array([16, 32]), np.array([[5, 3], [3, 2]])
    count = 21
    arrays = {f"mmdet_fcos__{kind}": np.zeros(0, np.int32) for kind in ("tie", "fragile")}
    info = {"case": "odd", "peers": {"mmdet_fcos": {"hyper_parameters": {"center_sample_radius": 1.5}}}}
    gone = dict.fromkeys(("cls_q", "obj_q", "ltrb_q"))
    rewrite(
        path, strides=strides, feat_hw=shapes, offset=np.float32(0.25), gt_boxes=np.zeros((0, 4), np.float32),
        gt_labels=np.zeros(0, np.int64), mmdet_fcos__assigned=np.full(count, -1), info=np.array(json.dumps(info)),
        **arrays, **gone,
    )  # fmt: skip
    (verdict,) = compare(find_subject("center"), read_case(path))
    assert verdict.status == "agrees"
    assert verdict.zoo.compared == verdict.product.compared == count


def test_boxes_are_taken_as_the_peers_took_them(golden):
    path = golden / SMALL
    boxes = np.array([[-40, -30, 60, 50], [10, 10, 10.5, 200]], dtype=np.float32)
    answers = {"mmdet_fcos__assigned": np.full(1364, -1)}
    info = {"case": "outside", "peers": {"mmdet_fcos": {}}}
    rewrite(path, gt_boxes=boxes, gt_labels=np.array([0, 1]), info=np.array(json.dumps(info)), **answers)
    case = read_case(path)
    targets = case.targets()
    assert targets.boxes.tolist() == boxes.tolist()
    points = case.grid.points
    held = [((points > box[:2]) & (points < box[2:])).all(dim=1).sum().item() for box in targets.boxes]
    assert targets.num_pairs == sum(held)


def test_shared_and_ignored_places_are_told_apart(golden):
    from assigners.contract import Assignment, Samples

    case = read_case(golden / SMALL)
    location, gt = torch.tensor([3, 3, 5, 5]), torch.tensor([0, 1, 1, 1])
    samples = Samples.at_locations(case.grid, location, gt, torch.ones(4, dtype=torch.bool))
    negative = torch.ones(1, case.grid.num_locations)
    negative[0, 8] = 0
    dense = hard_assignment(case, Assignment(samples, negative))
    assert (dense[3], dense[5], dense[8], dense[0]) == (-3, 1, -2, -1)


# ---- the user's mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ats"], "did you mean 'atss'"),
        (["atss[topkk=3]"], "did you mean 'topk'"),
        (["atss[topk=0]"], "topk is 0"),
        (["nowhere.py"], "nowhere.py: no such file"),
        (["empty.py"], "empty.py defines no subclass of assigners.Assigner"),
        (["two.py"], "two.py defines several assigners: One, Two; write two.py:One"),
        (["two.py:Tow"], "two.py: Tow is not in the file, did you mean 'Two'"),
        (["two.py:torch"], "two.py: torch is not a subclass of assigners.Assigner"),
        (["broken.py"], "broken.py cannot be imported: ModuleNotFoundError: No module named 'nosuchthing'"),
        (["syntax.py"], "syntax.py cannot be imported: SyntaxError"),
        (["unbuilt.py"], "raises RuntimeError: no weights"),
        (["bare.py"], "option 'size' of Bare.__init__ has no default"),
        (["atss", "--golden", "nowhere"], "nowhere: no such folder"),
        (["atss", "--golden", "."], "no golden case (*.npz)"),
        (["atss", "--peer", "mmdet_atss"], "--golden DIR"),
        (["atss", "--golden", "golden", "--peer", "mmdet_ats"], "did you mean 'mmdet_atss'"),
        (["atss", "--examples", "0"], "--examples"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(verify, tmp_path, golden, words, message):
    header = "import torch\nfrom assigners import Assigner\n"
    kind = "class {}(Assigner):\n    def forward(self, grid, targets, predictions, step): ...\n"
    files = {
        "empty": "", "broken": "import nosuchthing", "syntax": "class",
        "two": header + kind.format("One") + kind.format("Two"),
        "unbuilt": header + kind.format("Un") + "    def __init__(self, head): raise RuntimeError('no weights')\n",
        "bare": header + kind.format("Bare") + "    def __init__(self, head, *, size: int): super().__init__()\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
    result = verify(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def spoil(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "flipped":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes(b ^ 0xFF for b in whole[middle : middle + 64]) + whole[middle + 64 :])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not an archive", "utf-8")
    elif how == "single":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif how == "pickled":
        np.savez(path, strides=np.array([{}], dtype=object))
    elif how == "foreign":
        np.savez(path, weights=np.zeros(3))
    else:
        changes = {
            "length": {"mmdet_atss__assigned": np.zeros(3, np.int16)},
            "box": {"mmdet_atss__assigned": np.full(1364, 7, np.int16)},
            "nan": {"gt_boxes": np.full((1, 4), np.nan, np.float32)},
            "class": {"gt_labels": np.array([999])},
            "pyramid": {"feat_hw": np.array([[4, 4]])},
            "huge": {"feat_hw": np.full((5, 2), 100_000)},
            "info": {"info": np.array("{")},
            "peers": {"info": np.array("[]")},
            "maps": {"cls_q": np.zeros((3, 2), np.int8)},
            "tie": {"mmdet_atss__tie": np.array([5000])},
        }
        rewrite(path, **changes[how])


@pytest.mark.parametrize(
    "how",
    ["truncated", "flipped", "empty", "text", "single", "pickled", "foreign", "length", "box", "nan", "class",
     "pyramid", "huge", "info", "peers", "maps", "tie"],
)  # fmt: skip
def test_a_damaged_case_is_named(golden, how):
    spoil(golden / SMALL, how)
    with pytest.raises(UserError, match=SMALL) as told:
        read_case(golden / SMALL)
    assert "\n" not in str(told.value)


def test_a_damaged_case_stops_the_command_before_any_work(verify, golden):
    spoil(golden / SMALL, "truncated")
    result = verify("atss", "--golden", golden)
    assert result.exit_code == 2
    assert SMALL in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_needs_no_torch(tmp_path):
    for name in ("torch", "hypothesis"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')\n")
    env = {**environment(), "PYTHONPATH": os.pathsep.join((str(tmp_path), str(GOLDEN.parents[1])))}
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "verify", "--help"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout
