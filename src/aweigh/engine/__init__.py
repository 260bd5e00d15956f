"""Training: configuration, the loop, checkpoints, logs and evaluation."""
