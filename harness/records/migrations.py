"""Records of earlier schemas, as this version reads them.

A record's file never changes. What a later schema asks for besides is filled in on reading, one version at a time,
from what the record itself says; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.core.errors import UserError, shorten
from harness.records.schema import SCHEMA


def migrate(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of any known schema, as one of this version's. The argument stays as it is.

    Args:
        record: what a file holds; it need not be valid, and what comes back is to be validated.

    Raises:
        UserError: for what names no schema, or a newer one; the message follows the name of the file.
    """
    schema = record.get("schema")
    if type(schema) is not int or schema < 1:
        raise UserError("is not a record: its schema is none of " + ", ".join(map(str, range(1, SCHEMA + 1))))
    if schema > SCHEMA:
        raise UserError(
            f"is a record of schema {shorten(str(schema))}, newer than the {SCHEMA} that this version knows; "
            "update assigner-zoo to read it"
        )
    migrated = dict(record)
    for version in range(schema, SCHEMA):
        migrated = {**_FROM[version](migrated), "schema": version + 1}
    return migrated


def _from_1(record: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 says what the assigner declared, what was equal, and which code trained a resumed run's earlier parts.

    Under schema 1 no assigner declared anything but PAA, with its option; and nobody took note of the rest.
    """
    options, source = record.get("options"), record.get("source")
    voted = record.get("assigner") == "paa" and isinstance(options, dict) and options.get("score_voting") is True
    return {
        **record,
        "declares": {"score_voting": True} if voted else {},
        "equal": {"initial_weights": None, "batches": None},
        "source": {**source, "earlier": []} if isinstance(source, dict) else source,
    }


_FROM: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
