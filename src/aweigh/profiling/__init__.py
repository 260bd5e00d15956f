"""What a network costs, and how it uses its own features."""
