"""The procedural set `shapes`."""
