"""How sure a comparison is: re-weighted AP, intervals, rank groups, and the coverage that they achieve."""
