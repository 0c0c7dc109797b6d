"""Which published implementation answers for which assigner, and the oracle that knows its conventions.

Peers differ from each other, and from the zoo, in details: ends of ranges, pixels counted with + 1, the order of
ties. These live in slow, obvious NumPy versions, `harness.verify.published.oracles`. An oracle set to a peer's
convention must give the peer's answer; set to the zoo's convention it must give the assigner's. An assigner without an
oracle is compared with the peer directly.

A row may answer in three ways, alone or together:

    Peer.imitate   which box each location learns; held to ``PEER/assigned`` location by location
    Peer.soft      the assigner's own labels, held to ``PEER/soft`` where both learn the same box
    Peer.numbers   what the oracle yields by the names of the peer's arrays: losses, weights, scores; each is held to
                   ``PEER/name``. Integers must be equal. Floats may differ by `Peer.tolerance`: relatively where
                   `Peer.losses` has the name, absolutely elsewhere (a location's array is looked at where it is
                   comparable)

and its assigner likewise in two, `Oracle.zoo` by boxes and `Oracle.losses` by the terms of `Assignment.losses`. An
assigner without samples (a likelihood over bags) has the latter alone:

    ZOO["bags"] = Oracle("bags", losses=lambda oracle, x: {"positive": (total, count), ...})
    PEERS["their_bags"] = Peer("bags", numbers=lambda oracle, x, theirs: {"loss_pos": ..., "box_prob": ...})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

from harness.verify.published.imitation import Imitate, Oracle, OracleInput, Peer


def _ask(
    function: str,
    oracle: ModuleType,
    x: OracleInput,
    *theirs: Any,
    maps: Sequence[str],
    options: Mapping[str, str],
    **convention: Any,
) -> Any:
    """What a function of an oracle says of a case.

    Args:
        theirs: the peer's arrays, in whose order the oracle writes its own.
        maps: names for `OracleInput.map`, in the order in which the function takes them.
        options: those of the assigner that it takes, by its names for them; `convention` overrides them.
    """
    taken = {name: x.options[option] for name, option in options.items()}
    arrays = [x.map(name) for name in maps]
    return getattr(oracle, function)(x.points, x.boxes, *arrays, *theirs, **{"labels": x.labels, **taken, **convention})


def _boxes(examine: Callable[..., Any], **convention: Any) -> Imitate:
    """The boxes alone of all that an oracle finds."""
    return lambda oracle, x: examine(oracle, x, **convention).assigned


def _same(*names: str) -> dict[str, str]:
    """Options that an oracle calls as the assigner does."""
    return {name: name for name in names}


DENSE, SCORED = ("logits", "boxes"), ("logits", "quality", "boxes")

_atss = partial(_ask, "assign", maps=(), options=_same("topk", "fallback_max"))
_max_iou = partial(_ask, "assign", maps=(), options={"pos": "pos_iou", "neg": "neg_iou", "low_quality": "low_quality"})
_foveabox = partial(_ask, "assign", maps=(), options=_same("sigma", "eta"))
_guided = partial(_ask, "assign", maps=(), options=_same("center", "ignore", "neighbours"))
_paa = partial(_ask, "examine", maps=DENSE, options={"topk": "topk", "threshold": "iou"})
_poto = partial(_ask, "assign", maps=DENSE, options=_same("alpha", "radius", "rounds"))
_o2f = partial(_ask, "examine", maps=DENSE, options=_same("topk", "alpha", "radius"))
_musu = partial(_ask, "examine", maps=DENSE, options=_same("topk", "share", "mutual", "temperature"))
_uot = partial(
    _ask, "examine", maps=DENSE,
    options=_same("reg_target", "reg_pred", "background_cost", "regularisation", "iterations", "class_weight",
                  "iou_weight", "radius", "least"),
)  # fmt: skip
_defcn_poto = partial(_poto, convention="defcn")
_lla = partial(_ask, "examine", maps=DENSE, options=_same("topk", "iou_weight"))
_dsla = partial(_ask, "examine", maps=DENSE, options=_same("topk", "radius", "iou_weight"))
_ota = partial(
    _ask, "examine", maps=DENSE, options=_same("radius", "topk", "iou_weight", "regularisation", "iterations")
)
_sim_ota = partial(_ask, "examine", maps=SCORED, options=_same("topk", "radius", "iou_weight", "class_weight", "score"))
_tal = partial(_ask, "examine", maps=DENSE, options=_same("topk", "alpha", "beta", "mask_first", "relative_guard"))
_free_anchor = partial(_ask, maps=DENSE, options=_same("bag", "threshold", "gamma", "beta"))
_auto_assign = partial(_ask, maps=SCORED, options=_same("gamma", "beta"))
_mmdet_simota = partial(_sim_ota, convention="mmdet", score="sqrt_product")
_mmdet_tal = partial(_tal, convention="mmdet", mask_first=False, relative_guard=False)


def _center(oracle: ModuleType, x: OracleInput, **convention: Any) -> Any:
    return _ask("assign", oracle, x, maps=(), options=_same("radius"), num_levels=x.levels, **convention)


_mmdet_fcos = partial(_center, labels=None, convention="inclusive")
_official_fcos = partial(_mmdet_fcos, plus_one=True)


def _cascade(oracle: ModuleType, x: OracleInput) -> Any:
    """At the end of training, where cases are asked."""
    last = float(x.options["thresholds"].split(":")[-1])
    return _ask("examine", oracle, x, maps=("boxes",), options=_same("fallback", "radius"), threshold=last)


def _torchvision(oracle: ModuleType, x: OracleInput) -> Any:
    ends = tuple(8.0 * stride for stride in x.case.grid.strides[:-1])
    return _center(oracle, x, labels=None, convention="strict", blind_area=True, ends=ends)


ZOO = {
    "center": Oracle("fcos", _center),
    "atss": Oracle("atss", _atss, jitter=1e-4),
    "paa": Oracle("paa", _boxes(_paa), jitter=1e-4),
    "max_iou": Oracle("max_iou", _max_iou, jitter=1e-4),
    "foveabox": Oracle("foveabox", _foveabox, jitter=1e-4),
    "poto": Oracle("poto", _poto, jitter=1e-4),
    "tal": Oracle("tal", _boxes(_tal), jitter=1e-4),
    "sim_ota": Oracle("sim_ota", _boxes(_sim_ota), jitter=1e-4),
    "dsla": Oracle("dsla", _boxes(_dsla), jitter=1e-4),
    "ota": Oracle("ota", _boxes(_ota), jitter=1e-4),
    "lla": Oracle("lla", _boxes(_lla), jitter=1e-4),
    "guided": Oracle("guided", _guided, jitter=1e-4),
    "cascade": Oracle("cascade", _boxes(_cascade), jitter=1e-4),
    "o2f": Oracle("o2f", _boxes(_o2f), jitter=1e-4),
    "musu": Oracle("musu", _boxes(_musu), jitter=1e-4),
    "uot": Oracle("uot", _boxes(_uot), jitter=1e-4),
    "free_anchor": Oracle("free_anchor", losses=partial(_free_anchor, "losses")),
    "auto_assign": Oracle("auto_assign", losses=partial(_auto_assign, "losses")),
}

PEERS = {
    "mmdet_fcos": Peer("center", _mmdet_fcos, hyper={"radius": "center_sample_radius"}),
    "mmdet_fcos_nocs": Peer("center", _mmdet_fcos, options={"radius": 0.0}),
    "tv_fcos": Peer("center", _torchvision, hyper={"radius": "center_sampling_radius"}, soft=True),
    "official_fcos": Peer("center", _official_fcos, hyper={"radius": "center_sampling_radius"}, soft=True),
    "mmdet_atss": Peer("atss", partial(_atss, labels=None), hyper={"topk": "topk"}),
    "official_atss": Peer("atss", partial(_atss, labels=None, plus_one=True), hyper={"topk": "topk"}, soft=True),
    "mmdet_maxiou": Peer(
        "max_iou",
        partial(_max_iou, convention="mmdet"),
        hyper={"pos_iou": "pos_iou_thr", "neg_iou": "neg_iou_thr", "low_quality": "match_low_quality"},
    ),
    "mmdet_paa": Peer("paa", _boxes(_paa, convention="mmdet"), hyper={"topk": "topk", "iou": "pos_iou_thr"}, soft=True),
    "official_paa": Peer("paa", _boxes(_paa, convention="official"), hyper={"topk": "topk"}, soft=True),
    "defcn_poto": Peer("poto", _defcn_poto, hyper={"alpha": "alpha", "radius": "center_sampling_radius"}, soft=True),
    "mmdet_tal": Peer(
        "tal",
        _boxes(_mmdet_tal),
        hyper={"topk": "topk", "alpha": "alpha", "beta": "beta"},
        numbers=lambda oracle, x, theirs: {"soft": (result := _mmdet_tal(oracle, x)).label, "metric": result.metric},
    ),
    "mmdet_simota": Peer(
        "sim_ota",
        _boxes(_mmdet_simota),
        hyper={
            "topk": "candidate_topk",
            "radius": "center_radius",
            "iou_weight": "iou_weight",
            "class_weight": "cls_weight",
        },
        numbers=lambda oracle, x, theirs: {"soft": _mmdet_simota(oracle, x).soft},
    ),
    "mmdet_dynsoft": Peer(
        "dsla",
        _boxes(_dsla, convention="mmdet"),
        hyper={"topk": "topk", "radius": "soft_center_radius", "iou_weight": "iou_weight"},
        soft=True,
    ),
    "megvii_ota": Peer(
        "ota",
        _boxes(_ota, convention="megvii"),
        hyper={
            "radius": "center_radius",
            "topk": "top_candidates",
            "iou_weight": "reg_weight",
            "regularisation": "sinkhorn_eps",
            "iterations": "sinkhorn_iter",
        },
        numbers=lambda oracle, x, theirs: {"soft": _ota(oracle, x, convention="megvii").soft},
        tolerance=1e-3,
    ),
    "mmdet_freeanchor": Peer(
        "free_anchor",
        hyper={"bag": "pre_anchor_topk", "threshold": "bbox_thr", "gamma": "gamma", "alpha": "alpha"},
        numbers=partial(_free_anchor, "peer"),
        losses=frozenset({"positive_loss", "negative_loss_sum"}),
    ),
    "mmdet_autoassign": Peer(
        "auto_assign",
        hyper={"alpha": "pos_loss_weight", "center": "center_loss_weight"},
        numbers=partial(_auto_assign, "peer"),
        losses=frozenset({"loss_pos", "loss_neg", "loss_center"}),
    ),
}
