"""Training: configuration, the loop, its state, several processes."""
