"""A folder of strange files, predicted as a process: all others are done, whatever is wrong with one of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.end_to_end import strange

from aweigh.images.reader import SUFFIXES

LARGEST = 1500  # megabytes of resident memory

# A small process between: a child counts what its parent held when it was forked as its own.
MEASURED = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, used = os.wait4(process.pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""

REASONS = {
    "dangling.jpg": "leads nowhere",
    "pipe.jpg": "a pipe",
    "socket.jpg": "a socket",
    "folder.jpg": "a folder",
    "device.jpg": "a device",
    "nothing.jpg": "empty",
    "bomb.png": "too large",
    "not a number.tif": "not finite",
    "wide.tif": "value_range",
    "script.jpg": "not an image",
    "cut 0.3 .jpg": "cut short",
    "no pixels.png": "cut short",
}


@pytest.mark.long
def test_a_folder_of_strange_files(tmp_path: Path) -> None:
    strange.make(tmp_path / "in")
    expected = sorted(entry.name for entry in (tmp_path / "in").iterdir())
    assert len(expected) >= 300 and all(Path(name).suffix.lower() in SUFFIXES for name in expected)
    command = [sys.executable, "-m", "aweigh", "predict", "in", "-o", "out", "--device", "cpu", "--resize", "64"]
    measured = [sys.executable, "-c", MEASURED, *command]
    finished = subprocess.run(measured, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert finished.returncode == 1, finished.stderr.splitlines()[-20:]
    said = finished.stderr.splitlines()
    kilobyte = 1 if sys.platform == "darwin" else 1024
    assert int(finished.stdout.splitlines()[-1]) * kilobyte / 1e6 < LARGEST

    results = [json.loads(line) for line in (tmp_path / "out" / "detections.jsonl").read_text().splitlines()]
    assert [Path(result["path"]).name for result in results] == expected
    failed = {Path(result["path"]).name: result["error"] for result in results if result["error"] is not None}
    assert not [
        name for name, error in failed.items() if f"in/{name}: " not in error or "\n" in error.split(": ", 1)[1]
    ]
    # One line for each that could not be read, and three at the end; nothing of Pillow's, of libtiff's, of Python's.
    assert [line.partition(": ")[0] for line in said[:-3]] == ["left out"] * len(failed)
    assert said[-2] == f"{len(failed)} of {len(expected)} images could not be read."
    assert not any(letter < " " or "\x7f" <= letter <= "\x9f" for line in said for letter in line)

    kinds = ("mode ", "turn ", "frames", "same", "tiff ", "x", "ü", "日")
    whole = [name for name in expected if name.startswith(kinds)]
    assert len(whole) > 120
    assert [name for name in whole if name in failed and "LAB" not in name] == []
    assert "vast 16 bits.png" not in failed and "another name.png" not in failed
    drawn = {path.name for path in (tmp_path / "out").iterdir()}
    assert len(drawn) == len(expected) - len(failed) + 1  # and the file of detections
    assert not list(tmp_path.rglob("*unfinished*")) and not (tmp_path / "started").exists()
    for name, words in REASONS.items():
        assert words in failed[name], (name, failed[name])
