"""Drawn scenes with annotations that are right by construction."""
