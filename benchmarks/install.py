"""What an install weighs, without extras and with those of training: MB of each package; and how the first commands do.

    python benchmarks/install.py --out benchmarks/results/install.md

Each is the built wheel in an environment of its own, made by uv. A size is that of the files a package brings, of 10^6
bytes, without bytecode. Processor seconds and memory (largest resident size) are of a process, after one that is not
counted: the least of five, and the largest.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from start import commit

ROOT = Path(__file__).parents[1]
INSTALLS = {"aweigh": "", "aweigh[train]": "[train]"}
COMMANDS = {
    "a bare interpreter": ["-c", "pass"],
    "`aweigh --help`": ["-m", "aweigh", "--help"],
    "`aweigh predict --sample`": ["-m", "aweigh", "predict", "--sample", "-o", "OUT"],
    "`aweigh predict --sample --runtime torch`": [
        "-m",
        "aweigh",
        "predict",
        "--sample",
        "-o",
        "OUT",
        "--runtime",
        "torch",
    ],
}
SMALL = 1.0  # MB; packages below are shown together
REPEATS = 5
WEIGH = """
import json
from importlib import metadata
sizes = {}
for package in metadata.distributions():
    files = [file.locate() for file in package.files or [] if file.suffix != ".pyc"]
    sizes[package.name] = sum(file.stat().st_size for file in files if file.is_file())
print(json.dumps(sizes))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the tables there as well")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    sizes, costs = {}, {}
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", aside, ROOT], check=True)
        (wheel,) = aside.glob("*.whl")
        for title, extra in INSTALLS.items():
            python = install(aside / title, f"aweigh{extra} @ {wheel.as_uri()}")
            said = subprocess.run([python, "-c", WEIGH], capture_output=True, text=True, check=True).stdout
            sizes[title] = {package: size / 1e6 for package, size in json.loads(said).items()}
            costs[title] = {
                command: cost([aside / "out" if word == "OUT" else word for word in words], python)
                for command, words in COMMANDS.items()
                if extra or "torch" not in words
            }
    text = "\n".join(
        [
            "# Installs",
            "",
            *size_rows(sizes),
            "",
            f"| command | {' | '.join(f'{title} | its memory' for title in INSTALLS)} |",
            "|---|---:|---:|---:|---:|",
            *(
                f"| {command} | {' | '.join(costs[title].get(command, '- | -') for title in INSTALLS)} |"
                for command in COMMANDS
            ),
            "",
            f"Processor times are the least of {REPEATS}, memory the largest.",
            f"{datetime.date.today()}, commit {commit(ROOT)};",
            f"{os.cpu_count()} CPU cores ({processor()}), load before the start {load:.1f};",
            f"Python {platform.python_version()}. Made by `benchmarks/install.py`.",
            "",
        ]
    )
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


def install(place: Path, what: str) -> Path:
    """The Python of an environment with this in it."""
    subprocess.run(["uv", "venv", "--quiet", place], check=True)
    python = place / "bin" / "python"
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, what], check=True)
    return python


def size_rows(sizes: dict[str, dict[str, float]]) -> list[str]:
    """The largest first; a package of either install that is small in both stands in one row with the others."""
    packages = {package for own in sizes.values() for package in own}
    largest = {package: max(own.get(package, 0) for own in sizes.values()) for package in packages}
    shown = sorted((each for each in packages if largest[each] >= SMALL), key=lambda each: (-largest[each], each))
    rows = {each: [own.get(each, 0.0) for own in sizes.values()] for each in shown}
    few = packages - {*shown}
    rows[f"{len(few)} others"] = [sum(own.get(each, 0) for each in few) for own in sizes.values()]
    rows["**together**"] = [sum(own.values()) for own in sizes.values()]
    lines = [
        f"| {name} | {' | '.join(f'{value:,.1f}' if value else '-' for value in row)} |" for name, row in rows.items()
    ]
    return [f"| MB | {' | '.join(sizes)} |", "|---|---:|---:|", *lines]


def cost(words: list[str | Path], python: Path) -> str:
    """Processor seconds and MiB, as two cells."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    taken = []
    for _ in range(REPEATS + 1):
        child = subprocess.Popen(
            [python, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"{words} ended with {os.waitstatus_to_exitcode(status)}.")
        taken.append((usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
    return f"{min(seconds for seconds, _ in taken[1:]):.2f} s | {max(memory for _, memory in taken[1:]):.0f} MiB"


def processor() -> str:
    """Its name, where the system says it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
