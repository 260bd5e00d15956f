"""Work that threads do ahead of who needs it: in order, and only so far ahead.

    for pixels in computed_ahead(read_image, paths, ahead=4, threads=2): ...

What leaves Python's lock gains by it: decoding, writing and compressing of images, networks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def computed_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int, threads: int = 1
) -> Generator[Result]:
    """`function(item)` of each item, in their order, computed by `threads` while the caller does something else.

    ahead: how many are begun, or done and not yet taken, beside the one that the caller has; with 0 there are no
    threads, and each is computed when it is asked for. `items` are taken by the caller's own thread, one for each that
    is begun. What `function` raises is raised in the place of its result, what `items` raise at once; either ends it.

    However it ends, also by `close()` or Ctrl-C, what is not yet begun is left out, what is running is waited for, and
    no thread stays behind.
    """
    if ahead == 0:
        yield from map(function, items)
        return
    begun: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="aweigh-ahead")
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
