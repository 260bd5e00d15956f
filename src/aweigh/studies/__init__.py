"""Tables of papers, and of users, run on one's own data: rows of detectors, trained with equal budget and compared."""
