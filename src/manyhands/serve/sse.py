"""Server-sent events as an answer of the app, and what clients that leave mean."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractContextManager

    from starlette.types import Receive, Scope, Send

MEDIA_TYPE = "text/event-stream"
HEADERS = {
    "Cache-Control": "no-store",
    # Proxies must not collect events to send them together.
    "X-Accel-Buffering": "no",
}
# Where a request keeps the way to its client that leads past what only looks at the head of an answer.
STRAIGHT = "manyhands.send"


class EventStream(StreamingResponse):
    """An answer that goes on: closed on every way out, and ended when its client leaves.

    Args:
        chunks: What is sent.
        headers: Further headers.
        meanwhile: Entered as long as it is sent.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        headers: dict[str, str] | None = None,
        meanwhile: AbstractContextManager[None] | None = None,
    ) -> None:
        super().__init__(chunks, headers={**HEADERS, **(headers or {})}, media_type=MEDIA_TYPE)
        self._chunks = chunks
        self._meanwhile = meanwhile or contextlib.nullcontext()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def work() -> None:
            await self._send_all(send, scope.get(STRAIGHT, send))

        await unless_left(receive, work)

    async def _send_all(self, send: Send, straight: Send) -> None:
        # Each hand that a piece goes through costs: there are none but these.
        with self._meanwhile:
            async with contextlib.aclosing(self._chunks) as chunks:
                start = {"type": "http.response.start", "status": self.status_code}
                await send({**start, "headers": self.raw_headers})
                async for chunk in chunks:
                    await straight({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def left(receive: Receive) -> None:
    """Return when the client has left; its body has to be read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_left(receive: Receive, work: Callable[[], Awaitable[Any]]) -> bool:
    """Await ``work``, unless the client leaves before.

    Args:
        receive: Tells what comes from the client.
        work: What is done meanwhile.

    Returns:
        Whether the work was done.
    """
    working = asyncio.ensure_future(work())
    leaving = asyncio.ensure_future(left(receive))
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
