"""What an assigner costs: time and memory on synthetic scenes beside dense code, and its share of a training step."""
