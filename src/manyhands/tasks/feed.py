"""Any iterable as an async iterator that never blocks the loop.

What lies in memory (anything with a length) is iterated where it stands. A generator, a file or a pipe may
block, so a worker thread pulls it, a few items ahead; the thread leaves when that is done and comes back when
the items are used up, so nobody waits in it. An item is handed over as soon as it is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from contextlib import suppress
from typing import Any

from manyhands._bridge import call_in_thread
from manyhands.errors import CallerError

_AHEAD = 64


def feed(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    """Return an async iterator over ``items``, with ``aclose`` if it holds anything.

    Raises:
        CallerError: ``items`` is no iterable of tasks.
    """
    if isinstance(items, str | bytes | dict):
        raise CallerError(f"Many tasks are wanted, as a list, say; this is one {type(items).__name__}.")
    if isinstance(items, AsyncIterable):
        return aiter(items)
    if not isinstance(items, Iterable):
        raise CallerError(f"Tasks come from an iterable or async iterable; this is {type(items).__name__}.")
    if isinstance(items, Sized):
        return _from_memory(items)
    return _FromThread(iter(items))


async def _from_memory(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


class _FromThread:
    """Pulls a sync iterator on a worker thread, at most ``_AHEAD`` items ahead."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._buffer: deque[Any] = deque()
        self._arrived = asyncio.Event()
        self._hungry = False
        self._pull: asyncio.Task[None] | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while True:
            # Asked before the buffer: the thread says that it has ended after its last item.
            ended = self._ended
            if not ended and len(self._buffer) <= _AHEAD // 2:
                self._keep_pulling()
            if self._buffer:
                return self._buffer.popleft()
            if ended:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            await self._arrival()

    def _keep_pulling(self) -> None:
        if self._pull is None or self._pull.done():
            loop = asyncio.get_running_loop()
            self._pull = loop.create_task(call_in_thread(lambda: self._fill(loop), label="tasks"))
            self._pull.add_done_callback(lambda _: self._arrived.set())

    async def _arrival(self) -> None:
        """Wait until the thread has something, or has left."""
        self._arrived.clear()
        self._hungry = True
        if not self._buffer and self._pull is not None and not self._pull.done():
            await self._arrived.wait()
        self._hungry = False

    def _fill(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pull until there is enough, or no more. Runs on the worker thread."""
        try:
            for item in self._items:
                if self._closed:
                    break
                self._buffer.append(item)
                if self._hungry:
                    with suppress(RuntimeError):  # the loop has ended meanwhile
                        loop.call_soon_threadsafe(self._arrived.set)
                if len(self._buffer) >= _AHEAD:
                    return
            if self._closed:
                self._close_items()
        except BaseException as error:
            self._error = error
        self._ended = True

    def _close_items(self) -> None:
        close = getattr(self._items, "close", None)
        # A file belongs to whoever opened it; a generator has nobody else to end it.
        if close is not None and not hasattr(self._items, "read"):
            close()

    async def aclose(self) -> None:
        """Pull no more. A thread that is blocked in the iterator closes it when it comes out."""
        self._closed = self._ended = True
        if self._pull is not None and not self._pull.done():
            self._pull.cancel()
            await asyncio.wait([self._pull])
        else:
            await call_in_thread(self._close_items, label="tasks")
