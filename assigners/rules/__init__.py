"""One published rule a file."""
