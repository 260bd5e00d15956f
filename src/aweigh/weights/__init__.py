"""Published weights: where they are, what they are, and how they become ours."""
