"""The console: page, style and modules of ``app/web``, served as they are. Nothing in them comes from elsewhere."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

WEB = Path(__file__).parents[2] / "web"
PAGE = "index.html"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Pictures of parts are made from what was fetched with a key, hence blob: and data:.
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Asset:
    """A file of the console; ``etag`` changes with its bytes."""

    data: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> "Asset":
        """The file as it is now."""
        data = path.read_bytes()
        return cls(data, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:16]}"')

    def answer(self, request: Request) -> Response:
        """The file, or 304 where the browser has it already."""
        headers = {"ETag": self.etag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(self.data, media_type=self.media_type, headers=headers)


def assets() -> Mapping[str, Asset]:
    """Every file of the console by its name, read once."""
    return {path.name: Asset.read(path) for path in sorted(WEB.iterdir()) if path.suffix in MEDIA_TYPES}


def router() -> APIRouter:
    """``/`` and ``/console/...``; anybody may have them: what they show is asked for by key."""
    known = assets()
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def page(request: Request) -> Response:
        return known[PAGE].answer(request)

    @routes.get("/console/{name}")
    async def asset(name: str, request: Request) -> Response:
        if name not in known:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return known[name].answer(request)

    return routes
