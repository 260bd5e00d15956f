"""Where a detection comes from, asked over HTTP."""

import pytest
from tests.runtime.toy_engines import Spots
from tests.serving.conftest import Client, Serve, png


def test_the_numbers_are_those_of_the_detection(explaining: Client) -> None:
    found = explaining.detect(png(), "?score=0").json["detections"]
    assert explaining.ask("/v1/model").json["explains"] and len(found) > 3
    for number in (1, 3):
        said = explaining.ask(f"/v1/explain?score=0&box={number}", png()).json
        (explained,) = said["explanation"]["detections"]
        assert explained["score"] == pytest.approx(found[number - 1]["score"], abs=1e-5)
        assert f"#{number} {found[number - 1]['class']} " in said["text"]


@pytest.mark.parametrize(
    ("query", "content", "status"),
    [
        ("?score=0&box=100000", png(), 400),
        ("?score=1&box=1", png(), 400),
        ("?box=0", png(), 400),
        ("?box=one", png(), 400),
        ("?score=2", png(), 400),
        ("", b"no image", 400),
        ("?model=other", png(), 404),
    ],
)
def test_what_cannot_be_explained_is_said(explaining: Client, query: str, content: bytes, status: int) -> None:
    answer = explaining.ask(f"/v1/explain{query}", content)
    assert answer.status == status and answer.json["error"]


def test_a_graph_keeps_no_answers(serve: Serve) -> None:
    client = serve(Spots())
    assert not client.ask("/v1/model").json["explains"] and client.ask("/v1/explain", png()).status == 404
