"""The errors a user can meet, each with the exit code the command line ends with.

Every message says what is wrong, where, what was expected and what to do. Exit codes: 0 done, 1 failed while
running, 2 wrong usage or configuration, 3 problems in the data, 4 a gate (parity, metric) not met.
"""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

# Control characters, bytes that are no text, and what ends a line or turns the direction of writing in Unicode.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")
LONGEST = 600  # characters of one problem


class AweighError(Exception):
    """A failure that is explained to the user in one line, without a traceback."""

    exit_code = 1


class UsageError(AweighError):
    """A wrong argument, an unknown name, an unknown configuration key."""

    exit_code = 2


class DataError(AweighError):
    """A file, folder or annotation that cannot be used as it is."""

    exit_code = 3


class GateError(AweighError):
    """A promised number (parity, metric) that was not reached."""

    exit_code = 4


PLURAL_VERBS = {"has": "have", "is": "are", "was": "were", "does": "do"}


def counted(number: int, noun: str, verb: str = "") -> str:
    """`counted(1, "box")` is "1 box", `counted(1200, "box")` "1,200 boxes"; a noun may have words before it.

    verb: in its singular, as "has" or "lies"; it follows the noun and agrees with the number.
    """
    if number == 1:
        return f"1 {noun} {verb}".rstrip()
    if re.search(r"(s|x|sh|(?<!epo)ch)$", noun):
        noun = f"{noun}es"
    else:
        noun = f"{noun[:-1]}ies" if re.search(r"[^aeiou]y$", noun) else f"{noun}s"
    return f"{number:,} {noun} {PLURAL_VERBS.get(verb, verb.removesuffix('s'))}".rstrip()


def shortened(number: float) -> str:
    """`145.8 M`: three or four digits and a prefix."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= factor:
            return f"{number / factor:.{max(0, 3 - len(str(math.floor(number / factor))))}f}{prefix}"
    return f"{number:.0f}"


# What may not be installed, and the extra of this package that brings it.
EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "timm", "safetensors", "matplotlib"), "train"),
    **dict.fromkeys(("onnx", "onnxscript"), "export"),
    **dict.fromkeys(("starlette", "uvicorn", "h11", "python_multipart", "prometheus_client"), "serve"),
    "openvino": "openvino",
    "pyarrow": "parquet",
    "av": "video",
    "ray": "ray",
}


@contextmanager
def said_if_missing(what: str, otherwise: str = "") -> Iterator[None]:
    """`UsageError` with what to install, in place of the error of an import of what an extra brings.

    what: needs it, as the beginning of a sentence. otherwise: what can be done instead.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise UsageError(
            f'{what} needs {package}, which is not installed: pip install "aweigh[{EXTRAS[package]}]"'
            f"{otherwise and f', or {otherwise}'}."
        ) from error


def lost_worker(error: BaseException) -> bool:
    """Whether torch says that a process that reads images is gone, which it does wherever the program just is."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'person'?"` when a known name is close to `name` (ignoring case), else an empty string."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return f" Did you mean '{by_folded[close[0]]}'?" if close else ""


def some_of(names: Sequence[object], most: int = 6, between: str = ", ") -> str:
    """The first of the names, and how many there are besides: `"cat, dog and 3 more"`; "none" of none."""
    shown = between.join(printable(str(name)) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "none"


def printable(text: str) -> str:
    """The text in one line of bounded length; what would move the cursor of a terminal is spelled out."""
    return escaped(text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}")


def escaped(text: str) -> str:
    """The whole text in one line: control characters, line ends and bytes that are no text are spelled out."""
    return UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], text)


def spelled_out(text: str) -> str:
    """A text of several lines as it can be shown: control characters but line ends and tabulators as JSON spells them.

    What is printed as JSON stays JSON. A text that has to stay on one line is `printable` or `escaped`.
    """
    return UNPRINTABLE.sub(lambda found: found[0] if found[0] in "\n\t" else f"\\u{ord(found[0]):04x}", text)


LARGEST_NUMBER = 2**31 - 1
# The least and the largest that settings of these names take in every command; ours, where memory or processes end.
REACH: dict[str, tuple[float, float]] = {
    "batch": (1, 4096),
    "accumulate": (1, 65_536),
    "workers": (-1, 1024),
    "processes": (1, 1024),
    "threads": (1, 1024),
    "seed": (0, LARGEST_NUMBER),
    "short": (0, 1 << 15),
    "long": (0, 1 << 15),
    "size": (0, 1 << 15),
    "multi_scale": (1, 1 << 15),
    "scale_jitter": (0, 100),
    "affine_crop": (0, 100),
    "object_crop": (0, 1 << 15),
    "steps": (0, LARGEST_NUMBER),
}


def check_reach(name: str, value: object) -> None:
    """`UsageError` for a number, or one of several, that no setting of this name may be, nor any that is not finite."""
    least, most = REACH.get(name, (-LARGEST_NUMBER, LARGEST_NUMBER))
    for number in value if isinstance(value, tuple | list) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not least <= number <= most:  # nor NaN
            raise UsageError(f"{name} = {printable(str(number))}: expected a number from {least:,} to {most:,}.")
