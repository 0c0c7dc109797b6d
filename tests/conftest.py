"""Settings and fixtures of the whole test suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from assigners import registry

# The same examples on every machine and no deadline: a slow machine must not turn a test red.
settings.register_profile(
    "ci",
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("ci")

torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_plugins_of_another_test():
    """The catalogue remembers the installed plugins for the whole process; a test may pretend that there are others."""
    registry._plugins.cache_clear()
    yield
    registry._plugins.cache_clear()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real data sets: `ASSIGNER_ZOO_DATA`, or else ../shared/data beside the repository."""
    root = Path(os.environ.get("ASSIGNER_ZOO_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; set ASSIGNER_ZOO_DATA to run this test")
    return root


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A function: the outcome of a small run of an assigner under a small protocol, run at most once. Read only."""
    from tests.support.runs import request, run, small_protocol

    known = {}

    def outcome(assigner="iqdet", protocol=None):
        protocol = protocol or small_protocol()
        key = assigner, protocol.digest
        if key not in known:
            known[key] = run(request(tmp_path_factory.mktemp("undisturbed"), assigner, protocol))
        return known[key]

    return outcome
