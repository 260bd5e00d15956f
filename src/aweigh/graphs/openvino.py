"""A graph as OpenVINO's own files: `NAME.xml`, what is computed, and `NAME.bin`, with which weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

from aweigh.errors import said_if_missing
from aweigh.files import put_in_place
from aweigh.header import METADATA_KEY
from aweigh.runtime.onnx_file import metadata


def write_openvino(graph: Path, path: Path) -> None:
    """Convert an ONNX file that `aweigh export` wrote. Precisions stay: nothing is made float16 on the way."""
    with said_if_missing("--to openvino"):
        import openvino
    model = openvino.Core().read_model(graph)  # its converter would also write what is computed from weights alone
    model.set_rt_info(metadata(graph)[METADATA_KEY], METADATA_KEY)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / path.name
        openvino.save_model(model, written, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):  # the one that names the other last
            put_in_place(written.with_suffix(suffix), path.with_suffix(suffix))
