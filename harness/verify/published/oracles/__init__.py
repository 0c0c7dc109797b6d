"""Slow, obvious NumPy versions of the assigners: loops over boxes and points, written from the mathematics alone.

Where a function does not say otherwise it takes one image with G boxes, R locations and C classes: `points`, `boxes`
``[G, 4]`` xyxy pixels, `labels` ``[G]``, `logits` ``[R, C]``, `quality` ``[R]`` logits, `predicted` ``[R, 4]`` decoded
boxes.
"""
