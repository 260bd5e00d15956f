"""Videos, cameras and streams: frames out of them with their numbers and times, and drawn frames into a video again."""
