"""Statistics over records: boards, pairs, intervals, noise."""
