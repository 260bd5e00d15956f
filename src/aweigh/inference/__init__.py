"""Detectors run by torch: the engine, whole splits with losses, devices and memory."""
