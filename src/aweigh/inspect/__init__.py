"""The data doctor: what is in a data set, what is wrong with it, and what to do about it."""
