"""What is in the way of a run on this machine, and what to do about it: packages, devices, room, data, records.

Nothing heavy is imported before the check that is about it: a broken installation is one of the things to find.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from harness.doctor import data, machine, software, storage
from harness.doctor.rows import Check, Finding, State, examine
from harness.protocol.protocol import Protocol

__all__ = ["Check", "Finding", "State", "all_checks", "examine"]


def all_checks(results: Path, data_sets: Mapping[str, Protocol]) -> dict[str, Check]:
    """Every check, in the order in which one builds on another; for `examine`.

    Args:
        results: the results directory; it need not exist.
        data_sets: data to open, with the protocol that names splits and sizes.
    """
    return {
        "packages": software.packages,
        "imports": software.imports,
        "source": software.source,
        "cores": machine.cores,
        "memory": machine.memory,
        "devices": machine.devices,
        "computation": machine.computation,
        "embedded data": data.embedded,
        **{f"data {spec}": partial(data.opened, spec, protocol, results) for spec, protocol in data_sets.items()},
        "disk": partial(storage.disk, results),
        "results": partial(storage.writable, results),
        "records": partial(storage.records, results),
        "unfinished runs": partial(storage.unfinished, results),
        "tools": software.tools,
    }
