"""Tensor operations without a meaning of their own in detection."""
