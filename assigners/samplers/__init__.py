"""Samplers: which of the locations that an assigner leaves to the background are learnt, beside any rule."""
