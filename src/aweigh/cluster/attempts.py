"""Which images a process was at when it died, so that one image costs itself and not the job.

A process that dies says nothing (the system ended it for its memory, a decoder crashed). So it says beforehand which
images it is at. A part whose process died is begun anew: at first as it was, since machines go for other reasons too;
after a second death what the process was at is looked at one by one; and of an image that a process dies of alone,
which makes three deaths, no one is asked any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DEATHS = 2  # of a part, before its images are looked at one by one; ours


@dataclass
class _Part:
    at: range = range(0)  # what its process is at
    deaths: int = 0
    alone: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)


class Attempts:
    """Of each part that is being done, by the places of its images in it."""

    def __init__(self) -> None:
        self._parts: dict[int, _Part] = {}

    def begin(self, part: int) -> tuple[set[int], set[int]]:
        """A process begins a part, which it may have begun before: the images to look at one by one, and those to look
        at no more."""
        known = self._parts.setdefault(part, _Part())
        if known.at:
            known.deaths += 1
            if len(known.at) == 1 and known.at.start in known.alone:
                known.lost.add(known.at.start)
            elif known.deaths >= DEATHS:
                known.alone.update(known.at)
            known.at = range(0)
        return set(known.alone), set(known.lost)

    def at(self, part: int, images: range) -> None:
        """The process that does this part is at these images."""
        self._parts.setdefault(part, _Part()).at = images

    def done(self, part: int) -> None:
        """The part is there."""
        self._parts.pop(part, None)
