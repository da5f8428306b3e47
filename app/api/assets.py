"""The console's files in memory: page, style and modules of ``app/web``. They load nothing from other hosts."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from fastapi import Request, Response

WEB = Path(__file__).parents[1] / "web"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Images are created from data that was fetched with an API key, hence blob: and data:.
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
        """Read a file."""
        data = path.read_bytes()
        return cls(data, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:16]}"')

    def to_response(self, request: Request) -> Response:
        """Return the file, or 304 where the browser has it already."""
        headers = {"ETag": self.etag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(self.data, media_type=self.media_type, headers=headers)


def read_assets() -> Mapping[str, Asset]:
    """Read every file of the console, by name."""
    return {path.name: Asset.read(path) for path in sorted(WEB.iterdir()) if path.suffix in MEDIA_TYPES}
