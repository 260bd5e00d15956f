"""XML files that anybody may have written: known by their first element, and read without a document type."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

from aweigh.errors import DataError
from aweigh.files import read_bytes
from aweigh.layouts.finding import head_of

_ELEMENT = re.compile(rb"<([A-Za-z_][\w.-]*)")


class _ForbiddenXML(Exception):
    pass


def root_of(file: Path) -> str:
    """The name of the first element of a file, in small letters; empty where there is none."""
    found = _ELEMENT.search(head_of(file))
    return found[1].decode("ascii", "replace").lower() if found else ""


def read_xml(file: Path, root: str) -> ElementTree.Element:
    """The first element of a file, whose name has to be `root`; `DataError` says why there is none, without its file.

    A file that declares a document type is refused, by which a small one can expand without end.
    """
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()

    def forbid(*_: object) -> NoReturn:
        raise _ForbiddenXML("it declares a document type, by which a small file can expand without end")

    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = forbid
    try:
        parser.Parse(read_bytes(file), True)
        element = builder.close()
        if element.tag.lower() != root:
            raise ValueError(f"it begins with <{element.tag[:40]}>, expected <{root}>")
    except (expat.ExpatError, _ForbiddenXML, AssertionError, ValueError, LookupError) as error:
        raise DataError(str(error)) from error
    return element
