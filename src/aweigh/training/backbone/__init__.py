"""Training a backbone on classes of images."""
