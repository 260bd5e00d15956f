"""What a graph of OpenVINO's own says about itself: XML, beside which a `.bin` of the same name holds the numbers."""

from __future__ import annotations

from pathlib import Path

from aweigh.errors import DataError, UsageError
from aweigh.files import read_xml


def metadata(path: Path) -> dict[str, str]:
    """The texts in the metadata. `UsageError` where there is no file. `DataError` for another one, and where the
    numbers are not beside it, or not as many as it says."""
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    try:
        net = read_xml(path, "net")
    except DataError as error:
        raise DataError(f"{path} is truncated or is no graph of OpenVINO ({error}).") from error
    numbers = path.with_suffix(".bin")
    if not numbers.is_file():
        raise DataError(f"{path}: the numbers of this graph are missing; {numbers.name} has to lie beside it.")
    length = numbers.stat().st_size
    for data in net.iterfind("./layers/layer[@type='Const']/data"):
        try:
            end = int(data.get("offset", "")) + int(data.get("size", ""))
        except ValueError as error:
            raise DataError(f"{path}: a constant has no place in {numbers.name} ({error}).") from error
        if not 0 <= end <= length:
            raise DataError(f"{path}: {numbers.name} has {length:,} B, of which the graph needs {end:,}.")
    found = net.find("rt_info")
    return {entry.tag: entry.get("value", "") for entry in (() if found is None else found)}
