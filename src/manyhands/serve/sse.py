"""Server-sent events as an answer of the app, and what clients that leave mean."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import Send

MEDIA_TYPE = "text/event-stream"
HEADERS = {
    "Cache-Control": "no-store",
    # Proxies must not collect events to send them together.
    "X-Accel-Buffering": "no",
}


class EventStream(StreamingResponse):
    """An answer that goes on: closed on every way out, and ended when its client leaves.

    Args:
        chunks: What is sent.
        headers: Further headers.
    """

    def __init__(self, chunks: AsyncGenerator[bytes, None], headers: dict[str, str] | None = None) -> None:
        super().__init__(chunks, headers={**HEADERS, **(headers or {})}, media_type=MEDIA_TYPE)
        self._chunks = chunks

    async def stream_response(self, send: Send) -> None:
        """Send everything, and close the source."""
        async with contextlib.aclosing(self._chunks):
            await super().stream_response(send)


async def left(request: Request) -> None:
    """Return when the client has left; its body has to be read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_left(request: Request, work: Callable[[], Awaitable[Any]]) -> bool:
    """Await ``work``, unless the client leaves before.

    Returns:
        Whether the work was done.
    """
    working = asyncio.ensure_future(work())
    leaving = asyncio.ensure_future(left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        await working
        return True
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
