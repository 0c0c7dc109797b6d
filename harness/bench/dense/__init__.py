"""Dense, per-image, textbook versions of the rules: tables of all boxes and all locations, as public toolboxes have."""
