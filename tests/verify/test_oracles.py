"""The oracles, set to a peer's conventions, give the peer's published answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.verify.published.oracles import atss, fcos, paa
from harness.verify.published.oracles.geometry import Array, Points, make_points

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.npz"))


@dataclass(frozen=True, eq=False)
class Case:
    """The inputs of one image, and all arrays of its file.

    Attributes:
        logits, predicted: class logits ``[R, C]`` and decoded boxes ``[R, 4]``; empty where the case has none.
    """

    points: Points
    boxes: Array
    labels: list[int]
    logits: Array
    predicted: Array
    arrays: dict[str, Any]

    def comparable(self, peer: str) -> np.ndarray:
        """Points whose answer is a property of the algorithm."""
        mask = np.ones(len(self.points), dtype=bool)
        mask[self.arrays[f"{peer}/tie"]] = False
        mask[self.arrays[f"{peer}/fragile"]] = False
        return mask


@cache
def load(name: str) -> Case:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        z = dict(file)
    points = make_points([tuple(hw) for hw in z["feat_hw"]], z["strides"].tolist(), float(z["offset"]))
    reach = z.get("ltrb_q", np.zeros((0, 4))).astype(np.float64) / 8
    xy = points.xy[: len(reach)]
    return Case(
        points=points,
        boxes=z["gt_boxes"].astype(np.float64),
        labels=z["gt_labels"].tolist(),
        logits=z.get("cls_q", np.zeros((0, 1))).astype(np.float64) / 16,
        predicted=np.concatenate((xy - reach[:, :2], xy + reach[:, 2:]), axis=1),
        arrays=z,
    )


@cache
def run_paa(case: Case, convention: paa.Convention) -> paa.Result:
    return paa.examine(case.points, case.boxes, case.logits, case.predicted, labels=case.labels, convention=convention)


PEERS: dict[str, Callable[[Case], Any]] = {
    "mmdet_fcos": lambda c: fcos.assign(c.points, c.boxes, convention="inclusive"),
    "mmdet_fcos_nocs": lambda c: fcos.assign(c.points, c.boxes, radius=0.0, convention="inclusive"),
    "tv_fcos": lambda c: fcos.assign(c.points, c.boxes, convention="strict", blind_area=True),
    "official_fcos": lambda c: fcos.assign(c.points, c.boxes, convention="inclusive", plus_one=True),
    "mmdet_atss": lambda c: atss.assign(c.points, c.boxes),
    "official_atss": lambda c: atss.assign(c.points, c.boxes, plus_one=True),
    "mmdet_paa": lambda c: run_paa(c, "mmdet").assigned,
    "official_paa": lambda c: run_paa(c, "official").assigned,
}


COVERED = [(name, peer) for name in CASES for peer in PEERS if f"{peer}/assigned" in load(name).arrays]


def test_every_peer_is_compared():
    assert len(CASES) >= 6
    for peer in PEERS:
        assert sum(peer == covered for _, covered in COVERED) >= 6


@pytest.mark.parametrize(("name", "peer"), COVERED)
def test_oracle_equals_peer(name, peer):
    case = load(name)
    theirs = case.arrays[f"{peer}/assigned"].astype(np.int64)
    comparable = case.comparable(peer)
    assert comparable.mean() > 0.95
    assert (theirs[comparable] >= 0).any() == (len(case.boxes) > 0)
    np.testing.assert_array_equal(PEERS[peer](case)[comparable], theirs[comparable])


@pytest.mark.parametrize("name", [name for name, peer in COVERED if peer == "mmdet_paa"])
def test_the_steps_of_paa_equal_the_peer(name):
    """Stage 1 and the scores, which the split alone could hide."""
    case = load(name)
    result = run_paa(case, "mmdet")
    comparable = case.comparable("mmdet_paa")
    first = case.arrays["mmdet_paa/init_assigned"].astype(np.int64)
    np.testing.assert_array_equal(result.own[comparable], first[comparable])
    scored = case.arrays["mmdet_paa/pos_idx"].astype(np.int64)
    same = comparable[scored]
    np.testing.assert_allclose(result.cost[scored[same]], case.arrays["mmdet_paa/pos_loss"][same], rtol=1e-5)
