"""The oracles, set to a peer's conventions, give the peer's published answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.oracles import atss, fcos
from tests.oracles.geometry import make_points

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.npz"))

PEERS: dict[str, Callable[..., Any]] = {
    "mmdet_fcos": lambda p, b: fcos.assign(p, b, convention="inclusive"),
    "mmdet_fcos_nocs": lambda p, b: fcos.assign(p, b, radius=0.0, convention="inclusive"),
    "tv_fcos": lambda p, b: fcos.assign(p, b, convention="strict", blind_area=True),
    "official_fcos": lambda p, b: fcos.assign(p, b, convention="inclusive", plus_one=True),
    "mmdet_atss": lambda p, b: atss.assign(p, b),
    "official_atss": lambda p, b: atss.assign(p, b, plus_one=True),
}


def test_cases_are_there():
    assert len(CASES) >= 6


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("case", CASES)
def test_oracle_equals_peer(case, peer):
    z = np.load(GOLDEN / f"{case}.npz", allow_pickle=False)
    points = make_points([tuple(hw) for hw in z["feat_hw"]], z["strides"].tolist(), float(z["offset"]))
    ours = PEERS[peer](points, z["gt_boxes"].astype(np.float64))
    theirs = z[f"{peer}/assigned"].astype(np.int64)
    comparable = np.ones(len(points), dtype=bool)
    comparable[z[f"{peer}/tie"]] = False
    comparable[z[f"{peer}/fragile"]] = False
    assert comparable.mean() > 0.95
    assert (theirs[comparable] >= 0).any()
    np.testing.assert_array_equal(ours[comparable], theirs[comparable])
