"""The Open Inference Protocol, version 2: its request -> fields and images; answers -> its reply.

One input, ``image``, with one image a row; outputs and their datatypes are in :data:`OUTPUTS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.card import InputSpec, ModelCard

from .body import MAX_JSON_ELEMENTS, from_base64, parse_object, validate
from .errors import FieldError, ImageShapeError, MalformedBodyError, of_row, quote
from .images import DecodedImage
from .inference_schemas import (
    InferenceRequest,
    InputTensor,
    ModelMetadataReply,
    Parameters,
    RequestedOutput,
    TensorReply,
)
from .schemas import AnswerReply, CertifyFields, PredictFields
from .tensors import elements, intensities, numbers_from_bytes, numbers_from_json, pack, strings_from_bytes

VERSION = "1"
"""Of every model: a zoo holds one version of each."""
PLATFORM = "surety_pytorch"
MAX_DIGITS = 20


@dataclass(frozen=True)
class Output:
    """The datatype of an output, and its element for one answer."""

    datatype: str
    of: Callable[[Any], Any]


OUTPUTS: Mapping[str, Output] = {
    "label": Output("INT64", lambda answer: -1 if answer.label is None else answer.label),
    "class_name": Output("BYTES", lambda answer: answer.class_name or ""),
    "abstained": Output("BOOL", lambda answer: answer.abstained),
    "radius": Output("FP64", lambda answer: answer.radius or 0.0),
    "certificate": Output("BYTES", lambda answer: answer.model_dump_json()),
}
OF_CERTIFICATES = frozenset({"radius", "certificate"})


@dataclass(frozen=True)
class Inference:
    """A request that was understood: what is asked about every image, and which outputs, binary or not."""

    id: str | None
    fields: CertifyFields | PredictFields
    images: Sequence[bytes | DecodedImage]
    outputs: Mapping[str, bool]


def read_inference(body: bytes, json_length: str | None, card: ModelCard, max_images: int) -> Inference:
    """Understand a request.

    Parameters
    ----------
    body : bytes
        JSON, and the binary data after it.
    json_length : str, optional
        The header Inference-Header-Content-Length: bytes of the JSON; by default all.
    card : ModelCard
        Of the model that the path names.
    max_images : int

    Returns
    -------
    Inference
        Its images are files that are not decoded, or pixels of the model's size.

    Raises
    ------
    MalformedBodyError
        If it is not JSON, or its lengths do not add up.
    FieldError, ImageShapeError
        If it asks for what there is not.
    """
    takes = card.input
    header, binary = _split(body, json_length)
    # Nested as the shape says, there are at most three brackets and a comma for a number.
    lists = 4 * max_images * takes.height * takes.width * takes.channels
    request = validate(parse_object(header, MAX_JSON_ELEMENTS + lists), InferenceRequest)
    for name, given, actual in (
        ("model_name", request.model_name, card.id),
        ("model_version", request.model_version, VERSION),
    ):
        if given not in (None, actual):
            raise FieldError(f"{name}: the path says {actual}, not {quote(given)}", field=name)
    fields, outputs = _asked_for(request.parameters, request.outputs or (), card.id)
    return Inference(request.id, fields, _images(request.inputs[0], binary, takes, max_images), outputs)


def _split(body: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    if json_length is None:
        return body, b""
    is_number = json_length.isascii() and json_length.isdigit() and len(json_length) <= MAX_DIGITS
    if not is_number or int(json_length) > len(body):
        raise MalformedBodyError(
            f"Inference-Header-Content-Length must be a number of bytes up to the body's {len(body)}, "
            f"not {quote(json_length)}"
        )
    return body[: int(json_length)], body[int(json_length) :]


def _asked_for(
    parameters: Parameters, wanted: Sequence[RequestedOutput], model_id: str
) -> tuple[CertifyFields | PredictFields, dict[str, bool]]:
    """The fields, which are a prediction's or a certificate's, and the outputs with whether they are binary."""
    given = dict(parameters.model_extra or {})
    if "model" in given:
        raise FieldError("model: the path names the model", field="model")
    names = [output.name for output in wanted]
    if len(set(names)) < len(names):
        raise FieldError("outputs: one is given more than once", field="outputs")
    certify = bool(given or OF_CERTIFICATES.intersection(names)) if parameters.certify is None else parameters.certify
    available = [name for name in OUTPUTS if certify or name not in OF_CERTIFICATES]
    unknown = [name for name in names if name not in available]
    if unknown:
        known = " and ".join(available)
        raise FieldError(
            f"outputs: a {'certificate' if certify else 'prediction'} has {known}, not {quote(unknown[0])}",
            field="outputs",
            known=available,
        )
    said = {one.name: one.parameters.binary_data for one in wanted if one.parameters.binary_data is not None}
    outputs = {name: said.get(name, parameters.binary_data_output) for name in names or available}
    fields = {**given, "model": model_id}
    return validate(fields, CertifyFields) if certify else validate(fields, PredictFields), outputs


def _images(tensor: InputTensor, binary: bytes, takes: InputSpec, max_images: int) -> Sequence[bytes | DecodedImage]:
    """The rows of the input: files or pixels."""
    size, files, shape = tensor.parameters.binary_data_size, tensor.datatype == "BYTES", tensor.shape
    if (size or 0) != len(binary):
        raise MalformedBodyError(f"{len(binary)} bytes follow the JSON, and binary_data_size is {quote(size or 0)}")
    if (size is None) == (tensor.data is None):
        raise FieldError("data: either data or parameters.binary_data_size must be given, not both", field="data")
    row = [] if files else [takes.height, takes.width, takes.channels]
    if len(shape) == 0 or shape[1:] != row:
        raise ImageShapeError(
            f"image as {tensor.datatype} must have the shape [{', '.join(map(str, ['N', *row]))}], one image a row, "
            f"not {quote(shape)}",
            field="shape",
            expected=[-1, *row],
        )
    if shape[0] > max_images:
        raise FieldError(
            f"shape: a request may have at most {max_images} images, not {quote(shape[0])}",
            field="shape",
            maximum=max_images,
        )
    if files and size is None:
        return [_file(row, text) for row, text in enumerate(elements(tensor.data, shape))]
    if files:
        return strings_from_bytes(binary, shape[0])
    if size is None:
        pixels = intensities(numbers_from_json(tensor.data, shape, tensor.datatype), tensor.datatype)
    else:
        pixels = intensities(numbers_from_bytes(binary, shape, tensor.datatype), tensor.datatype)
    return [DecodedImage(one, None) for one in pixels]


def _file(row: int, text: object) -> bytes:
    with of_row(row):
        return from_base64(text)


def write_reply(asked: Inference, answers: Sequence[AnswerReply]) -> tuple[bytes, int | None]:
    """The body of a reply, and the length of its JSON if other data follows."""
    first, chunks, outputs = answers[0], [], []
    for name, binary in asked.outputs.items():
        datatype, values = OUTPUTS[name].datatype, [OUTPUTS[name].of(answer) for answer in answers]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(values)]}
        if binary:
            chunks.append(pack(values, datatype))
            output["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            output["data"] = values
        outputs.append(output)
    reply = {
        "model_name": first.model,
        "model_version": VERSION,
        **({} if asked.id is None else {"id": asked.id}),
        "parameters": {"model_digest": first.model_digest, "guarantee": first.guarantee, "alpha": first.alpha},
        "outputs": outputs,
    }
    header = json.dumps(reply).encode()
    return header + b"".join(chunks), len(header) if chunks else None


def describe(card: ModelCard) -> ModelMetadataReply:
    """A model's metadata. A tensor has one datatype there; ``image`` is also taken as BYTES and FP32."""
    takes = card.input
    shape = [-1, takes.height, takes.width, takes.channels]
    return ModelMetadataReply(
        name=card.id,
        versions=[VERSION],
        platform=PLATFORM,
        inputs=[TensorReply(name="image", datatype="UINT8", shape=shape)],
        outputs=[TensorReply(name=name, datatype=output.datatype, shape=[-1]) for name, output in OUTPUTS.items()],
    )
