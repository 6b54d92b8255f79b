"""Wire types of the Open Inference Protocol, version 2; the fields of certificates are in :mod:`service.schemas`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .schemas import Reply


class Asked(BaseModel):
    """Base of what a request holds; names that are not known are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class InputParameters(Asked):
    """How an input's data is sent."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Bytes of the data, if it follows the JSON."
    )


class InputTensor(Asked):
    """The images, one a row."""

    name: Literal["image"]
    datatype: Literal["BYTES", "UINT8", "FP32"] = Field(
        description="BYTES: image files, in JSON as base64. UINT8: levels. FP32: multiples of 1/255 in [0, 1]."
    )
    shape: list[Annotated[int, Field(ge=1)]] = Field(description="BYTES: [N]. UINT8 and FP32: [N, H, W, C].")
    parameters: InputParameters = InputParameters()
    data: Any = Field(default=None, description="The elements in one list, or nested as the shape says.")


class OutputParameters(Asked):
    """How an output's data is sent."""

    binary_data: bool | None = Field(default=None, description="Whether its data follows the JSON of the reply.")


class RequestedOutput(Asked):
    """An output that is wanted."""

    name: str = Field(description="label, class_name, abstained; of a certificate also radius and certificate.")
    parameters: OutputParameters = OutputParameters()


class Parameters(Asked):
    """Parameters of a request, beside the fields of ``POST /v1/certify``."""

    model_config = ConfigDict(extra="allow")

    certify: bool | None = Field(
        default=None, description="Default: true if a field, radius or certificate is given or asked for."
    )
    binary_data_output: bool = Field(default=False, description="Whether outputs follow the JSON unless they say else.")


class InferenceRequest(Asked):
    """``POST /v2/models/{model}/infer``."""

    id: str | None = Field(default=None, description="Returned with the answer.")
    model_name: str | None = Field(default=None, description="As in the path, if given.")
    model_version: str | None = Field(default=None, description="As in the path, if given.")
    parameters: Parameters = Parameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = Field(default=None, description="Default: all that there are.")


class TensorReply(Reply):
    """A tensor that a model takes or gives; -1 is a size that the request chooses."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadataReply(Reply):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorReply]
    outputs: list[TensorReply]


class ServerMetadataReply(Reply):
    """The server and what it has beyond the protocol."""

    name: str
    version: str
    extensions: list[str]


class LiveReply(Reply):
    """Liveness."""

    live: bool


class ReadyReply(Reply):
    """Readiness of the server."""

    ready: bool


class ModelReadyReply(Reply):
    """Readiness of a model."""

    name: str
    ready: bool


class BinaryDataReply(Reply):
    """How an output's data is sent."""

    binary_data_size: int = Field(description="Its bytes.")


class OutputReply(Reply):
    """An output; its data is here, or after the JSON if there is a ``binary_data_size``."""

    name: str
    datatype: str
    shape: list[int]
    parameters: BinaryDataReply | None = None
    data: list[Any] | None = None


class InferenceReply(Reply):
    """Answers, one a row."""

    model_name: str
    model_version: str
    id: str | None = Field(default=None, description="As in the request; left out if it had none.")
    parameters: dict[str, Any] = Field(description="model_digest, and guarantee and alpha of every row.")
    outputs: list[OutputReply]
