"""Heads of several detectors: region proposals, boxes of regions."""
