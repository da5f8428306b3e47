"""Images out of request bodies, within limits that count the bytes as they arrive."""

from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from app.api.problems import BadForm, BodyTooLarge, ClientGone, MissingImage, TooManyImages, WrongMediaType

FIELD = "image"
MOST_OTHER_FIELDS = 16


class InMemoryParser(MultiPartParser):
    """Keeps uploads in memory: the body is bounded, and the disk may be read-only."""

    spool_max_size = 2**40


async def read_body(request: Request, *, limit_bytes: int) -> bytes:
    """The whole body; raises BodyTooLarge as soon as it is longer, whatever Content-Length said, and ClientGone."""
    received = bytearray()
    try:
        async for chunk in request.stream():
            received += chunk
            if len(received) > limit_bytes:
                raise BodyTooLarge(limit_bytes=limit_bytes)
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(received)


def declared_bytes(request: Request) -> int:
    """How long the body is to be, 0 where nobody says; only to choose a limit by, which is then kept."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdecimal() and len(declared) < 16 else 0


async def read_image(request: Request, *, limit_bytes: int) -> bytes:
    """The one image of a request, raw or in a form. Raises RequestError."""
    media_type = media_type_of(request)
    if media_type == "multipart/form-data":
        images = await read_images(request, limit_bytes=limit_bytes, most=1)
        return images[0]
    if not media_type.startswith("image/") and media_type != "application/octet-stream":
        raise WrongMediaType(found=media_type or "of no type")
    return await read_body(request, limit_bytes=limit_bytes)


async def read_images(request: Request, *, limit_bytes: int, most: int) -> list[bytes]:
    """Every file of the form's repeated field ``image``, in order. Raises RequestError."""
    media_type = media_type_of(request)
    if media_type != "multipart/form-data":
        raise WrongMediaType(found=media_type or "of no type")
    body = await read_body(request, limit_bytes=limit_bytes)
    parser = InMemoryParser(request.headers, once(body), max_files=most + 1, max_fields=MOST_OTHER_FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        message = getattr(error, "message", "its boundary is missing or wrong")
        if "Too many files" in message:
            raise TooManyImages(limit=most) from None
        raise BadForm(message) from error
    try:
        return await files_of(form, most=most)
    finally:
        await form.close()


async def files_of(form: FormData, *, most: int) -> list[bytes]:
    """The bytes of every file in the field ``image``. Raises MissingImage, TooManyImages."""
    files = [part for part in form.getlist(FIELD) if isinstance(part, UploadFile)]
    if not files:
        raise MissingImage
    if len(files) > most:
        raise TooManyImages(limit=most)
    return [await file.read() for file in files]


def media_type_of(request: Request) -> str:
    """The body's media type without its parameters, lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def once(body: bytes) -> AsyncGenerator[bytes, None]:
    """A stream of one chunk."""
    yield body
