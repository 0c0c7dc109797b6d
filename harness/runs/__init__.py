"""One run from request to record; a run that is evaluated again or used by another."""
