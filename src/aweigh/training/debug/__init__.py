"""A step of training that failed: kept, computed again, looked into."""
