"""A command line that is run again in several processes."""

import os
import sys

from aweigh.errors import UsageError, check_reach


def run_in_processes(count: int) -> int:
    """Run this command line again in `count` processes, as `torchrun` does; the exit code."""
    check_reach("processes", count)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    if "WORLD_SIZE" in os.environ:
        raise UsageError("--processes starts processes, and torchrun has done so already; leave one of them out.")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    words, kept = iter(sys.argv[1:]), []
    for word in words:
        if word == "--processes":
            next(words, None)
        elif not word.startswith("--processes="):
            kept.append(word)
    try:
        torchrun(["--standalone", "--nproc-per-node", str(count), "-m", "aweigh", *kept])
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0
