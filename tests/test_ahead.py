"""What threads compute ahead comes in order, is bounded, fails in its place, and leaves no thread."""

import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh.ahead import computed_ahead


def left():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("aweigh-ahead")]


@settings(deadline=None, max_examples=40)
@given(
    pauses=st.lists(st.integers(0, 3), max_size=12), ahead=st.integers(0, 5), threads=st.integers(1, 4), stop=st.data()
)
def test_results_are_in_order_and_no_more_than_asked_for_is_begun(pauses, ahead, threads, stop):
    wanted = stop.draw(st.integers(0, len(pauses)))
    begun, lock, running, most_running = [], threading.Lock(), 0, 0

    def work(item):
        nonlocal running, most_running
        with lock:
            running += 1
            most_running = max(most_running, running)
        time.sleep(item[1] / 2000)
        with lock:
            running -= 1
        return item

    def items():
        for item in enumerate(pauses):
            assert threading.current_thread() is threading.main_thread()
            begun.append(item)
            yield item

    results = computed_ahead(work, items(), ahead=ahead, threads=threads)
    taken = []
    assert begun == []  # nothing before it is asked for
    for _ in range(wanted):
        taken.append(next(results))
        assert len(begun) - len(taken) <= ahead
    results.close()
    assert taken == [*enumerate(pauses)][:wanted]
    assert most_running <= (threads if ahead else 1) and running == 0 and left() == []


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_an_error_comes_in_its_place_and_ends_the_iteration(ahead):
    done = []

    def work(number):
        time.sleep(0.001 if number == 2 else 0)
        if number == 2:
            raise ValueError("no 2")
        done.append(number)
        return number

    results, taken = computed_ahead(work, range(100), ahead=ahead, threads=2), []
    with pytest.raises(ValueError, match="no 2"):
        taken.extend(iter(results.__next__, None))
    assert taken == [0, 1] and max(done) <= 2 + ahead and left() == []
    assert list(results) == []


def test_work_is_done_while_the_caller_does_something_else():
    third = threading.Event()
    results = computed_ahead(lambda number: third.set() if number == 2 else None, range(3), ahead=2, threads=1)
    next(results)
    assert third.wait(10)  # nobody has asked for it yet
    results.close()
    in_turn = computed_ahead(lambda number: number, iter(range(3)), ahead=0)
    assert next(in_turn) == 0 and left() == []  # no threads


def test_what_the_items_raise_ends_it_too():
    def items():
        yield 1
        raise OSError("the camera is gone")

    with pytest.raises(OSError, match="camera"):
        list(computed_ahead(abs, items(), ahead=3, threads=2))
    assert left() == []


INTERRUPTED = """
import signal, threading, time
from aweigh.ahead import computed_ahead

done = []
def slow(number):
    time.sleep(0.2)
    done.append(number)

signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    list(computed_ahead(slow, range(50), ahead=40, threads=2))
except KeyboardInterrupt:
    print(len(done), len(threading.enumerate()))
"""


def test_ctrl_c_leaves_out_what_is_not_yet_begun():
    said = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True).stdout
    done, threads = map(int, said.split())
    assert done <= 4 and threads == 1
