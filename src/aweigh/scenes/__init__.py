"""Drawn scenes with annotations that are right by construction, and a drawn street to try a detector on."""

from pathlib import Path

STREET = Path(__file__).with_name("street.jpg")
"""The image of `aweigh predict --sample`, see `street.py`."""
