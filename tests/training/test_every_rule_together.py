"""Two processes with the same global batch have the losses of one, whatever the rule."""

from __future__ import annotations

import pytest

from assigners import registry
from harness.core.distributed import Processes
from tests.support.runs import DEADLINE, together, trace_of
from tests.training.every_rule import BOXES, STEPS, train

SHARE = ("iqdet", "paa", "free_anchor")  # soft labels between locations, a mixture fit, replaced losses
REST = tuple(entry.name for entry in registry.catalogue() if entry.name not in SHARE)
SCRIPT = "from tests.training.every_rule import main\nmain()\n"


def hold_to_one_process(names, folder):
    """Losses to 1e-5 in every step, and statistics; one pair of processes goes through all rules."""
    together(folder, SCRIPT, str(folder / "two"), *names, deadline=DEADLINE + 30 * len(names))
    for name in names:
        train(name, Processes(), folder / "one")
        one, two = (trace_of(folder / side / name) for side in ("one", "two"))
        assert len(one) == len(two) == STEPS
        positives = [line["statistics"]["positives_per_box"] for line in one]
        assert [bool(each) for each in positives] == [any(BOXES[step % len(BOXES)]) for step in range(STEPS)], name
        for a, b in zip(one, two, strict=True):
            where = f"{name}, step {a['step']}"
            assert b["losses"] == pytest.approx(a["losses"], rel=1e-5, abs=1e-5), where
            assert b["statistics"] == pytest.approx(a["statistics"], rel=1e-4, abs=1e-4), where


def test_two_processes_give_the_losses_of_one_for_a_share_of_the_rules(tmp_path):
    hold_to_one_process(SHARE, tmp_path)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_for_every_other_rule(tmp_path):
    hold_to_one_process(REST, tmp_path)
