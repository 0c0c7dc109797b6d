"""Fair measurement of label assigners: protocol, data, training, evaluation, records."""
