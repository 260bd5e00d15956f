"""One self-describing file per model, and the state of a run."""
