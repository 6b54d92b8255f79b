"""Multipart or JSON -> checked fields and the image's bytes; both encodings refuse the same things."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import zlib
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing, nullcontext
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from .errors import (
    BodyTooLargeError,
    ClientGoneError,
    ContentTypeError,
    FieldError,
    MalformedBodyError,
    RequestError,
    of_item,
    quote,
)
from .schemas import INTEGERS, NUMBERS

MULTIPART, JSON, BINARY = "multipart/form-data", "application/json", "application/octet-stream"
COMPRESSED: Mapping[str, int] = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Content encodings, and what zlib calls them."""
MAX_FORM_FIELDS, MAX_FORM_FILES = 32, 4
MAX_JSON_ELEMENTS = 1000
"""A request has a dozen fields; parsing millions would block the event loop."""
MAX_NUMBER_LENGTH = 60
INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)

F = TypeVar("F", bound=BaseModel)


async def read_submission(request: Request, kind: type[F]) -> tuple[F, bytes]:
    """Read a POST body.

    Parameters
    ----------
    request : Request
    kind : type
        The fields beside ``image``.

    Returns
    -------
    fields, image
        The validated fields, and the bytes of the upload (not decoded, perhaps not an image).

    Raises
    ------
    ContentTypeError, MalformedBodyError, FieldError
        Each with a message for the client.
    """
    fields, (image,) = await read_submissions(request, kind, None)
    return fields, image


async def read_submissions(
    request: Request, kind: type[F], most: int | None, *, least: Literal[0, 1] = 1
) -> tuple[F, list[bytes]]:
    """The same for ``least`` to ``most`` images: repeated parts ``image``, or a JSON list; None: one, and no list.

    Where there may be several, a refusal of one has its number as ``item``.
    """
    content_type = check_head(request)
    if content_type == MULTIPART:
        values, images = await _multipart(request, most)
    elif content_type == JSON:
        values, images = await asyncio.to_thread(_json, await read_body(request), most)
    else:
        raise ContentTypeError(
            f"content type {quote(content_type)} is not supported: send {MULTIPART} or {JSON}",
            supported=[MULTIPART, JSON],
        )
    if len(images) < least:
        raise FieldError("image: the field is required", field="image")
    return validate(values, kind), images


async def read_body(request: Request) -> bytes:
    """The whole body; raises :class:`ClientGoneError` if its sender leaves before its end."""
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise ClientGoneError("the client left while sending") from error


def check_head(request: Request, encodings: Collection[str] = ()) -> str:
    """Refuse query parameters and bodies of other encodings; returns the content type, in lower case and bare."""
    if request.query_params:
        name = next(iter(request.query_params))
        raise FieldError(
            f"{quote(name)} belongs into the body: this request takes no query parameters", field=name[:60]
        )
    supported = ["identity", *encodings]
    if encoding_of(request) not in supported:
        raise ContentTypeError(
            f"content encoding {quote(encoding_of(request))} is not supported: send {' or '.join(supported)}",
            supported=supported,
        )
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def encoding_of(request: Request) -> str:
    """How the body is compressed; ``identity``: not at all."""
    return request.headers.get("content-encoding", "identity").strip().lower()


def decompress(body: bytes, encoding: str, most: int) -> bytes:
    """A body without its encoding, one of :data:`COMPRESSED`; of at most ``most`` bytes, whatever it expands to.

    Raises
    ------
    MalformedBodyError, BodyTooLargeError
    """
    stream = zlib.decompressobj(COMPRESSED[encoding])
    try:
        data = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise MalformedBodyError(f"the body is not {encoding}") from error
    if len(data) > most:
        raise BodyTooLargeError(f"the body may have at most {most} bytes, decompressed", maximum=most)
    if not stream.eof or stream.unused_data:
        raise MalformedBodyError(f"the {encoding} body ends too early, or is followed by something else")
    return data


def validate(values: dict[str, Any], kind: type[F]) -> F:
    """Check values against a schema; the first wrong field makes the message, all are listed."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False, include_context=False)) from None


def refusal(errors: Any) -> FieldError:
    """A :class:`FieldError` from pydantic's list of errors."""
    listed = [
        {"field": ".".join(str(part) for part in one["loc"])[:60], "message": _message(one)}
        for one in list(errors)[:10]
    ]
    return FieldError(f"{listed[0]['field']}: {listed[0]['message']}", field=listed[0]["field"], errors=listed)


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field"
    return f"{error['msg']}, not {quote(error['input'])}"


class _WholeForm(MultiPartParser):
    """Knows whether the last boundary has come: without it, the last field would be left out in silence."""

    ended = False
    spool_max_size = 0
    """Never to a file: an image is on no disk unless it shall be stored, and a full one keeps nobody from sending."""

    def on_end(self) -> None:
        """Called at the last boundary."""
        self.ended = True


async def _form(request: Request, max_files: int) -> FormData:
    async def chunks() -> AsyncGenerator[bytes, None]:
        async for chunk in request.stream():
            yield chunk
        if not parser.ended:
            raise MultiPartException("It ends before its last boundary.")

    async with aclosing(chunks()) as stream:
        parser = _WholeForm(request.headers, stream, max_files=max_files, max_fields=MAX_FORM_FIELDS)
        return await parser.parse()


def _too_many_images(most: int) -> FieldError:
    return FieldError(f"image: at most {most} images may be sent at once", field="image", maximum=most)


async def _multipart(request: Request, most: int | None) -> tuple[dict[str, Any], list[bytes]]:
    try:
        form = await _form(request, max(most or 0, MAX_FORM_FILES))
    except RequestError:
        raise
    except ClientDisconnect as error:
        raise ClientGoneError("the client left while sending") from error
    except MultiPartException as error:
        if most is not None and error.message.startswith("Too many files"):
            raise _too_many_images(most) from error
        raise MalformedBodyError(f"the multipart body cannot be parsed: {error.message}") from error
    except (ValueError, LookupError) as error:
        raise MalformedBodyError("the multipart body cannot be parsed") from error
    values: dict[str, Any] = {}
    images: list[bytes] = []
    try:
        for name, value in form.multi_items():
            if name in values or (name == "image" and images and most is None):
                raise FieldError(f"{quote(name)} is given more than once", field=name[:60])
            if name == "image":
                if most is not None and len(images) == most:
                    raise _too_many_images(most)
                with nullcontext() if most is None else of_item(len(images)):
                    if not isinstance(value, UploadFile):
                        raise FieldError("image: must be a file part (with a filename)", field="image")
                images.append(await value.read())
            elif isinstance(value, UploadFile):
                raise FieldError(f"{quote(name)} must be text, not a file", field=name[:60])
            else:
                values[name] = _from_text(name, value)
    finally:
        await form.close()
    return values, images


def _from_text(name: str, text: str) -> Any:
    """A form's text as the number it stands for; what is no number stays text, for validation to refuse."""
    if name in INTEGERS and INTEGER.fullmatch(text):
        return int(text)
    if name in NUMBERS and len(text) <= MAX_NUMBER_LENGTH and NUMBER.fullmatch(text):
        return float(text)
    return text


def _json(body: bytes, most: int | None) -> tuple[dict[str, Any], list[bytes]]:
    values = parse_object(body, MAX_JSON_ELEMENTS + (most or 0))
    if "image" not in values:
        return values, []
    given = values.pop("image")
    if most is None:
        return values, [from_base64(given)]
    texts = given if isinstance(given, list) else [given]
    if len(texts) > most:
        raise _too_many_images(most)
    images: list[bytes] = []
    for number, text in enumerate(texts):
        with of_item(number):
            images.append(from_base64(text))
    return values, images


def parse_object(body: bytes, max_elements: int) -> dict[str, Any]:
    """Parse a JSON object without repeated names.

    Parameters
    ----------
    body : bytes
    max_elements : int
        Most elements of all its lists together; objects may have :data:`MAX_JSON_ELEMENTS` members.

    Raises
    ------
    MalformedBodyError, FieldError
        Each with a message for the client.
    """
    members, elements = (sum(map(body.count, marks)) for marks in ((b"{", b":"), (b"[", b",")))
    if members > MAX_JSON_ELEMENTS or elements > max_elements:
        raise MalformedBodyError("the JSON body has far too many elements")
    try:
        values = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise MalformedBodyError("the JSON body is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "a number is too long"
        raise MalformedBodyError(f"the body is not JSON: {reason}") from error
    if not isinstance(values, dict):
        raise MalformedBodyError("the JSON body must be an object")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise FieldError(f"{quote(name)} is given more than once", field=name[:60])
        values[name] = value
    return values


def _no_constant(name: str) -> NoReturn:
    raise FieldError(f"{name} is not a number", field="body")


def from_base64(value: object) -> bytes:
    """The bytes of an image in base64, perhaps wrapped or a data URL; raises FieldError."""
    if not isinstance(value, str):
        raise FieldError("image: must be base64 text", field="image")
    prefix = DATA_URL.match(value)
    if value[:5].lower() == "data:" and not prefix:
        raise FieldError("image: a data URL must be base64 (data:image/png;base64,...)", field="image")
    text = value[prefix.end() :] if prefix else value
    try:
        # Line breaks are dropped: the base64 command wraps its lines.
        return base64.b64decode(text.encode("ascii").translate(None, b" \t\r\n"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FieldError("image: is not valid base64", field="image") from error
