"""Detections and proposals as files, ours and those of other programs."""
