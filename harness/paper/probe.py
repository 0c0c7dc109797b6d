"""A probe: the smallest run of every row of a table, to see that it works on this machine and what it costs.

Two training steps of one image each and the evaluation of another, from random weights, so that nothing is downloaded.
Its records lie in a store of their own, apart from runs whose AP means something; a plan takes its times from them
until there are better ones.
"""

from __future__ import annotations

from pathlib import Path

from harness.records.store import ResultsStore

FOLDER = "probes"  # of the results
WORDS = "two training steps of one image, one evaluated image"

CHANGES = (
    "model.pretrained=false",
    "schedule.steps=2",
    "schedule.batch_size=1",
    "data.train_images=2",
    "data.val_images=1",
    "evaluation.batch_size=1",
)


def probe_store(results: Path) -> ResultsStore:
    """Where the probes of a results directory lie."""
    return ResultsStore(results / FOLDER)
