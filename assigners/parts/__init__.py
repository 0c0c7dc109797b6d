"""Steps that rules share."""
