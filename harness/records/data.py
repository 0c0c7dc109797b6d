"""Where the data of a run lie: records name data sets, and hold no paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core.errors import UserError
from harness.data.sources import needs_folder


def data_spec(record: Mapping[str, Any], given: str | None) -> str:
    """As ``--data`` takes it: what was given, or the name of a source that needs no folder.

    Raises:
        UserError: if the run's data lie in a folder and none was given.
    """
    kind = str(record["data"]["kind"])
    if given is None and needs_folder(kind):
        raise UserError(
            f"run {record['run_id']} used {record['data']['title']}, and records hold no paths; give --data {kind}:DIR"
        )
    return given or kind
