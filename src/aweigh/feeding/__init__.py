"""What a network is fed with: images and targets, changed at random for training, drawn in an order, in batches."""
