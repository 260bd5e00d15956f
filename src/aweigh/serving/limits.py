"""What a service takes on: how large a request may be, how long it may last, and how many may wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from aweigh.arguments import Count, Positive, Within, check_fields

Size = Annotated[int, Within(1, 1 << 34)]


@dataclass(frozen=True)
class Limits:
    """All are ours. bytes: of what a request sends. pixels: of an image. images: of a request. seconds: from when a
    request is complete to its answer. receive_seconds: for the head of a request, and for what it sends. waiting:
    images that are accepted and not yet computed. connections: that are open at a time. tiles: of an image."""

    bytes: Size = 20_000_000
    pixels: Size = 50_000_000
    images: Count = 16
    seconds: Positive = 30.0
    receive_seconds: Positive = 20.0
    waiting: Count = 64
    connections: Count = 1024
    tiles: Count = 500

    def __post_init__(self) -> None:
        check_fields(self)
