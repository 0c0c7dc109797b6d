"""Assigners inside other people's detectors."""
