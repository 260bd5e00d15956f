"""The command `aweigh`: which commands there are, and how every one of them ends.

Commands are registered by the place they are defined and imported when they are called; none imports torch before
it runs, so that `aweigh --help` is quick. A mistake of the user's ends with one line on the error stream and the
exit code of `aweigh.errors`. Anything unexpected keeps its traceback and ends with 1. `AWEIGH_DEBUG=1` shows the
traceback of the user's mistakes too.
"""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError, Group, Parameter

from aweigh import __version__
from aweigh.cli.ending import Ended, ended_by_signals, shown_output
from aweigh.cli.help import HELP_ALL, HELP_FLAGS, all_wanted, epilogue
from aweigh.cli.terminal import one_line
from aweigh.errors import LARGEST_NUMBER, AweighError, UsageError, lost_worker, said_if_missing

USE = Group("Find objects", sort_key=1)
TRAIN = Group("Train", sort_key=2)
MEASURE = Group("Measure", sort_key=3)
DATA = Group("Data sets", sort_key=4)
ABOUT = Group("About", sort_key=5)
OTHER = Group("Options", sort_key=6)


def _within_reach(_: object, value: object) -> None:
    """What no whole number of any command may be; what each number may be is checked where it is used."""
    numbers = value if isinstance(value, tuple | list) else (value,)
    if any(isinstance(number, int) and abs(number) > LARGEST_NUMBER for number in numbers):
        raise ValueError(f"Expected a number from -{LARGEST_NUMBER:,} to {LARGEST_NUMBER:,}.")


app = App(
    name="aweigh",
    help="Find objects in images: train a detector on your own, measure it, and use it.",
    version=__version__,
    help_format="plaintext",
    help_flags=HELP_FLAGS,
    group_commands=OTHER,
    default_parameter=Parameter(validator=_within_reach),
    suppress_keyboard_interrupt=False,  # `run` ends it
)

COMMANDS = [
    ("predict", USE, "Find objects in images: draw the boxes and write them to a file."),
    ("serve", USE, "Answer requests over HTTP, and show a page to try a detector on."),
    ("cluster", USE, "Tell how far a prediction is that `aweigh predict --cluster` began."),
    ("demo", USE, "Go the whole way in a few minutes: draw data, train, measure, predict. Downloads nothing."),
    ("export", USE, "Write a detector as a file that runs without torch, and compare what the two find."),
    ("train", TRAIN, "Train a detector on a folder of labelled images (COCO, VOC, YOLO, KITTI and more)."),
    ("resume", TRAIN, "Go on with a training run that was stopped, killed or finished."),
    ("train-backbone", TRAIN, "Train a backbone on images sorted into folders by class."),
    ("config", TRAIN, "Show the configuration a training run would have."),
    ("debug", TRAIN, "Compute a training step that failed again, on the CPU, and say where and why."),
    ("average", TRAIN, "Write the mean of several checkpoints of one detector."),
    ("shrink", TRAIN, "Write a checkpoint in half precision, at half the size."),
    ("eval", MEASURE, "Measure a detector, or a file of results, on a labelled split."),
    ("proposals", MEASURE, "Write proposals for each image, for Fast R-CNN, and measure how many objects they reach."),
    ("explain", MEASURE, "Say where detections come from: level, place, parts of the score, what they suppressed."),
    ("why-not", MEASURE, "Say in which test an object was lost that is in an image and was not found."),
    ("bench", MEASURE, "Time detectors step by step, of any engines, in turn in one process."),
    ("profile", MEASURE, "What a network costs, how long it takes on this machine, and why."),
    ("study", MEASURE, "Run a table of a paper, or your own, on your data: every row with equal budget."),
    ("data", DATA, "Check, convert, merge and complete data sets; draw one to try."),
    ("models", ABOUT, "List the detectors that can be built, and what is known of each."),
    ("info", ABOUT, "Show what a checkpoint says about itself."),
    ("doctor", ABOUT, "Check that torch, torchvision and every device of this machine work."),
]
# Where a command is defined that is not NAME:command.
PLACES = {
    "eval": "evaluate:command",
    "data": "data:app",
    "cluster": "cluster:app",
    "config": "train:config_app",
    "profile": "profile:app",
    "study": "study:app",
}

for _sort, (_name, _group, _help) in enumerate(COMMANDS):
    _place = "aweigh.cli." + PLACES.get(_name, f"{_name.replace('-', '_')}:command")
    _below = {} if _place.endswith("app") else {"help_epilogue": epilogue(_name)}  # an app says it itself
    app.command(_place, name=_name, group=_group, help=_help, sort_key=_sort, **_below)
app.register_install_completion_command(group=OTHER, help="Let the shell complete commands and flags.")


def main() -> NoReturn:
    """What the `aweigh` script calls."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; a traceback leaves it only for what nobody foresaw."""
    with ended_by_signals(), shown_output():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    all_wanted.set(HELP_ALL in arguments)
    try:
        with said_if_missing("This"):
            code = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return int(code or 0)
    except CycloptsError as error:
        return _explain(UsageError(f"{one_line(str(error))} See: {_help_for(arguments)}"))
    except AweighError as error:
        return _explain(error)
    except KeyboardInterrupt as error:
        print("stopped", file=sys.stderr)
        return 128 + (error.number if isinstance(error, Ended) else signal.SIGINT)
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RuntimeError as error:
        if not lost_worker(error):
            raise
        return _explain(
            AweighError(
                f"A process that reads images is gone ({error}); where memory was short, give fewer --workers."
            ),
            cause=error,
        )
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        return _explain(AweighError(f"{where}{error.strerror or error}."), cause=error)


def _explain(error: AweighError, cause: BaseException | None = None) -> int:
    if os.environ.get("AWEIGH_DEBUG") == "1":
        raise error from cause
    print(f"error: {one_line(str(error))}", file=sys.stderr)
    return error.exit_code


def _help_for(arguments: Sequence[str]) -> str:
    names = {name for name, _, _ in COMMANDS}
    return f"aweigh {arguments[0]} --help" if arguments and arguments[0] in names else "aweigh --help"
