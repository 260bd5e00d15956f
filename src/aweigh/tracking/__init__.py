"""Which detections of one frame are the objects of the frames before it: an id for each, from frame to frame."""
