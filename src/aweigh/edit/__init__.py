"""A data set made of others: cleaned, merged, completed, divided."""
