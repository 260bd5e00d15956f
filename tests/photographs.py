"""A photograph that is on every machine with the tests' dependencies."""

from pathlib import Path

import matplotlib


def portrait() -> Path:
    """Of a person, 512 x 600 pixels; matplotlib brings it along."""
    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
