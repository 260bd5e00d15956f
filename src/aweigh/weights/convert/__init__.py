"""One key table per foreign source of weights."""
