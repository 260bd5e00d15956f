"""Files in COCO's results format, and whose images the numbers in them are.

A result names its image by a number alone. The numbers of one program are not those of another: joined by them, boxes
of one image land on another without a word. So what we write says which images it means, twice: each result has the
`file_name` of its image, and `NAME.images.json` beside the file lists all images (`id`, `file_name`, `width`, `height`,
`bytes` of the file) and the categories. Results are joined by these names, and sizes are compared. Of a file that says
nothing of its images the numbers are taken where they cannot be a running number by chance, or where the user says that
they are those of the data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from aweigh.annotations.split import Split
from aweigh.errors import DataError, counted, printable, some_of

LIST_SUFFIX = ".images.json"
BY_CHANCE = 1e-3  # ours: so likely may it be that all numbers of a count are those of images of the data
LONGEST_STEM = 255 - len(LIST_SUFFIX)  # bytes, so that the list's name is none that a file system refuses


@dataclass(frozen=True)
class Named:
    """An image by its file. name: with "/", as long a part of the path as is known. size_wh and bytes: None unknown.

    place: the whole path, where that is known, to tell two images of one name apart. unread: it could not be read, so
    that nobody looked at it.
    """

    name: str
    size_wh: tuple[int, int] | None = None
    bytes: int | None = None
    place: str = ""
    unread: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(part for part in self.name.replace("\\", "/").split("/") if part not in ("", "."))

    @property
    def all_parts(self) -> tuple[str, ...]:
        return tuple(part for part in self.place.replace("\\", "/").split("/") if part) or self.parts


def known_images(splits: Iterable[Split]) -> dict[int, Named]:
    """The images of splits, counted through, by their files."""
    rows = (
        Named(name, (int(width), int(height)), place=str(path))
        for split in splits
        for name, path, (height, width) in zip(split.file_names(), split.paths, split.sizes_hw, strict=True)
    )
    return dict(enumerate(rows))


@dataclass(frozen=True)
class ResultsFile:
    """entries: the results as they stand in the file. images: by their numbers, None where the file says nothing of
    them. categories: names by number, None where the file says none."""

    path: Path
    entries: list[Any]
    images: dict[int, Named] | None = None
    categories: dict[int, str] | None = None

    def joined(
        self,
        known: Mapping[int, Named],
        ids: Mapping[int, int],
        *,
        what: str,
        own_ids: bool = False,
        bytes_of: Callable[[int], int | None] = lambda key: None,
    ) -> tuple[dict[int, int], str]:
        """Which image of the data each number means, by a key of `known`, and a few of those that mean none, in words.

        known: the images of the data. ids: the key of each of their own numbers. what: what the data are called in a
        message. own_ids: the numbers are those of the data. bytes_of: the length of the file of an image, None where
        it is not known. `DataError` where it is not certain what a number means, or an image is not the same here.
        """
        if own_ids or self.images is None:
            used = list(dict.fromkeys(entry["image_id"] for entry in self.entries if _numbered(entry)))
            if not own_ids:
                self._refuse_uncertain(used, list(ids), what)
            strangers = [str(number) for number in used if number not in ids]
            found = {number: ids[number] for number in used if number in ids}
            return found, f"image ids {some_of(strangers, 4)}" if strangers else ""
        found, others = _by_name(self.images, known, self.path, what)
        self._compare(found, known, bytes_of, what)
        return found, some_of([self.images[number].name for number in others], 4) if others else ""

    def _refuse_uncertain(self, used: list[int], known: list[int], what: str) -> None:
        """Refuse numbers that somebody may have counted: not all are in the data, or they could be so by chance."""
        unknown = sorted({*used} - {*known})
        highest = max(used, default=0)
        density = sum(number <= highest for number in known) / (highest + 1)
        if used and (unknown or density ** len(used) > BY_CHANCE):
            why = (
                f"{what} has no image {', '.join(map(str, unknown[:4]))}"
                if unknown
                else f"any images counted from 1 could have these numbers, which {what} has too"
            )
            raise DataError(
                f"{self.path}: it is not certain which images its numbers mean: {why}, and there is no list of images "
                f"beside it ({list_of(self.path).name}). Predict with `aweigh predict --data DATA --format coco`, put "
                "the list there, or say that the numbers are those of the data (--own-ids, own_ids=True)."
            )

    def _compare(
        self, found: Mapping[int, int], known: Mapping[int, Named], bytes_of: Callable[[int], int | None], what: str
    ) -> None:
        assert self.images is not None
        wrong = []
        for number, key in found.items():
            there, here = self.images[number], known[key]
            length = None if there.bytes is None else bytes_of(key)
            if there.size_wh is not None and here.size_wh is not None and there.size_wh != here.size_wh:
                sizes = [f"{width} x {height}" for width, height in (there.size_wh, here.size_wh)]
                wrong.append(f"{there.name} is {sizes[0]} in the results and {sizes[1]} in {what}")
            elif length is not None and length != there.bytes:
                wrong.append(
                    f"{there.name} is a file of {there.bytes:,} B in the results and of {length:,} B in {what}"
                )
        if wrong:
            raise DataError(
                f"{self.path}: {counted(len(wrong), 'image', 'is')} not the same as in {what}: "
                f"{some_of(wrong, 4, '; ')}. "
                "Predict on these data: aweigh predict --data DATA --format coco."
            )


def list_of(path: Path) -> Path:
    """Where the list of images of a results file lies."""
    stem = path.stem.encode("utf-8", "surrogateescape")
    cut = stem[:LONGEST_STEM].decode("utf-8", "ignore") if len(stem) > LONGEST_STEM else path.stem
    return path.with_name(cut + LIST_SUFFIX)


def read_results_file(path: str | Path) -> ResultsFile:
    """A results file with what is said of its images and categories, in the list beside it and in the results."""
    path = Path(path)
    entries = _load(path, "results")
    if not isinstance(entries, list):
        raise DataError(f"{path}: COCO results are a list of boxes with scores, this is a {type(entries).__name__}.")
    if not list_of(path).exists():
        return ResultsFile(path, entries, _named_by(entries, path))
    content = _load(list_of(path), "list of images")
    images, categories = _listed(content, list_of(path)), None
    if content.get("categories"):
        categories = {entry["id"]: str(entry.get("name")) for entry in content["categories"] if _has_id(entry)}
    for number, name in _names_in(entries):
        if number not in images or (name is not None and images[number].name != name):
            listed = f"is {images[number].name}" if number in images else "is not there"
            raise DataError(
                f"{path}: a result is for image {number}{f', {printable(name)}' if name else ''}, which {listed} in "
                f"{list_of(path).name}; the two files do not belong together."
            )
    return ResultsFile(path, entries, images, categories)


def _load(path: Path, what: str) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"The {what} {path} is no ordinary file.")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise DataError(
            f"{path}: the {what} cannot be read as JSON, it is not valid JSON ({why}). Write it again."
        ) from error


def _listed(content: Any, path: Path) -> dict[int, Named]:
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(_has_id(entry) and entry.get("file_name") for entry in entries):
        raise DataError(f"{path}: expected `images`, each with id and file_name. Write the results again.")
    images = {}
    for entry in entries:
        width, height, length = (entry.get(key) for key in ("width", "height", "bytes"))
        known = type(width) is int and type(height) is int and width > 0 and height > 0
        size = (width, height) if known and "error" not in entry else None
        name = str(entry["file_name"])
        if entry["id"] in images:
            raise DataError(f"{path}: two images have the id {entry['id']}. Write the results again.")
        length = length if type(length) is int else None
        images[entry["id"]] = Named(name, size, length, unread=bool(entry.get("error")))
    return images


def _named_by(entries: list[Any], path: Path) -> dict[int, Named] | None:
    """The images as the results themselves name them; None where not every result does."""
    names: dict[int, str] = {}
    for number, name in _names_in(entries):
        if name is None:
            return None
        if names.setdefault(number, name) != name:
            both = f"{printable(names[number])} and {printable(name)}"
            raise DataError(f"{path}: image {number} is called {both}. Write it again.")
    return {number: Named(name) for number, name in names.items()} if names else None


def _names_in(entries: list[Any]) -> list[tuple[int, str | None]]:
    return [(entry["image_id"], entry.get("file_name") or None) for entry in entries if _numbered(entry)]


def _by_name(
    images: Mapping[int, Named], known: Mapping[int, Named], path: Path, what: str
) -> tuple[dict[int, int], list[int]]:
    """Each number with the image of the data that its name means, and the numbers that mean none.

    A name means an image when one of the two ends with the other, folders included. Where several do, it is the one
    that agrees in the longest part of the whole path; `DataError` where that is not one alone.
    """
    of_base: dict[str, list[int]] = defaultdict(list)
    for own, image in known.items():
        of_base[image.parts[-1] if image.parts else ""].append(own)
    claims: dict[int, list[tuple[int, int]]] = defaultdict(list)  # of an image of the data: (parts that agree, number)
    strangers = []
    for number, listed in images.items():
        base = listed.parts[-1] if listed.parts else ""
        fitting = [own for own in of_base.get(base, ()) if _ends_alike(listed.parts, known[own])]
        agree = {own: _common(listed.parts, known[own].all_parts) for own in fitting}
        best = [own for own in fitting if agree[own] == max(agree.values())]
        if len(best) > 1:
            names = " and ".join(known[own].place or known[own].name for own in best[:2])
            raise DataError(
                f"{path}: {printable(listed.name)} may be {names} of {what}; predict with `aweigh predict --data DATA "
                "--format coco`, whose names have their folders."
            )
        if best:
            claims[best[0]].append((agree[best[0]], number))
        else:
            strangers.append(number)
    found = {}
    for own, numbers in claims.items():
        most = max(agree for agree, _ in numbers)
        winners = [number for agree, number in numbers if agree == most]
        if len(winners) > 1:
            names = " and ".join(printable(images[number].name) for number in winners[:2])
            raise DataError(
                f"{path}: {names} may both be {known[own].place or known[own].name} of {what}; predict with `aweigh "
                "predict --data DATA --format coco`."
            )
        found[winners[0]] = own
        strangers += [number for _, number in numbers if number != winners[0]]
    if images and not found:
        theirs, ours = ([image.name for image in some.values()] for some in (images, known))
        raise DataError(
            f"{path}: No box is of an image of {what}: the results are of {some_of(theirs, 4)}, the data hold "
            f"{some_of(ours, 4)}. Predict on these images: aweigh predict --data DATA --format coco."
        )
    return found, sorted(strangers)


def _ends_alike(parts: Sequence[str], image: Named) -> bool:
    short, long = sorted((tuple(parts), image.parts), key=len)
    return long[len(long) - len(short) :] == short


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts are the same from the end on."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _has_id(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("id")) is int


def _numbered(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("image_id")) is int
