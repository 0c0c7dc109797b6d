"""The questions every registered assigner must answer the same way: the checks of `harness verify`, under pytest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from assigners.contract import Assigner, HeadInfo
from assigners.registry import catalogue, create, load, option_defaults
from harness.verify.checks.catalogue import CHECKS, Check
from tests.assigners.common import build

NAMES = [entry.name for entry in catalogue()]

pytestmark = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_contract(name: str, check: Check) -> None:
    if check.needs_cuda and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if check.of_gradients and not load(name).needs.grads:
        return  # it has no losses over predictions; not a skip, for nothing is missing here

    @settings(max_examples=check.examples)
    @given(check.scenes)
    def ask(scene):
        check.run(lambda scene: build(name, scene), scene)

    ask()


def test_options_are_recorded_and_have_defaults(name: str) -> None:
    assigner = create(name, HeadInfo(5, 4))
    assert assigner.options == option_defaults(name)
    assert isinstance(assigner, Assigner)
