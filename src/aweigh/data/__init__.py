"""Reading pictures and annotations, changing them for training, and writing detections."""
