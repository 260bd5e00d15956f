"""The command line: `main.py` and one file per command, each of which imports its work when it runs."""
