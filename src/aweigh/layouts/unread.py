"""Exports that are not read, each known by its files, with the export to choose instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aweigh.annotations.records import file_names
from aweigh.images.reader import SUFFIXES
from aweigh.layouts.finding import head_of

_FILES_LOOKED_AT = 50  # in each folder: exports of a file for each image are all alike


@dataclass(frozen=True)
class Export:
    """name: what it is called. instead: what to do. files: what the path of its files looks like, or of a folder, which
    has a slash behind it. says: what stands at the head of such a file, all of it."""

    name: str
    instead: str
    files: str
    says: tuple[bytes, ...] = ()


UNREAD = (
    Export("TFRecord", "Export it as COCO (Roboflow: 'COCO JSON'), VOC or YOLO", r"\.(tfrecords?|record)$"),
    Export(
        "Labelbox's export",
        "Convert it to COCO, or to a CSV with a box a line",
        r"\.(ndjson|jsonl?)$",
        (rb'"data_row"\s*:|"DataRow ID"\s*:|"Labeled Data"\s*:|"annotation_kind"\s*:',),
    ),
    Export("a VoTT project", "Export it as 'Pascal VOC' or 'Comma Separated Values (CSV)'", r"\.vott$"),
    Export(
        "VoTT's JSON",
        "Export it as 'Pascal VOC' or 'Comma Separated Values (CSV)'",
        r"\.json$",
        (rb'^\{.*"assets?"\s*:\s*\{', rb'"(securityToken|videoSettings|tags|regions)"\s*:'),
    ),
    Export(
        "Supervisely's format",
        "Export it by the app 'Export to COCO' or 'Export to Pascal VOC'",
        r"(^|/)ann/[^/]+\.json$",
        (rb'^\{.*"objects"\s*:', rb'"size"\s*:'),
    ),
    Export("COCO's panoptic segmentation", "Take instances_*.json of the same data", r"(^|/)panoptic_[^/]*\.json$"),
    Export(
        "a list of detections (COCO's results)",
        "Annotations are wanted; aweigh data complete adds detections to some",
        r"\.json$",
        (rb'^\[\s*\{[^{}]*"image_id"\s*:', rb'^\[\s*\{[^{}]*"category_id"\s*:'),
    ),
    Export(
        "Label Studio's JSON-MIN",
        "Export it as 'JSON'",
        r"\.json$",
        (rb'^\[\s*\{[^{}]*\[\s*\{[^{}]*"original_width"\s*:',),  # of a region in a list of the task itself
    ),
    Export(
        "Label Studio's CSV", "Export it as 'JSON'", r"\.csv$", (rb"^[^\n]*\bannotation_id\b", rb"^[^\n]*\blead_time\b")
    ),
    Export("V7's Darwin JSON", "Export it as COCO or Pascal VOC", r"\.json$", (rb'"schema_ref"\s*:',)),
    Export("Datumaro's JSON", "Export it as COCO", r"\.json$", (rb'^\{.*"(dm_format_version|media_type)"\s*:',)),
    Export("a manifest of SageMaker Ground Truth", "Convert it to COCO", r"\.manifest$", (rb'"source-ref"\s*:',)),
    Export(
        "masks as images",
        "Export it as COCO, which holds masks with boxes, or with the XML files in Annotations/",
        r"(^|/)Segmentation(Class|Object)/$",
    ),
)


def export_of(path: Path, name: str = "") -> Export | None:
    """The export that a file or folder belongs to; None where it is none of these. name: its path as it is matched."""
    name, head = name or f"{path.parent.name}/{path.name}", head_of(path)
    for export in UNREAD:
        if re.search(export.files, name, re.I) and all(re.search(said, head, re.S) for said in export.says):
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
            held = [folder / name for name in sorted(file_names(folder)) if not name.startswith(".")]
            here = [path for path in held if path.is_dir() and not path.is_symlink()]
            files = [path for path in held if path not in here and not path.name.lower().endswith(SUFFIXES)]
            yield from ((path, f"{path.relative_to(root).as_posix()}/") for path in here)
            yield from ((path, path.relative_to(root).as_posix()) for path in files[:_FILES_LOOKED_AT])
            inside += here
        folders = inside
