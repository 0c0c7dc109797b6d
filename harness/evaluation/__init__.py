"""Detections, and what they are worth."""
