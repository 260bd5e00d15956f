"""The page holds what was found, needs nothing from elsewhere, and is safe whatever the files are called."""

import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image
from tests.edit.test_clean import broken
from tests.inspect.test_doctor import load, sound
from tests.scenes_on_disk import entry, scene, write_coco

from aweigh.inspect.doctor import examine
from aweigh.inspect.fit import measure_fit
from aweigh.inspect.report_html import AFFECTED, draw_case, report_html
from aweigh.layouts.load import load_split


class Tags(HTMLParser):
    """Checks that every tag is closed in order, and gathers where attributes lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.seen: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page(tmp_path: Path) -> None:
    splits = load(broken(tmp_path / "set"))
    page = report_html("set", splits, examine(splits))
    tags = Tags(page)
    assert tags.links and all(link.startswith("data:image/jpeg;base64,") for link in tags.links)
    assert "http" not in page and "url(" not in page and "@import" not in page and "script" not in tags.seen
    for text in ("zero-size box", "t1.jpg annotation 900", "same image in two splits", "prefers-color-scheme: dark"):
        assert text in page
    assert re.search(r"<th scope=row>cat</th>", page) and "svg" in tags.seen
    assert page == report_html("set", splits, examine(splits))


def test_a_page_on_sound_data_and_one_without_pictures(tmp_path: Path) -> None:
    splits = load(sound(tmp_path / "set"))
    page = report_html("set", splits, examine(splits, pictures=False))
    assert "Nothing to complain of" in page and Tags(page).links == []


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>.jpg".replace("/", "_")
    categories = [{"id": 1, "name": '"><script>x'}, {"id": 2, "name": "b & c"}]
    write_coco(tmp_path, "train", {nasty: scene(1)}, [entry(1, 1, [2, 2, 3, 3])], categories=categories)
    splits = {"train": load_split(tmp_path)}
    page = report_html("<i>title", splits, examine(splits))
    assert "script" not in Tags(page).seen and "&lt;script&gt;" in page and "b &amp; c" in page


def test_a_small_box_is_shown_enlarged_and_a_broken_picture_not_at_all(tmp_path: Path) -> None:
    write_coco(tmp_path, "train", {"a.png": Image.new("RGB", (400, 300), (0, 0, 0))}, [entry(1, 1, [200, 150, 4, 4])])
    split = load_split(tmp_path)
    drawn = draw_case(split, 0, [(200.0, 150.0, 204.0, 154.0)])
    assert drawn is not None and drawn.size == (340, 340)
    marked = [(x, y) for x in range(340) for y in range(340) if drawn.getpixel((x, y)) == AFFECTED]
    left, right = min(x for x, _ in marked), max(x for x, _ in marked)
    assert 15 <= right - left <= 30  # 4 of the 64 pixels shown
    for box in ((200.0, 150.0, 200.0, 150.0), (900.0, -50.0, 950.0, -10.0), (204.0, 154.0, 200.0, 150.0)):
        odd = draw_case(split, 0, [box])
        assert odd is not None and any(colour == AFFECTED for _, colour in odd.getcolors(1 << 16) or [])
    assert draw_case(split, 0, [(float("nan"), 0.0, 1.0, 1.0)]) is not None
    (tmp_path / "images" / "train" / "a.png").write_text("no image")
    assert draw_case(split, 0, []) is None


def test_the_page_names_the_input_that_was_measured(tmp_path: Path) -> None:
    write_coco(tmp_path, "train", {"a.jpg": scene(1)}, [entry(1, 1, [20, 20, 30, 30])])
    splits = {"train": load_split(tmp_path)}
    examination = examine(splits)
    for short, long, words, flags in (
        (0, 160, "long side 160 pixels", "--long 160"),
        (120, 0, "short side 120 pixels", "--short 120 --long 0"),
        (120, 160, "short side 120, long side at most 160 pixels", "--short 120 --long 160"),
        (0, 0, "the images in their own size", "--long 0"),
    ):
        fit = measure_fit(splits, "fcos_resnet18_fpn", short=short, long=long).to_dict()
        page = report_html("set", splits, examination, fit)
        assert f"Input: {words}." in page
        assert page.count("(here)") == 1 and f"{flags} (here)" in page
