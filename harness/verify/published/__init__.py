"""Answers of published implementations and of slow oracles."""
