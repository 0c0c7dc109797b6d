"""What every assigner owes its contract."""
