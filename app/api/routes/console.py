"""The console: its files are served unchanged. They need no key; the data that they show does."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from app.api.deps import ServicesDep

PAGE = "index.html"

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(request: Request, services: ServicesDep) -> Response:
    """The page."""
    return services.assets[PAGE].to_response(request)


@router.get("/console/{name}")
async def asset(name: str, request: Request, services: ServicesDep) -> Response:
    """A file that the page loads."""
    if name not in services.assets:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return services.assets[name].to_response(request)
