"""The other addresses, who may use them, and what every answer says beside its body."""

import jsonschema
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from tests.runtime.toy_engines import Spots
from tests.serving.conftest import Serve, form, png


def test_health_readiness_and_what_the_model_is(serve: Serve):
    client = serve(Spots())
    assert client.ask("/healthz").json == {"live": True} and client.ask("/readyz").json == {"ready": True}
    client.services[0].ready = False
    assert client.ask("/readyz").status == 503
    told = client.ask("/v1/model").json
    assert told["classes"][2] == {"name": "ball", "category_id": 2} and told["computed_by"] == "NumPy"
    assert told["settings"]["nms_threshold"] == 0.5


def test_metrics_count_what_happened(serve: Serve):
    client = serve(Spots())
    for body in (png(), png(), b"no image"):
        client.detect(body)
    client.ask("/secret/path")
    text = client.ask("/metrics").body.decode()
    for line in (
        'aweigh_requests_total{path="/v1/detect",status="200"} 2.0',
        'aweigh_requests_total{path="/v1/detect",status="400"} 1.0',
        'aweigh_requests_total{path="other",status="404"} 1.0',
        'aweigh_images_total{model="toy"} 2.0',
        'aweigh_stage_seconds_count{model="toy",stage="detect"} 2.0',
        'aweigh_batch_images_sum{model="toy"} 2.0',
        'aweigh_queue_images{model="toy"} 0.0',
    ):
        assert line in text


def test_the_description_is_valid_and_answers_are_as_it_says(serve: Serve):
    client = serve(Spots())
    said = client.ask("/openapi.json").json
    validate(said)
    several, kind = form(("images", png(), "a"), ("images", b"none", "b"))
    answers = {
        ("/v1/detect", "post"): [client.detect(png()), client.detect(several, kind=kind), client.detect(b"none")],
        ("/v1/model", "get"): [client.ask("/v1/model")],
        ("/v1/models", "get"): [client.ask("/v1/models")],
        ("/healthz", "get"): [client.ask("/healthz")],
        ("/readyz", "get"): [client.ask("/readyz")],
    }
    for (path, method), given in answers.items():
        for answer in given:
            schema = said["paths"][path][method]["responses"][str(answer.status)]["content"]["application/json"][
                "schema"
            ]
            found = schema["anyOf"][0] if "anyOf" in schema else schema  # the format that was asked for
            whole = {**found, "components": said["components"]}
            Draft202012Validator(whole).validate(answer.json)
            with pytest.raises(jsonschema.ValidationError):
                Draft202012Validator(whole).validate({**answer.json, "more": 1})


def test_each_address_that_is_described_is_there_and_the_others_are_not(serve: Serve):
    client = serve(Spots())
    for path, methods in client.ask("/openapi.json").json["paths"].items():
        status = (client.ask(path) if "get" in methods else client.ask(path, png())).status
        assert status == (404 if path == "/v1/explain" else 200)  # a graph is not explained
        assert client.ask(path, b"", method="DELETE").status == 405
    for path in ("/v1", "/admin", "/../etc/passwd", "/page/../app.py", "/page/%2e%2e%2fapp.py", "/page/page", "//"):
        assert client.ask(path).status == 404


def test_a_token_is_asked_for_where_there_is_one(serve: Serve):
    client = serve(Spots(), token="päss")
    for header in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic cMOkc3M="}, {"Authorization": "päss"}):
        given = {name: value.encode().decode("latin-1") for name, value in header.items()}
        for path in ("/v1/model", "/metrics", "/openapi.json", "/v2", "/v2/models/toy"):
            answer = client.ask(path, headers=given)
            assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
    right = {"Authorization": "Bearer päss".encode().decode("latin-1")}
    assert client.ask("/v1/detect", png(), right).status == 200 and client.ask("/metrics", headers=right).status == 200
    assert [client.ask(path).status for path in ("/healthz", "/readyz", "/", "/page/page.js")] == [200] * 4


def test_pages_of_others_may_ask_only_where_they_are_named(serve: Serve):
    asked = {"Origin": "https://example.org"}
    assert "access-control-allow-origin" not in serve(Spots()).ask("/healthz", headers=asked).headers
    client = serve(Spots(), origins=["https://example.org"])
    assert client.ask("/healthz", headers=asked).headers["access-control-allow-origin"] == "https://example.org"
    assert "access-control-allow-origin" not in client.ask("/healthz", headers={"Origin": "https://evil.org"}).headers


def test_every_answer_has_the_headers_that_keep_a_browser_from_guessing(serve: Serve):
    client = serve(Spots())
    for answer in (client.ask("/"), client.ask("/healthz"), client.ask("/nothing"), client.detect(b"none")):
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"] and "server" not in answer.headers
    page = client.ask("/")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "'unsafe-" not in page.headers["content-security-policy"] and b"http://" not in page.body


def test_a_fault_inside_is_told_without_its_traceback(serve: Serve):
    class Broken(Spots):
        def run(self, batch, **options):  # type: ignore[no-untyped-def]
            if batch.sizes_hw[0] == (32, 64):
                raise AssertionError("secret")
            return super().run(batch, **options)

    client = serve(Broken())
    answer = client.detect(png())
    assert answer.status == 500 and b"secret" not in answer.body and "x-frame-options" in answer.headers
    assert 'aweigh_errors_total{path="/v1/detect"} 1.0' in client.metrics
    assert client.detect(png(40, 40)).status == 200
