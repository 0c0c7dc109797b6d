"""Peers that answer by losses and arrays: an oracle is held to them, and an assigner's losses to the oracle."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from assigners.contract import Assignment, Samples
from harness.verify.published import agreement, compare
from harness.verify.published.cases import read_case
from harness.verify.published.imitation import Oracle, Peer
from harness.verify.subject import find_subject

CASE = Path(__file__).resolve().parents[1] / "golden" / "p01_one_256.npz"
LOSSES = {"positive": (2.5, 3.0), "negative": (0.125, 3.0)}
ALL = np.ones(4, np.bool_)


class Likelihood:
    """What `center` answers in these tests: no samples, but losses."""

    def __init__(self, losses):
        self.losses = {k: (torch.tensor(total), torch.tensor(count)) for k, (total, count) in losses.items()}

    def __call__(self, grid, targets, predictions, step):
        nothing = torch.zeros(0, dtype=torch.long)
        samples = Samples.at_locations(grid, nothing, nothing, nothing.bool())
        return Assignment(samples, torch.ones(targets.num_images, grid.num_locations), self.losses)


@pytest.fixture
def verdict(monkeypatch):
    """The verdict on `mmdet_autoassign` of a row that asks an oracle for `numbers`, and for an assigner's losses."""

    def ask(numbers, *, losses=LOSSES, expected=LOSSES, **row):
        from assigners.rules.center import CenterSampling

        answer = Likelihood(losses)
        monkeypatch.setattr(CenterSampling, "forward", lambda self, *asked: answer(*asked))
        monkeypatch.setitem(compare.ZOO, "center", Oracle("fcos", losses=lambda oracle, x: expected))
        monkeypatch.setitem(
            compare.PEERS, "mmdet_autoassign", Peer("center", numbers=numbers, losses=frozenset({"loss_pos"}), **row)
        )
        case = read_case(CASE)
        found = compare.compare(find_subject("center"), case)
        return next(verdict for verdict in found if verdict.peer == "mmdet_autoassign")

    return ask


def theirs(name):
    return np.load(CASE)[f"mmdet_autoassign/{name}"]


def test_what_agrees_is_counted_by_name(verdict):
    told = verdict(lambda oracle, x, given: {"loss_pos": theirs("loss_pos") * (1 + 9e-5), "wneg": theirs("wneg")})
    assert told.status == "agrees"
    assert told.zoo is told.oracle is told.product is None
    assert told.further["loss_pos"] == agreement.Count(1, 1)
    assert told.further["wneg"].all_equal
    assert told.losses == agreement.Count(2, 2)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (lambda o, x, given: {"loss_pos": given["loss_pos"] * (1 + 2e-4)}, "loss_pos: the oracle with"),
        (lambda o, x, given: {"loss_pos": np.nan}, "says nan"),
        (lambda o, x, given: {"wneg": given["wneg"] + 2e-4 * (np.arange(len(given["wneg"])) == 7)}, "first wneg[7]"),
        (lambda o, x, given: {"wneg": given["wneg"][:-1]}, "the oracle has the shape"),
        (lambda o, x, given: {"wpos": 1.0}, "wpos: the oracle yields it, the peer does not"),
    ],
)
def test_another_number_is_a_difference(verdict, numbers, message):
    told = verdict(numbers)
    assert told.status == "differs"
    assert message in told.reason


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({**LOSSES, "positive": (2.5006, 3.0)}, "loss 'positive': center says 2.5006 / 3, its oracle 2.5 / 3"),
        ({**LOSSES, "negative": (0.125, 2.0)}, "loss 'negative': center says 0.125 / 2"),
        ({"positive": (2.5, 3.0)}, "its oracle ['negative', 'positive']"),
    ],
)
def test_an_assigners_losses_are_held_to_its_oracle(verdict, losses, message):
    told = verdict(lambda oracle, x, given: {}, losses=losses)
    assert told.status == "differs"
    assert message in told.reason
    assert not told.losses.all_equal


def test_a_tolerance_of_its_own(verdict):
    def near(oracle, x, given):
        return {"loss_pos": given["loss_pos"] * (1 + 5e-4)}

    assert verdict(near).status == "differs"
    assert verdict(near, tolerance=1e-3).status == "agrees"


def test_without_an_oracle_nothing_can_be_told_of_losses(verdict, monkeypatch):
    monkeypatch.setattr(compare, "load_oracle", lambda module: None)
    told = verdict(lambda oracle, x, given: {"loss_pos": 0.0})
    assert told.status == "not covered"
    assert "only an oracle can tell its losses" in told.reason


def test_a_peer_without_an_assignment_informs_nobody(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("from assigners.rules.center import CenterSampling\n\n\nclass Own(CenterSampling):\n    pass\n")
    shutil.copy(CASE, tmp_path)
    rows = {v.peer: v for v in compare.compare(find_subject(str(path)), read_case(tmp_path / CASE.name))}
    assert rows["mmdet_freeanchor"].status == "not covered"
    assert "losses alone" in rows["mmdet_freeanchor"].reason
    assert rows["mmdet_autoassign"].status == rows["mmdet_fcos"].status == "information"


@pytest.mark.parametrize(
    ("name", "ours", "given", "equal"),
    [
        ("bag_idx", [1, 2, 3], [1, 2, 3], 3),
        ("bag_idx", [1, 2, 4], [1, 2, 3], 2),
        ("loss", [1e-9, 1.0], np.float32([2e-8, 1.00005]), 2),  # below what float32 can tell
        ("loss", [0.001], np.float32([0.0010002]), 0),
        ("soft", [0.001, 0.5], np.float32([0.00105, 0.5002]), 1),
    ],
)
def test_integers_are_equal_losses_near_relatively_and_others_absolutely(name, ours, given, equal):
    found = agreement.array(name, ours, np.asarray(given), ALL, 1e-4, relative=name == "loss")
    assert found.count.equal == equal
    assert (found.difference is None) == (equal == len(given))


def test_only_comparable_locations_are_looked_at():
    comparable = np.array([True, False, True, True])
    found = agreement.array("soft", [1.0, 5.0, 1.0, 1.0], np.ones(4, np.float32), comparable, 1e-4, relative=False)
    assert found.count == agreement.Count(3, 3)


class TestAll:
    """`harness verify` without a name."""

    @pytest.fixture
    def catalogue(self, monkeypatch, tmp_path):
        from harness.cli import verify

        folder = tmp_path / "golden"
        folder.mkdir()
        shutil.copy(CASE, folder)
        monkeypatch.setattr(verify, "catalogue", lambda: [SimpleNamespace(name="center"), SimpleNamespace(name="atss")])
        return folder

    def call(self, *words):
        from click.testing import CliRunner

        from harness.cli import main

        result = CliRunner().invoke(main, ["verify", *map(str, words)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def test_every_assigner_and_every_peer_under_the_options_it_answers_for(self, catalogue):
        import json

        result = self.call("--golden", catalogue, "--examples", "1", "--json")
        assert result.exit_code == 0, result.stderr
        report = json.loads(result.stdout)
        assert [row["assigner"] for row in report["assigners"]] == ["center", "atss"]
        assert all(row["ok"] for row in [report, *report["assigners"]])
        assert report["peers"] == {
            peer: {"cases": 1, "agree": 1}
            for peer in ("mmdet_fcos", "mmdet_fcos_nocs", "tv_fcos", "official_fcos", "mmdet_atss", "official_atss")
        }
        by = {v["peer"]: v["assigner"] for v in report["assigners"][0]["golden"]["verdicts"]}
        assert by["mmdet_fcos_nocs"] == "center[radius=0.0]"
        assert by["mmdet_fcos"] == "center"

    def test_peers_that_nobody_answers_for_are_listed_and_one_defect_is_named(self, catalogue, monkeypatch):
        from assigners.rules.atss import ATSS

        forward = ATSS.forward

        def fewer(self, grid, targets, predictions, step):
            answer = forward(self, grid, targets, predictions, step)
            few = answer.samples.positive & (targets.num_boxes > 99)
            samples = Samples(**{**vars(answer.samples), "positive": few})
            return Assignment(samples, answer.negative_weight)

        monkeypatch.setattr(ATSS, "forward", fewer)
        result = self.call("--golden", catalogue, "--examples", "1")
        assert result.exit_code == 1
        assert "atss: 1 of " in result.stderr
        assert " checks failed (pyramids); 2 of 2 comparisons" in result.stderr
        assert "comparisons differ (p01_one_256/mmdet_atss, p01_one_256/official_atss)" in result.stderr
        assert "center: " not in result.stderr.splitlines()[-1]
        assert "mmdet_paa" in result.stdout

    def test_a_peer_is_named_for_one_assigner(self, catalogue):
        result = self.call("--golden", catalogue, "--peer", "mmdet_atss")
        assert result.exit_code == 2
        assert "name the assigner too" in result.stderr
