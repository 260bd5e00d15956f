"""Videos, whose frames are the images (see `aweigh.video`): a file, or a pattern that ends as one (`clips/*.mp4`); a
camera (`camera:0`, `/dev/video0`); a stream (`rtsp://...`).

Folders and other patterns stand for images alone.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from aweigh.errors import DataError, UsageError
from aweigh.images.sources.folders import fixed_part, is_there, matches
from aweigh.images.sources.source import Given, Images, Item, Kind
from aweigh.video.decode import SUFFIXES, VideoFile
from aweigh.video.live import CAMERA as CAMERA_NAME
from aweigh.video.live import STREAM as STREAM_NAME
from aweigh.video.live import LiveVideo


def is_called_like_a_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def video_frames(given: Given) -> Images:
    """The frames of a video, in the order shown."""
    video = VideoFile(Path(given.name), given.frames)
    video.check()
    return Images(lambda: iter([video]), root=video.path.parent, quick=False)


def frames_of_several(given: Given) -> Images:
    """The frames of the videos that a pattern matches, one after the other. What is wrong with one is told then."""
    files = sorted(matches(given.name))
    if not files:
        raise DataError(f"There is no file {given.name}.")

    def each() -> Iterator[Item]:
        return (VideoFile(file, given.frames) for file in files)

    return Images(each, root=fixed_part(Path(given.name)), quick=False)


def live_frames(given: Given) -> Images:
    """The frames of a camera or a stream, the newest whenever one is asked for."""
    if STREAM_NAME.match(given.name) and not given.allow_net:
        raise UsageError(
            f"{given.name} is an address, and nothing is fetched unless it is allowed: add --allow-net, in Python "
            "allow_net=True."
        )
    video = LiveVideo(given.name, given.frames)
    video.check()
    return Images(lambda: iter([video]), quick=False, live=True)


def _is_a_file(name: str) -> bool:
    return is_there(name) and not os.path.isdir(name)


CAMERA = Kind("a camera", lambda name: CAMERA_NAME.fullmatch(name) is not None, live_frames)
STREAM = Kind("a stream", lambda name: STREAM_NAME.match(name) is not None, live_frames)
VIDEO = Kind("a video", lambda name: is_called_like_a_video(name) and _is_a_file(name), video_frames)
VIDEOS = Kind("a pattern", lambda name: is_called_like_a_video(name) and glob.has_magic(name), frames_of_several)
