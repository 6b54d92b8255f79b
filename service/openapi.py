"""What the API's documentation says beyond the types: both encodings of a body, examples, problems."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from .access import OPEN
from .body import BINARY, JSON, MULTIPART
from .errors import ERROR_TABLE, HTTP_KINDS, INTERNAL, TYPE_PREFIX
from .schemas import CertifyFields, PredictFields, Problem

EXAMPLE_IMAGE = Path(__file__).parent / "samples" / "mnist-test-00000.png"
PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}
ERROR_SCHEMA = {
    "allOf": [
        PROBLEM_SCHEMA,
        {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
    ]
}
DESCRIPTION = """
Certified robustness of image classifiers to rotation and translation.

Send an image, get the label of a smoothed classifier and the radius within which no rotation (degrees),
translation (pixels) or l2 perturbation (intensity) changes it, with the guarantee that was asked for and the
sentence that it means. A certificate never says that the label is right.

Images are PNG, JPEG, WebP, BMP or the first frame of a GIF. Alpha is composited on black, the EXIF
orientation is applied, 16 bits a channel are kept. Refusals are
`application/problem+json` (RFC 9457) with a stable `type`.
"""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of the problems an operation can answer with."""
    kinds = {*ERROR_TABLE.values(), *HTTP_KINDS.values(), INTERNAL}
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        labels = sorted(kind.label for kind in kinds if kind.status == status)
        example = {
            "type": TYPE_PREFIX + labels[0],
            "title": next(kind.title for kind in kinds if kind.label == labels[0]),
            "status": status,
            "detail": "What is wrong, with the values that are allowed.",
            "instance": "/v1/certify",
        }
        responses[status] = {
            "description": "Problem: " + ", ".join(f"`{TYPE_PREFIX}{label}`" for label in labels),
            "content": {"application/problem+json": {"schema": PROBLEM_SCHEMA, "example": example}},
        }
    return responses


KEYS: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Where the server's operator demands API keys."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}


def inference_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same under ``/v2``, where a problem has the member ``error`` and is ``application/json``."""
    responses = problems(*statuses)
    for response in responses.values():
        (shown,) = response["content"].values()
        example = {**shown["example"], "error": shown["example"]["detail"], "instance": "/v2/models/mnist-rotation"}
        response["content"] = {JSON: {"schema": ERROR_SCHEMA, "example": example}}
    return responses


def inference_submission(kind: type[BaseModel], answer: type[BaseModel]) -> dict[str, Any]:
    """Request and answer of the Open Inference Protocol: JSON, and perhaps binary data after it."""
    binary = {"schema": {"type": "string", "format": "binary", "description": "JSON and the binary data after it."}}
    examples = {
        "certificate": {
            "summary": "A certificate of a handwritten seven",
            "value": {
                "parameters": {"certify": True},
                "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [_example_image()]}],
            },
        }
    }
    return {
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _inlined(kind), "examples": examples}, BINARY: binary},
        },
        "responses": {
            "200": {"description": "The answers.", "content": {JSON: {"schema": _inlined(answer)}, BINARY: binary}}
        },
    }


def document(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What ``/openapi.json`` answers: FastAPI's document, the problems' schema and the API keys."""

    @cache
    def openapi() -> dict[str, Any]:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        schema["components"]["securitySchemes"] = KEYS
        for path, operations in schema["paths"].items():
            refused = inference_problems(401, 403, 429) if path.startswith("/v2") else problems(401, 403, 429)
            refusals = {str(status): one for status, one in refused.items()}
            for operation in operations.values() if path not in OPEN else ():
                operation["security"] = [{}, *({name: []} for name in KEYS)]
                operation["responses"] = dict(sorted((operation["responses"] | refusals).items()))
        return schema

    return openapi


def submission(kind: type[BaseModel], *, many: bool = False, needs_image: bool = True) -> dict[str, Any]:
    """The request body of a POST, as multipart and as JSON, with examples that work when pasted.

    ``many``: the image may be a list of them. ``needs_image``: without one there is no request.
    """
    file: dict[str, Any] = {"type": "string", "format": "binary", "description": "A file."}
    text: dict[str, Any] = {
        "type": "string",
        "format": "byte",
        "description": "Base64 of a file, or a data: URL.",
    }
    if many:
        file = {"type": "array", "items": file, "minItems": 1, "description": "One part a file."}
        text = {"oneOf": [text, {"type": "array", "items": text, "minItems": 1}]}
    return {
        "requestBody": {
            "required": needs_image,
            "content": {
                MULTIPART: {"schema": _schema(kind, file, needs_image)},
                JSON: {"schema": _schema(kind, text, needs_image), "examples": _examples(kind)},
            },
        }
    }


def _schema(kind: type[BaseModel], image: dict[str, Any], needs_image: bool) -> dict[str, Any]:
    """The fields' JSON schema with the image in front."""
    schema = _inlined(kind)
    return {**schema, "properties": {"image": image, **schema["properties"]}, "required": ["image"] * needs_image}


def _inlined(kind: type[BaseModel]) -> dict[str, Any]:
    """A JSON schema with its definitions put in place."""
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rsplit("/", 1)[1]])
            given = [one for one in node.get("anyOf", []) if one != {"type": "null"}]
            if len(given) == 1:
                # Null means the same as leaving the field out, which is what one should do.
                node = {**resolve(given[0]), "description": node.get("description", "")}
            return {name: resolve(value) for name, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    return cast(dict[str, Any], resolve(schema))


@cache
def _example_image() -> str:
    return base64.b64encode(EXAMPLE_IMAGE.read_bytes()).decode()


def _examples(kind: type[BaseModel]) -> dict[str, Any]:
    image = _example_image()
    if kind is not CertifyFields:
        fields = {"transformation": "rotation"} if kind is PredictFields else {}
        return {"seven": {"summary": "A handwritten seven", "value": {"image": image, **fields}}}
    wanted = {
        "distributional": {"transformation": "rotation", "guarantee": "distributional", "attack_range": 30},
        "individual": {"transformation": "rotation", "guarantee": "individual", "attack_range": 10},
        "heuristic": {"transformation": "translation", "guarantee": "heuristic", "attack_range": 1},
        "l2": {"transformation": "l2", "attack_range": 0.1},
    }
    return {
        name: {"summary": f"A handwritten seven: {name}", "value": {"image": image, **fields}}
        for name, fields in wanted.items()
    }
