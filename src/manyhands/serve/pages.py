"""The page at ``/``: files of the package, under rules that let no foreign script run."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import Response

from manyhands.serve.endpoints import Call, Endpoint
from manyhands.serve.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}


async def index(call: Call) -> Response:
    """Give the page."""
    return await _file(call, "index.html")


async def asset(call: Call) -> Response:
    """Give one of its files."""
    return await _file(call, call.path("name"))


async def _file(call: Call, name: str) -> Response:
    kind = _TYPES.get(Path(name).suffix)
    content = await asyncio.to_thread(_read, name) if kind is not None else None
    if content is None:
        raise Problem(404, "The page has no such file.")
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    # Always asked for, seldom sent: an upgrade of the server is seen at once.
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if tag in call.request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    return Response(content, 200, {**headers, "Content-Type": kind or ""})


def _read(name: str) -> bytes | None:
    # Only names that the folder lists: no path leads out of it.
    found = {path.name: path for path in FOLDER.iterdir() if path.is_file()}.get(name)
    return found.read_bytes() if found is not None else None


ENDPOINTS = [
    Endpoint("GET", "/", index, "The page", media="text/html", open=True),
    Endpoint(
        "GET",
        "/page/{name}",
        asset,
        "A file of the page",
        media="*/*",
        answers={304: "It is the one that the client has.", 404: "There is no such file."},
        open=True,
    ),
]
