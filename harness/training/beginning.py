"""The first steps of a run, watched for what it is to learn from: objects, and positive samples for them.

Without either the losses fall all the same, to those of a detector that finds nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from harness.core.errors import RunFailed
from harness.core.text import counted

WATCHED = 100  # steps

_POSITIVES = "positives_per_box"  # the loss gives it for every assigner: positive samples over objects
_SHARED = (_POSITIVES, "iou_of_positives")


def unseen() -> dict[str, float]:
    """Nothing has been counted yet."""
    return {"objects": 0.0, "positives": 0.0}


def count(
    seen: dict[str, float], sums: Mapping[str, float], counts: Mapping[str, float], replaced: frozenset[str]
) -> None:
    """Add one step to what was seen.

    Args:
        seen: what `unseen` began; changed in place.
        sums, counts: of each statistic of the step, over all processes.
        replaced: the shared terms that the assigner's own losses stand for. One that replaces the box term may learn
            without a positive sample: what its own statistics count speaks for it then, and if it has none, nothing
            but objects is asked for.
    """
    objects, positives = counts[_POSITIVES], sums[_POSITIVES]
    if "box" in replaced:
        particular = [value for name, value in counts.items() if name not in _SHARED]
        positives += sum(particular) if particular else objects
    seen["objects"] += objects
    seen["positives"] += positives


def expect_something_to_learn(seen: Mapping[str, float], steps: int, short_edge: int, data: str) -> None:
    """Stop a run that learns from nothing.

    Args:
        seen: over the first `steps` steps.
        short_edge: px that images are resized to.
        data: as ``--data`` takes it.

    Raises:
        RunFailed: if there was no object, or objects and no positive sample.
    """
    if seen["positives"]:
        return
    first = f"the first {counted(steps, 'step')}" if steps > 1 else "the first step"
    if seen["objects"]:
        what = f"{first} had {counted(int(seen['objects']), 'object')} and no positive sample"
        why = f"boxes in other units than pixels, or too small at a short edge of {short_edge} px"
    else:
        what = f"{first} had no object"
        why = "the annotations of the training split are empty, left out or of other images"
    raise RunFailed(
        f"{what}, so nothing is learnt; likely {why}; look at the boxes as they are learnt with: "
        f"harness data {shlex.quote(data)}"
    )
