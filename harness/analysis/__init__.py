"""Why assigners differ: one image, agreement over many, what would change an answer."""
