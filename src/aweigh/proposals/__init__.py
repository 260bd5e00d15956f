"""Where proposals come from: a detector, or a file of another program. What they are: `annotations/proposals.py`."""
