"""What is equal for all assigners of a comparison, and the weights to start from."""
