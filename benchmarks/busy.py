"""How much longer a prediction takes while another program keeps one core busy.

    python benchmarks/busy.py                        # the detector that comes with the package
    python benchmarks/busy.py box box.onnx --threads 1 2 --rounds 30

A process for each model, number of threads and way of waiting; all predict in turn, a few times each, first while the
machine is idle and then beside a loop without end that is kept to the first core. Medians are compared, and fast ends
(tenth percentiles) of all rounds: on a machine with other work the latter are nearer to the truth.

The ways of waiting are of torch's threads: `sleeps` as `import aweigh` asks of OpenMP, `spins` as OpenMP does alone.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

import aweigh

SIZE_HW = (416, 416)
WAITING = {"sleeps": {}, "spins": {"GOMP_SPINCOUNT": "300000"}}  # what libgomp has where nothing is said
AT_A_TIME = 3  # predictions of a process before the next has its turn
PAUSE = 0.1  # seconds, for the loop to begin or end


class Case(NamedTuple):
    model: str
    threads: int
    waiting: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["box"], help="checkpoints and graphs, as aweigh.load takes them")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--predict", nargs=2, metavar=("MODEL", "THREADS"), help=argparse.SUPPRESS)  # in each process
    options = parser.parse_args()
    if options.predict:
        predict(options.predict[0], int(options.predict[1]))
        return
    cases = [
        Case(model, threads, waiting)
        for model in options.models
        for threads in options.threads
        for waiting in (WAITING if threads > 1 and Path(model).suffix not in (".onnx", ".xml") else ["sleeps"])
    ]
    idle, busy = measured(cases, options.rounds)
    print("| model | threads | waiting | idle, ms (fast end) | busy, ms (fast end) | busy / idle (fast ends) |")
    print("|---|---:|---|---:|---:|---:|")
    for case in cases:
        (median, fast), (median_busy, fast_busy) = middle_and_fast(idle[case]), middle_and_fast(busy[case])
        print(
            f"| {case.model} | {case.threads} | {case.waiting} | {median:.0f} ({fast:.0f}) | {median_busy:.0f} "
            f"({fast_busy:.0f}) | {median_busy / median:.1f} ({fast_busy / fast:.1f}) |"
        )
    print(f"\n{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the end")


def measured(cases: list[Case], rounds: int) -> tuple[dict[Case, list[float]], dict[Case, list[float]]]:
    """Milliseconds of each prediction, without and beside the loop."""
    taken: dict[bool, dict[Case, list[float]]] = {beside: {case: [] for case in cases} for beside in (False, True)}
    with ExitStack() as running:
        processes = {case: running.enter_context(predicting(case)) for case in cases}
        loop = running.enter_context(ended(subprocess.Popen([sys.executable, "-c", "while True: pass"], text=True)))
        os.sched_setaffinity(loop.pid, {min(os.sched_getaffinity(0))})
        for _ in range(rounds):
            for beside, of_cases in taken.items():
                loop.send_signal(signal.SIGCONT if beside else signal.SIGSTOP)
                time.sleep(PAUSE)
                for case, process in processes.items():
                    of_cases[case] += asked(process)
    return taken[False], taken[True]


@contextmanager
def predicting(case: Case) -> Iterator["subprocess.Popen[str]"]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    words = [sys.executable, __file__, "--predict", case.model, str(case.threads)]
    environment, pipe = {**kept, **WAITING[case.waiting]}, subprocess.PIPE
    with ended(subprocess.Popen(words, env=environment, text=True, stdin=pipe, stdout=pipe)) as process:
        asked(process)  # when it is ready
        yield process


@contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def asked(process: "subprocess.Popen[str]") -> list[float]:
    assert process.stdin is not None and process.stdout is not None
    print(file=process.stdin, flush=True)
    times: list[float] = json.loads(process.stdout.readline())
    return times


def predict(model: str, threads: int) -> None:
    """A few predictions for each line of the input, whose milliseconds are written as a line."""
    detector = aweigh.load(model, threads=threads)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    detector(image)
    for _ in sys.stdin:
        times = []
        for _ in range(AT_A_TIME):
            start = time.perf_counter()
            detector(image)
            times.append((time.perf_counter() - start) * 1000)
        print(json.dumps(times), flush=True)


def middle_and_fast(times: list[float]) -> tuple[float, float]:
    return statistics.median(times), statistics.quantiles(times, n=10)[0]


if __name__ == "__main__":
    main()
