"""Results stores for the report: records and details, made up."""

import numpy as np

from harness.core.files import dump, write_atomically
from harness.protocol.protocol import load_protocol
from harness.records.details import save_details
from harness.records.store import ResultsStore
from tests.support.fakes import DATA, changed, make_details, make_record

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">&"\''
APS = {"paa": (50.1, 50.4, 49.8), "atss": (49.2, 50.6, 48.9), "center": (40.0, 40.5, 39.6)}
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


def fill(root, aps=APS, *, options=None, data=None, details=True, protocol=None, **changes):
    """A store with a run for each assigner and seed; step times rise from assigner to assigner."""
    store, protocol = ResultsStore(root), protocol or load_protocol("tiny")
    for place, (assigner, values) in enumerate(aps.items()):
        for seed, ap in enumerate(values):
            record = make_record(
                protocol, assigner=assigner, seed=seed, ap=ap, options={"radius": 1.5, **(options or {})},
                changed_options=options or {}, data=data or DATA, **changes,
            )  # fmt: skip
            record = changed(record, cost={"step_ms": 100.0 + 10 * place})
            store.save(record)
            if details and ap is not None:
                save_details(store, details_of(record))
    return store


def details_of(record):
    """Replicates with image noise that all runs share, curves that fall and rise, and a few mistakes."""
    ap = record.metrics.AP
    values = (ap + np.random.default_rng(0).normal(0, 1, 100)).round(4).tolist()
    steps = list(range(5, 60, 10))
    gain = {kind: round(ap / (place + 10), 3) for place, kind in enumerate(KINDS)}
    errors = {"score": 0.3, "counts": dict.fromkeys(KINDS, 7), "objects": 9, "gain": gain}
    trace = {
        "step": steps, "losses": {"class": [1 / (1 + s) for s in steps], "box": [None, *[0.5] * 5]},
        "statistics": {"iou_of_positives": [0.1 + s / 100 for s in steps]},
    }  # fmt: skip
    return make_details(record, values, errors=errors, trace=trace)


def write_insight(store, name, names):
    """What `harness insight` writes, as far as the report reads it."""
    same = [[1.0 if a == b else 0.25 for b in names] for a in names]
    each = {
        "parameters": "none", "per_box": {"positives": 4.0, "without": 0.1}, "ambiguous": {"share": None},
        "outside": {"box": 0.0, "centre": 0.2}, "quality": {"iou": 0.5, "label": 1.0, "rank_correlation": None},
    }  # fmt: skip
    insight = {
        "schema": 1, "run_id": "a-run", "boxes": 12, "image_ids": [0, 1],
        "assigners": [{"name": other, **each} for other in names],
        "agreement": {"all": {"boxes": 12, "mass": same, "cells": same}},
    }  # fmt: skip
    write_atomically(store.root / "insight" / name, dump(insight))
