"""Annotation files as people have them: a layout is found in a folder, read, and written."""
