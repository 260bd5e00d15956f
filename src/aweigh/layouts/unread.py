"""Exports that are not read, each known by its files, with the export to choose instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aweigh.images.reader import SUFFIXES
from aweigh.layouts.finding import head_of

_FILES_LOOKED_AT = 50  # in each folder: exports of a file for each image are all alike
_COCO = "Export it as COCO"


@dataclass(frozen=True)
class Export:
    """name: what it is called. files: what the path of a file ends in, or of a folder, which has a slash behind it.
    says: what stands at the head of such a file; None where its name is enough. instead: what to do."""

    name: str
    files: re.Pattern[str]
    says: re.Pattern[bytes] | None
    instead: str


def _export(name: str, files: str, says: bytes | None, instead: str) -> Export:
    return Export(name, re.compile(files, re.I), None if says is None else re.compile(says, re.S), instead)


UNREAD = (
    _export("TFRecord", r"\.(tfrecords?|record)$", None, f"{_COCO} (Roboflow: 'COCO JSON'), VOC or YOLO"),
    _export(
        "Labelbox's export",
        r"\.(ndjson|jsonl?)$",
        rb'"data_row"\s*:|"DataRow ID"\s*:|"Labeled Data"\s*:|"annotation_kind"\s*:',
        "Convert it to COCO, or to a CSV with a box a line",
    ),
    _export("a VoTT project", r"\.vott$", None, "Export it as 'Pascal VOC' or 'Comma Separated Values (CSV)'"),
    _export(
        "VoTT's JSON",
        r"\.json$",
        rb'^\{(?=.*"assets?"\s*:\s*\{)(?=.*"(securityToken|videoSettings|tags|regions)"\s*:)',
        "Export it as 'Pascal VOC' or 'Comma Separated Values (CSV)'",
    ),
    _export(
        "Supervisely's format",
        r"(^|/)ann/[^/]+\.json$",
        rb'^\{(?=.*"objects"\s*:)(?=.*"size"\s*:)',
        "Export it by the app 'Export to COCO' or 'Export to Pascal VOC'",
    ),
    _export(
        "COCO's panoptic segmentation", r"(^|/)panoptic_[^/]*\.json$", None, "Take instances_*.json of the same data"
    ),
    _export(
        "a list of detections (COCO's results)",
        r"\.json$",
        rb'^\[\s*\{(?=[^{}]*"image_id"\s*:)(?=[^{}]*"category_id"\s*:)(?=[^{}]*"(score|bbox)"\s*:)',
        "Annotations are wanted; aweigh data complete adds detections to some",
    ),
    _export(
        "Label Studio's JSON-MIN",
        r"\.json$",
        rb'^\[\s*\{(?!.*"(annotations|result)"\s*:)(?=.*"original_width"\s*:)(?=.*"(rectangle|polygon|ellipse|keypoint|brush)labels"\s*:)',
        "Export it as 'JSON'",
    ),
    _export("Label Studio's CSV", r"\.csv$", rb"^[^\n]*\bannotation_id\b[^\n]*\blead_time\b", "Export it as 'JSON'"),
    _export("V7's Darwin JSON", r"\.json$", rb'"schema_ref"\s*:', f"{_COCO} or Pascal VOC"),
    _export("Datumaro's JSON", r"\.json$", rb'^\{(?=.*"(dm_format_version|media_type)"\s*:)', _COCO),
    _export("a manifest of SageMaker Ground Truth", r"\.manifest$", rb'"source-ref"\s*:', "Convert it to COCO"),
    _export(
        "masks as images",
        r"(^|/)Segmentation(Class|Object)/$",
        None,
        f"{_COCO}, which holds masks with boxes, or with the XML files in Annotations/",
    ),
)


def export_of(path: Path, name: str = "") -> Export | None:
    """The export that a file or folder belongs to; None where it is none of these. name: its path as it is matched."""
    name = name or f"{path.parent.name}/{path.name}"
    for export in UNREAD:
        if export.files.search(name) and (export.says is None or export.says.search(head_of(path))):
            return export
    return None


def told(source: Path) -> str:
    """What export a file, or a folder by what it holds, is, and what to choose instead; empty where it is none."""
    own = f"{source.parent.name}/{source.name}"
    for path, name in [(source, own)] if source.is_file() else _entries(source):
        if export := export_of(path, name):
            return f"{name} is {export.name}, which is not read. {export.instead}."
    return ""


def _entries(root: Path) -> Iterator[tuple[Path, str]]:
    """What lies in a folder and two below, but no images, each with its path from there; a folder's ends in a slash."""
    folders = [root]
    for _ in range(3):
        inside: list[Path] = []
        for folder in folders:
            held = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
            here = [path for path in held if path.is_dir() and not path.is_symlink()]
            files = [path for path in held if path not in here and not path.name.lower().endswith(SUFFIXES)]
            yield from ((path, f"{path.relative_to(root).as_posix()}/") for path in here)
            yield from ((path, path.relative_to(root).as_posix()) for path in files[:_FILES_LOOKED_AT])
            inside += here
        folders = inside
