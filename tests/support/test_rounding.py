"""What counts as equal up to rounding."""

import numpy as np
import pytest
import torch

from tests.support.rounding import assert_close_in_ulps

ONE = np.array([1.0, -2.0, 0.0, np.inf], np.float32)


def test_a_few_last_places_are_rounding_and_more_are_not():
    assert_close_in_ulps(ONE, ONE, ulps=0)
    near = ONE * np.float32(1 + 3e-7)
    assert_close_in_ulps(torch.from_numpy(ONE), near)
    for other in (ONE * np.float32(1 + 3e-6), ONE + np.float32(1e-6), np.where(ONE == 0, np.nan, ONE), ONE[:2]):
        with pytest.raises(AssertionError):
            assert_close_in_ulps(ONE, other)


def test_numbers_left_of_larger_terms_are_measured_by_these():
    assert_close_in_ulps(np.array([1e-4]), np.array([1e-4 + 3e-7]), size=1.0)
    with pytest.raises(AssertionError):
        assert_close_in_ulps(np.array([1e-4]), np.array([1e-4 + 3e-7]))
