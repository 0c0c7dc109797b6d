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

from functools import partial
from types import ModuleType
from typing import Any

from harness.verify.published.cases import IntArray
from harness.verify.published.imitation import Imitate, Oracle, OracleInput, Peer

PLUS_ONE = {"convention": "inclusive", "plus_one": True}


def _center(**convention: Any) -> Imitate:
    def imitate(oracle: ModuleType, x: OracleInput) -> IntArray:
        answer: IntArray = oracle.assign(
            x.points, x.boxes, radius=x.options["radius"], num_levels=x.levels, **convention
        )
        return answer

    return imitate


def _torchvision(oracle: ModuleType, x: OracleInput) -> IntArray:
    ends = tuple(8.0 * stride for stride in x.case.grid.strides[:-1])
    return _center(convention="strict", blind_area=True, ends=ends)(oracle, x)


def _atss(**convention: Any) -> Imitate:
    def imitate(oracle: ModuleType, x: OracleInput) -> IntArray:
        answer: IntArray = oracle.assign(
            x.points, x.boxes, topk=x.options["topk"], fallback_max=x.options["fallback_max"], **convention
        )
        return answer

    return imitate


def _paa(convention: str) -> Imitate:
    def imitate(oracle: ModuleType, x: OracleInput) -> IntArray:
        logits, predicted = x.detections
        answer: IntArray = oracle.assign(
            x.points, x.boxes, logits, predicted, labels=x.labels, topk=x.options["topk"],
            threshold=x.options["iou"], convention=convention,
        )  # fmt: skip
        return answer

    return imitate


def _sim_ota(oracle: ModuleType, x: OracleInput, **convention: Any) -> Any:
    logits, predicted = x.detections
    told = {key: x.options[key] for key in ("topk", "radius", "iou_weight", "class_weight", "score")}
    return oracle.examine(x.points, x.boxes, logits, x.quality, predicted, labels=x.labels, **{**told, **convention})


def _mmdet_simota(oracle: ModuleType, x: OracleInput) -> Any:
    return _sim_ota(oracle, x, convention="mmdet", score="sqrt_product")


def _dsla(oracle: ModuleType, x: OracleInput, convention: str = "zoo") -> Any:
    logits, predicted = x.detections
    told = {key: x.options[key] for key in ("topk", "radius", "iou_weight")}
    return oracle.examine(x.points, x.boxes, logits, predicted, labels=x.labels, convention=convention, **told)


def _ota(oracle: ModuleType, x: OracleInput, convention: str = "zoo") -> Any:
    logits, predicted = x.detections
    told = {key: x.options[key] for key in ("radius", "topk", "iou_weight", "regularisation", "iterations")}
    return oracle.examine(x.points, x.boxes, logits, predicted, labels=x.labels, convention=convention, **told)


def _lla(oracle: ModuleType, x: OracleInput) -> IntArray:
    logits, predicted = x.detections
    told = {key: x.options[key] for key in ("topk", "iou_weight")}
    answer: IntArray = oracle.assign(x.points, x.boxes, logits, predicted, labels=x.labels, **told)
    return answer


def _poto(convention: str) -> Imitate:
    def imitate(oracle: ModuleType, x: OracleInput) -> IntArray:
        logits, predicted = x.detections
        told = {key: x.options[key] for key in ("alpha", "radius", "rounds")}
        answer: IntArray = oracle.assign(
            x.points, x.boxes, logits, predicted, labels=x.labels, convention=convention, **told
        )
        return answer

    return imitate


def _tal(oracle: ModuleType, x: OracleInput, **convention: Any) -> Any:
    logits, predicted = x.detections
    told = {key: x.options[key] for key in ("topk", "alpha", "beta", "mask_first", "relative_guard")}
    return oracle.examine(x.points, x.boxes, logits, predicted, labels=x.labels, **{**told, **convention})


def _mmdet_tal(oracle: ModuleType, x: OracleInput) -> Any:
    return _tal(oracle, x, convention="mmdet", mask_first=False, relative_guard=False)


def _max_iou(convention: str) -> Imitate:
    def imitate(oracle: ModuleType, x: OracleInput) -> IntArray:
        told = {"pos": x.options["pos_iou"], "neg": x.options["neg_iou"], "low_quality": x.options["low_quality"]}
        answer: IntArray = oracle.assign(x.points, x.boxes, x.labels, convention=convention, **told)
        return answer

    return imitate


def _foveabox(oracle: ModuleType, x: OracleInput) -> IntArray:
    answer: IntArray = oracle.assign(x.points, x.boxes, x.labels, sigma=x.options["sigma"], eta=x.options["eta"])
    return answer


def _guided(oracle: ModuleType, x: OracleInput) -> IntArray:
    told = {key: x.options[key] for key in ("center", "ignore", "neighbours")}
    answer: IntArray = oracle.assign(x.points, x.boxes, x.labels, **told)
    return answer


def _cascade(oracle: ModuleType, x: OracleInput) -> IntArray:
    """At the end of training, where cases are asked."""
    _, predicted = x.detections
    told = {key: x.options[key] for key in ("fallback", "radius")}
    last = float(x.options["thresholds"].split(":")[-1])
    answer: IntArray = oracle.examine(x.points, x.boxes, predicted, labels=x.labels, threshold=last, **told).assigned
    return answer


def _free_anchor(ask: str, oracle: ModuleType, x: OracleInput, *theirs: Any) -> Any:
    logits, predicted = x.detections
    told = {key: x.options[key] for key in ("bag", "threshold", "gamma", "beta")}
    return getattr(oracle, ask)(x.points, x.boxes, logits, predicted, *theirs, labels=x.labels, **told)


def _auto_assign(ask: str, oracle: ModuleType, x: OracleInput, *theirs: Any) -> Any:
    logits, predicted = x.detections
    told = {key: x.options[key] for key in ("gamma", "beta")}
    return getattr(oracle, ask)(x.points, x.boxes, logits, x.quality, predicted, *theirs, labels=x.labels, **told)


ZOO = {
    "center": Oracle("fcos", lambda oracle, x: _center(labels=x.labels)(oracle, x)),
    "atss": Oracle("atss", lambda oracle, x: _atss(labels=x.labels)(oracle, x), jitter=1e-4),
    "paa": Oracle("paa", _paa("zoo"), jitter=1e-4),
    "max_iou": Oracle("max_iou", _max_iou("zoo"), jitter=1e-4),
    "foveabox": Oracle("foveabox", _foveabox, jitter=1e-4),
    "poto": Oracle("poto", _poto("zoo"), jitter=1e-4),
    "tal": Oracle("tal", lambda oracle, x: _tal(oracle, x).assigned, jitter=1e-4),
    "sim_ota": Oracle("sim_ota", lambda oracle, x: _sim_ota(oracle, x).assigned, jitter=1e-4),
    "dsla": Oracle("dsla", lambda oracle, x: _dsla(oracle, x).assigned, jitter=1e-4),
    "ota": Oracle("ota", lambda oracle, x: _ota(oracle, x).assigned, jitter=1e-4),
    "lla": Oracle("lla", _lla, jitter=1e-4),
    "guided": Oracle("guided", _guided, jitter=1e-4),
    "cascade": Oracle("cascade", _cascade, jitter=1e-4),
    "free_anchor": Oracle("free_anchor", losses=partial(_free_anchor, "losses")),
    "auto_assign": Oracle("auto_assign", losses=partial(_auto_assign, "losses")),
}

PEERS = {
    "mmdet_fcos": Peer("center", _center(convention="inclusive"), hyper={"radius": "center_sample_radius"}),
    "mmdet_fcos_nocs": Peer("center", _center(convention="inclusive"), options={"radius": 0.0}),
    "tv_fcos": Peer("center", _torchvision, hyper={"radius": "center_sampling_radius"}, soft=True),
    "official_fcos": Peer("center", _center(**PLUS_ONE), hyper={"radius": "center_sampling_radius"}, soft=True),
    "mmdet_atss": Peer("atss", _atss(), hyper={"topk": "topk"}),
    "official_atss": Peer("atss", _atss(plus_one=True), hyper={"topk": "topk"}, soft=True),
    "mmdet_maxiou": Peer(
        "max_iou",
        _max_iou("mmdet"),
        hyper={"pos_iou": "pos_iou_thr", "neg_iou": "neg_iou_thr", "low_quality": "match_low_quality"},
    ),
    "mmdet_paa": Peer("paa", _paa("mmdet"), hyper={"topk": "topk", "iou": "pos_iou_thr"}, soft=True),
    "official_paa": Peer("paa", _paa("official"), hyper={"topk": "topk"}, soft=True),
    "defcn_poto": Peer("poto", _poto("defcn"), hyper={"alpha": "alpha", "radius": "center_sampling_radius"}, soft=True),
    "mmdet_tal": Peer(
        "tal",
        lambda oracle, x: _mmdet_tal(oracle, x).assigned,
        hyper={"topk": "topk", "alpha": "alpha", "beta": "beta"},
        numbers=lambda oracle, x, theirs: {"soft": (told := _mmdet_tal(oracle, x)).label, "metric": told.metric},
    ),
    "mmdet_simota": Peer(
        "sim_ota",
        lambda oracle, x: _mmdet_simota(oracle, x).assigned,
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
        lambda oracle, x: _dsla(oracle, x, "mmdet").assigned,
        hyper={"topk": "topk", "radius": "soft_center_radius", "iou_weight": "iou_weight"},
        soft=True,
    ),
    "megvii_ota": Peer(
        "ota",
        lambda oracle, x: _ota(oracle, x, "megvii").assigned,
        hyper={
            "radius": "center_radius",
            "topk": "top_candidates",
            "iou_weight": "reg_weight",
            "regularisation": "sinkhorn_eps",
            "iterations": "sinkhorn_iter",
        },
        numbers=lambda oracle, x, theirs: {"soft": _ota(oracle, x, "megvii").soft},
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
