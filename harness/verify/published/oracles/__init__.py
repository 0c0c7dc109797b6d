"""Slow, obvious NumPy versions of the assigners: loops over boxes and points, written from the mathematics alone."""
