"""What a network costs, how long it takes on this machine, and how it uses its own features."""

from aweigh.profiling.timing import Profile, profile

__all__ = ["Profile", "profile"]
