"""Tables that verbs show."""
