"""Images in request bodies, within limits that count the bytes as they arrive."""

from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from app.api.problems import RequestError, body_too_large_error, client_gone_error

FIELD = "image"
MAX_OTHER_FIELDS = 16


class InMemoryParser(MultiPartParser):
    """Keeps uploads in memory: the body is bounded, and the disk may be read-only."""

    spool_max_size = 2**40


async def read_body(request: Request, *, limit_bytes: int) -> bytes:
    """Return the whole body. Raises RequestError, as soon as the limit is exceeded."""
    received = bytearray()
    try:
        async for chunk in request.stream():
            received += chunk
            if len(received) > limit_bytes:
                raise body_too_large_error(limit_bytes)
    except ClientDisconnect:
        raise client_gone_error() from None
    return bytes(received)


def get_content_length(request: Request) -> int:
    """Return ``Content-Length``, or 0 where it is missing or invalid.

    It only chooses a limit, which is then enforced.
    """
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdecimal() and len(declared) < 16 else 0


async def read_image(request: Request, *, limit_bytes: int) -> bytes:
    """Return the one image of a request, raw or in a form. Raises RequestError."""
    media_type = get_media_type(request)
    if media_type == "multipart/form-data":
        images = await read_images(request, limit_bytes=limit_bytes, max_images=1)
        return images[0]
    if not media_type.startswith("image/") and media_type != "application/octet-stream":
        raise media_type_error(media_type)
    return await read_body(request, limit_bytes=limit_bytes)


async def read_images(request: Request, *, limit_bytes: int, max_images: int) -> list[bytes]:
    """Return every file of the form's repeated field ``image``, in order. Raises RequestError."""
    media_type = get_media_type(request)
    if media_type != "multipart/form-data":
        raise media_type_error(media_type)
    body = await read_body(request, limit_bytes=limit_bytes)
    parser = InMemoryParser(request.headers, stream_once(body), max_files=max_images + 1, max_fields=MAX_OTHER_FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        message = getattr(error, "message", "its boundary is missing or wrong")
        if "Too many files" in message:
            raise too_many_images_error(max_images) from None
        raise RequestError(f"the form can't be read: {message}", kind="bad-form") from error
    try:
        return await read_files(form, max_images=max_images)
    finally:
        await form.close()


async def read_files(form: FormData, *, max_images: int) -> list[bytes]:
    """Return the bytes of every file in the field ``image``. Raises RequestError."""
    files = [part for part in form.getlist(FIELD) if isinstance(part, UploadFile)]
    if not files:
        raise RequestError("the form has no file in a field called 'image'", kind="missing-image")
    if len(files) > max_images:
        raise too_many_images_error(max_images)
    return [await file.read() for file in files]


def media_type_error(found: str) -> RequestError:
    """Return the error of a body that is neither an image nor a form."""
    return RequestError(
        f"media type '{(found or 'of no type')[:80]}'; send multipart/form-data with the field 'image', "
        "or raw bytes as image/*",
        kind="wrong-media-type",
    )


def too_many_images_error(limit: int) -> RequestError:
    """Return the error of a form with more images than a batch may hold."""
    return RequestError(f"the form holds more than {limit} images", kind="too-many-images")


def get_media_type(request: Request) -> str:
    """Return the body's media type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def stream_once(body: bytes) -> AsyncGenerator[bytes, None]:
    """Yield one chunk."""
    yield body
