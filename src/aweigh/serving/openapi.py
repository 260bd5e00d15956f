"""The service described in OpenAPI 3.1, for clients that are made from it."""

from __future__ import annotations

from typing import Any

from aweigh import __version__
from aweigh.errors import counted
from aweigh.geometry.tiles import OVERLAPS, SIDES
from aweigh.results.jsonl import SCHEMA
from aweigh.serving.limits import Limits

NUMBER: dict[str, Any] = {"type": "number"}
TEXT: dict[str, Any] = {"type": "string"}
WHOLE: dict[str, Any] = {"type": "integer"}


def document(limits: Limits, *, token: bool) -> dict[str, Any]:
    """`GET /openapi.json`. token: whether requests must bear one."""
    health = _answers({"200": ("It is.", _object({"live": {"type": "boolean"}}))})
    said: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "aweigh serve", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": {
            "/v1/detect": {"post": _detect(limits)},
            "/v1/explain": {"post": _explain()},
            "/v1/model": {
                "get": {
                    "summary": "What there is to know of the detector.",
                    "parameters": [_MODEL_NAME],
                    **_answers({"200": ("Its name, classes and settings.", _named("Model"))}),
                }
            },
            "/v1/models": {
                "get": {
                    "summary": "The same of each detector.",
                    **_answers({"200": ("All of them.", _object({"models": _list(_named("Model"))}))}),
                }
            },
            "/healthz": {"get": {"summary": "Whether the service runs.", **health, "security": []}},
            "/readyz": {"get": {"summary": "Whether it answers requests.", **_answers(_READY), "security": []}},
            "/metrics": {
                "get": {
                    "summary": "Counts and times, for Prometheus.",
                    "responses": {"200": {"description": "In its text format.", "content": {"text/plain": {}}}},
                }
            },
        },
        "components": {"schemas": _SCHEMAS},
    }
    if token:
        said["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        said["security"] = [{"token": []}]
    return said


def _detect(limits: Limits) -> dict[str, Any]:
    options = [{"name": name, "in": "query", "schema": schema, "required": False} for name, schema in _OPTIONS.items()]
    of_json = {
        "type": "object",
        "properties": {
            "image": {**TEXT, "contentEncoding": "base64"},
            "images": {"type": "array", "items": {**TEXT, "contentEncoding": "base64"}, "maxItems": limits.images},
            **_OPTIONS,
        },
        "oneOf": [{"required": ["image"]}, {"required": ["images"]}],
        "additionalProperties": False,
    }
    of_form = {
        "type": "object",
        "properties": {"image": {}, "images": {"type": "array", "items": {}, "maxItems": limits.images}, **_OPTIONS},
    }
    found = {"oneOf": [_named("Image"), _object({"results": {"type": "array", "items": _named("Image")}})]}
    others = {"type": ["object", "array"]}  # the files of COCO and GeoJSON
    statuses = {
        "400": "It is no image, or an option is wrong.",
        "404": "There is no such model.",
        "401": "The token is missing or wrong.",
        "408": "The request came too slowly.",
        "413": f"More than {counted(limits.bytes, 'byte')}, {counted(limits.pixels, 'pixel')} or "
        f"{counted(limits.images, 'image')}.",
        "415": "What is sent is compressed.",
        "503": "Too many images wait; Retry-After says when to try again.",
        "504": f"No answer within {limits.seconds:g} seconds.",
    }
    error = {"content": {"application/json": {"schema": _named("Error")}}}
    return {
        "summary": "The objects in an image, or in several.",
        "parameters": [*options, _MODEL_NAME],
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {},
                "image/*": {},
                "application/json": {"schema": of_json},
                "multipart/form-data": {"schema": of_form},
            },
        },
        "responses": {
            "200": {
                "description": "Of one image what `aweigh predict` writes of it; of `images` a list of that; or what "
                "`format` names.",
                "content": {"application/json": {"schema": {"anyOf": [found, others]}}, "image/png": {}},
            },
            **{status: {"description": text, **error} for status, text in statuses.items()},
        },
    }


def _explain() -> dict[str, Any]:
    number = {"name": "box", "in": "query", "schema": {**WHOLE, "minimum": 1, "default": 1}, "required": False}
    score = {"name": "score", "in": "query", "schema": _OPTIONS["score"], "required": False}
    error = {"content": {"application/json": {"schema": _named("Error")}}}
    found = _object({"text": TEXT, "explanation": {"type": "object"}})
    statuses = {
        "400": "It is no image, or has no such detection.",
        "404": "The model is a graph, which keeps no answers but its detections.",
        "503": "Another detection is being explained.",
    }
    return {
        "summary": "Where a detection of an image comes from; of a checkpoint, which torch computes.",
        "parameters": [number, score, _MODEL_NAME],
        "requestBody": {"required": True, "content": {"application/octet-stream": {}, "image/*": {}}},
        "responses": {
            "200": {"description": "In words and numbers.", "content": {"application/json": {"schema": found}}},
            **{status: {"description": text, **error} for status, text in statuses.items()},
        },
    }


def _answers(statuses: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return {
        "responses": {
            status: {"description": text, "content": {"application/json": {"schema": schema}}}
            for status, (text, schema) in statuses.items()
        }
    }


def _object(properties: dict[str, Any], *, optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object that has these, and may have the optional ones, and no others."""
    return {
        "type": "object",
        "properties": {**properties, **(optional or {})},
        "required": [*properties],
        "additionalProperties": False,
    }


def _named(schema: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _list(item: dict[str, Any], length: int | None = None) -> dict[str, Any]:
    of_length = {} if length is None else {"minItems": length, "maxItems": length}
    return {"type": "array", "items": item, **of_length}


_OPTIONS: dict[str, Any] = {
    "score": {**NUMBER, "minimum": 0, "maximum": 1, "default": 0.5},
    "classes": _list(TEXT),
    "nms": {"enum": ["class", "agnostic", "soft", "none"]},
    "tile": {**WHOLE, "minimum": 0, "maximum": SIDES[1]},
    "overlap": {**NUMBER, "minimum": OVERLAPS[0], "maximum": OVERLAPS[1]},
    "masks": {"type": "boolean", "default": True},
    "format": {"enum": ["json", "coco", "geojson", "png"], "default": "json"},
}
_DETECTION = _object(
    {
        "box": _list(NUMBER, 4),
        "score": {**NUMBER, "minimum": 0, "maximum": 1},
        "class": TEXT,
        "category_id": WHOLE,
    },
    optional={
        "segmentation": _object({"size": _list(WHOLE, 2), "counts": TEXT}),
        "keypoints": _list(_list(NUMBER, 3)),
        "cuboid": {"type": "object"},
    },
)
_IMAGE = _object(
    {
        "schema": {"const": SCHEMA},
        "path": {"type": ["string", "null"]},
        "width": WHOLE,
        "height": WHOLE,
        "detections": _list(_named("Detection")),
        "error": {"type": ["string", "null"]},
    },
    optional={"keypoint_names": _list(TEXT)},
)
_READY = {
    "200": ("It does.", _object({"ready": {"const": True}})),
    "503": ("Not yet, or no more.", _object({"ready": {"const": False}})),
}
_MODEL = _object(
    {
        "name": TEXT,
        "detector": TEXT,
        "computed_by": TEXT,
        "classes": _list(_object({"name": TEXT, "category_id": WHOLE})),
        "finds": _list(TEXT),
        "explains": {"type": "boolean"},
        "resize": TEXT,
        "settings": {"type": "object"},
    }
)
_MODEL_NAME: dict[str, Any] = {"name": "model", "in": "query", "schema": TEXT, "required": False}
_SCHEMAS = {"Image": _IMAGE, "Detection": _DETECTION, "Model": _MODEL, "Error": _object({"error": TEXT})}
