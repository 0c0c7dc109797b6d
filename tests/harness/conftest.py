"""Undisturbed runs, made once and compared with many times."""

from __future__ import annotations

import pytest

from tests.harness.runs import request, run, small_protocol


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A function: the outcome of a small run of an assigner under a small protocol, run at most once. Read only."""
    known = {}

    def outcome(assigner="iqdet", protocol=None):
        protocol = protocol or small_protocol()
        key = assigner, protocol.digest
        if key not in known:
            known[key] = run(request(tmp_path_factory.mktemp("undisturbed"), assigner, protocol))
        return known[key]

    return outcome
