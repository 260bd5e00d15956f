"""The page in a real browser: an image is dropped, and what is shown is chosen without asking again."""

import base64
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from tests.runtime.toy_engines import Spots
from tests.serving.conftest import Client, Serve, png

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

DROP = """async ([text, name]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
}"""


@pytest.fixture
def page(serve: Serve) -> Iterator[tuple[Any, Client, list[str]]]:
    """The page of a service, and what its console said that was wrong."""
    client, wrong = serve(Spots(), Spots(name="other")), list[str]()
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 400, "height": 900})
        shown.on("pageerror", lambda error: wrong.append(str(error)))
        shown.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        shown.goto(f"http://127.0.0.1:{client.port}/")
        yield shown, client, wrong
        browser.close()


def drop(page: Any, image: bytes) -> None:
    page.evaluate(DROP, [base64.b64encode(image).decode(), "a.png"])


def asked(client: Client) -> str:
    return next(line for line in client.metrics.splitlines() if 'images_total{model="toy"}' in line)


def test_an_image_is_dropped_looked_at_and_sorted_out(page: tuple[Any, Client, list[str]]):
    shown, client, wrong = page
    drop(shown, png(200, 100, box=(20, 10, 120, 90)))
    shown.wait_for_selector("#found li")
    assert shown.inner_text("#found li").split() == ["left", "hand", "1.00"]
    assert shown.inner_text("#status") == "1 object from a score of 0.50"
    before = asked(client)
    shown.focus("#score")
    shown.keyboard.press("End")
    assert shown.inner_text("#score-value") == "0.95" and shown.locator("#found li").count() == 1
    shown.click("summary")
    shown.click("#none")
    assert shown.locator("#found li").count() == 0 and "0 objects" in shown.inner_text("#status")
    shown.check("#classes label:first-child input")
    assert shown.locator("#found li").count() == 1 and asked(client) == before  # nobody was asked again
    area = shown.locator("#canvas").bounding_box()
    shown.mouse.move(area["x"] + area["width"] * 0.3, area["y"] + area["height"] * 0.5)
    assert shown.inner_text("#tip") == "left hand 1.000"
    shown.mouse.down()
    shown.mouse.up()
    assert "from (20, 10) to (120, 90)" in shown.inner_text("#explained")
    shown.keyboard.press("Escape")
    with shown.expect_download() as saved:
        shown.click("text=Save COCO")
    assert b'"bbox":[20,10,100,80]' in saved.value.path().read_bytes()
    assert shown.evaluate("document.body.scrollWidth <= innerWidth") and not wrong


def test_objects_are_chosen_by_keys(page: tuple[Any, Client, list[str]]):
    shown, _, _ = page
    drop(shown, png(200, 100, box=(20, 10, 120, 90), green=(150, 10, 190, 90)))
    shown.locator("#found li").nth(1).wait_for()
    names = [name.split() for name in shown.locator("#found li").all_inner_texts()]
    chosen = shown.locator("#found [aria-current=true]")
    for key, row in (("ArrowDown", 0), ("ArrowDown", 1), ("ArrowDown", 0), ("ArrowLeft", 1)):
        shown.press("#canvas", key)
        assert chosen.inner_text().split() == names[row]
    shown.press("#canvas", "Escape")
    assert chosen.count() == 0


def test_what_is_no_image_is_said_and_the_page_goes_on(page: tuple[Any, Client, list[str]]):
    shown, _, _ = page
    drop(shown, b"no image")
    shown.locator("#status", has_text="not an image").wait_for()
    drop(shown, png())
    shown.wait_for_selector("#found li")


def test_an_object_is_explained(explaining: Client):
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.goto(f"http://127.0.0.1:{explaining.port}/")
        drop(shown, png())
        shown.focus("#score")
        shown.keyboard.press("Home")
        shown.locator("#found li button").first.click()
        shown.locator("#explained", has_text="from the point at").wait_for()
        browser.close()


def test_a_token_is_asked_for(serve: Serve):
    client = serve(Spots(), token="secret")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.goto(f"http://127.0.0.1:{client.port}/")
        shown.fill("#token", "secret")
        shown.click("#ask button")
        shown.locator("#model", has_text="toy").wait_for()
        browser.close()
