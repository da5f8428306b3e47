"""Tensors of the Open Inference Protocol on the wire: JSON, and the binary extension.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, and the extension in Triton's
``docs/protocol/extension_binary_data.md``.
"""

import base64
import binascii
import io
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydantic import BaseModel, Field, ValidationError

from app.api.problems import RequestError
from app.validation import describe_error

HEADER = "inference-header-content-length"
INPUT = "image"
# Parsing pixels from JSON is slow and blocks the event loop; the binary extension is fast.
MAX_JSON_BYTES = 4_000_000
MAX_JSON_NUMBERS = 100_000
Parameters = Mapping[str, Any]
Size = Annotated[int, Field(ge=0, le=1 << 31)]


class TensorIn(BaseModel):
    """An input: its elements are in ``data``, or ``binary_data_size`` bytes after the JSON."""

    name: str
    datatype: Literal["BYTES", "UINT8"]
    shape: Annotated[list[Size], Field(min_length=1, max_length=4)]
    parameters: Parameters = {}
    data: list[Any] | None = None


class RequestedOutput(BaseModel):
    """A requested output, and whether it is wanted as bytes."""

    name: str
    parameters: Parameters = {}


class InferRequest(BaseModel):
    """The JSON of a request."""

    id: str | None = None
    parameters: Parameters = {}
    inputs: Annotated[list[TensorIn], Field(min_length=1)]
    outputs: list[RequestedOutput] = []


@dataclass(frozen=True)
class InferInput:
    """A parsed request: encoded images in order, and the form of the response. ``outputs``: name -> as bytes."""

    id: str | None
    images: tuple[bytes, ...]
    outputs: Mapping[str, bool]
    all_as_bytes: bool


@dataclass(frozen=True)
class TensorOut:
    """An output. ``values``: the elements, already of their shape; strings for BYTES."""

    name: str
    datatype: Literal["FP32", "BYTES"]
    values: NDArray[Any]

    def to_bytes(self) -> bytes:
        """Return the elements in the form of the binary extension."""
        if self.datatype == "FP32":
            return self.values.astype("<f4").tobytes()
        encoded = [str(value).encode() for value in self.values.ravel()]
        return b"".join(struct.pack("<I", len(one)) + one for one in encoded)


def parse_request(body: bytes, *, json_length: str | None, max_images: int) -> InferInput:
    """Parse a request with at most ``max_images`` images. Raises RequestError."""
    if json_length == "0":  # the whole body is the one input: a JPEG as it is
        return InferInput(id=None, images=(body,), outputs={}, all_as_bytes=False)
    head, rest = split_body(body, json_length)
    if len(head) > MAX_JSON_BYTES:
        raise tensors_error(f"more than {MAX_JSON_BYTES:,} bytes of JSON; send the image as binary data")
    try:
        request = InferRequest.model_validate_json(head)
    except ValidationError as error:
        raise tensors_error(describe_error(error)) from None
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        raise tensors_error(f"the only input is '{INPUT}'")
    return InferInput(
        id=request.id,
        images=tuple(decode_images(request.inputs[0], rest, max_images=max_images)),
        outputs={one.name: bool(one.parameters.get("binary_data")) for one in request.outputs},
        all_as_bytes=bool(request.parameters.get("binary_data_output")),
    )


def tensors_error(why: str) -> RequestError:
    """Return the error of an Open Inference request that can't be read."""
    return RequestError(f"the inference request can't be read: {why}", kind="bad-tensors")


def split_body(body: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    """Split a body into its JSON and the bytes that follow. Raises RequestError."""
    if json_length is None:
        return body, b""
    if (
        not json_length.isascii()
        or not json_length.isdecimal()
        or len(json_length) > 10
        or int(json_length) > len(body)
    ):
        raise tensors_error("Inference-Header-Content-Length is not a length within the body")
    return body[: int(json_length)], body[int(json_length) :]


def decode_images(tensor: TensorIn, rest: bytes, *, max_images: int) -> Iterator[bytes]:
    """Yield the images of a tensor as encoded bytes, so that all of them pass one decoder. Raises RequestError."""
    size = tensor.parameters.get("binary_data_size")
    if (size is None) == (tensor.data is None) or (size is not None and size != len(rest)):
        raise tensors_error("an input has either data or as many bytes after the JSON as its binary_data_size says")
    if tensor.datatype == "BYTES":
        elements = decode_strings(tensor.data) if tensor.data is not None else list(split_elements(rest))
        if len(tensor.shape) > 2 or int(np.prod(tensor.shape)) != len(elements):
            raise tensors_error(f"{len(elements)} elements do not fill the shape {tensor.shape}")
        check_count(len(elements), max_images)
        return iter(elements)
    return pixels_to_bitmaps(tensor, rest, max_images=max_images)


def check_count(count: int, max_images: int) -> None:
    """Raise RequestError for no image or too many."""
    if not 1 <= count <= max_images:
        raise tensors_error(f"{count} images; 1 to {max_images} can be sent at once")


def decode_strings(data: Sequence[Any]) -> list[bytes]:
    """Decode base64 images in JSON. Raises RequestError."""
    flat = [one for element in data for one in (element if isinstance(element, list) else [element])]
    try:
        return [base64.b64decode(one, validate=True) for one in flat]
    except (binascii.Error, ValueError, TypeError):
        raise tensors_error("BYTES in JSON are base64 strings") from None


def split_elements(rest: bytes) -> Iterator[bytes]:
    """Yield the elements of the binary extension: a length of 4 bytes, little-endian, then the element."""
    position = 0
    while position < len(rest):
        if position + 4 > len(rest):
            raise tensors_error("a length is cut off")
        (length,) = struct.unpack_from("<I", rest, position)
        position += 4
        if position + length > len(rest):
            raise tensors_error("an element is longer than what is left")
        yield rest[position : position + length]
        position += length


def pixels_to_bitmaps(tensor: TensorIn, rest: bytes, *, max_images: int) -> Iterator[bytes]:
    """Return pixels (height, width, 3) or (images, height, width, 3) as bitmaps. Raises RequestError."""
    shape = tuple(tensor.shape if len(tensor.shape) == 4 else [1, *tensor.shape])
    if len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise tensors_error("UINT8 images have the shape [height, width, 3] or [images, height, width, 3]")
    check_count(shape[0], max_images)
    try:
        flat = np.frombuffer(rest, np.uint8) if tensor.data is None else np.array(tensor.data, np.uint8).ravel()
        pixels = flat.reshape(shape)
    except (ValueError, TypeError, OverflowError):
        raise tensors_error(f"the data does not fill the shape {tensor.shape} with values of 0 to 255") from None
    return map(to_bitmap, pixels)


def to_bitmap(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels as a lossless image file."""
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


def serialise_response(
    answer: Mapping[str, object], outputs: Sequence[TensorOut], infer_input: InferInput
) -> tuple[bytes, int | None]:
    """Return the body of a response and the length of its JSON; None where all of it is JSON. Raises RequestError."""
    wanted = {one.name: one for one in outputs}
    unknown = sorted(set(infer_input.outputs) - set(wanted))
    if unknown:
        raise tensors_error(f"there is no output '{unknown[0][:80]}'; there are {', '.join(wanted)}")
    in_json = [
        name for name in infer_input.outputs or wanted if not infer_input.outputs.get(name, infer_input.all_as_bytes)
    ]
    num_numbers = sum(wanted[name].values.size for name in in_json)
    if num_numbers > MAX_JSON_NUMBERS:
        raise tensors_error(
            f"{num_numbers:,} numbers are too many for JSON; ask for the map as binary data, or not at all"
        )
    described, appended = [], []
    for name in infer_input.outputs or wanted:
        one = wanted[name]
        entry: dict[str, object] = {"name": name, "datatype": one.datatype, "shape": list(one.values.shape)}
        if infer_input.outputs.get(name, infer_input.all_as_bytes):
            appended.append(one.to_bytes())
            entry["parameters"] = {"binary_data_size": len(appended[-1])}
        else:
            entry["data"] = one.values.ravel().tolist()
        described.append(entry)
    head = json.dumps({**answer, "outputs": described}).encode()
    return head + b"".join(appended), len(head) if appended else None
