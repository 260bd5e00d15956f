"""What one looks at: boxes, masks and keypoints on images (`pictures.py`), several on a sheet (`sheet.py`), objects
in space on them and from above (`space.py`), curves and matrices (`charts.py`)."""
