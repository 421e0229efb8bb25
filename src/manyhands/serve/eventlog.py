"""The last events of one run, numbered, for any number of readers that come, lag behind and come back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from manyhands.serve.jsonable import encoded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


def frame(event: str, data: bytes, number: int | None = None) -> bytes:
    """Return one server-sent event.

    Args:
        event: Its type.
        data: JSON on one line.
        number: Its id, with which a reader may come back.
    """
    name = b"" if number is None else b"id: %d\n" % number
    return b"%bevent: %b\ndata: %b\n\n" % (name, event.encode(), data)


class EventLog:
    """Numbered events, already in the form in which they are sent.

    Args:
        keep: Most events that are kept; older ones are forgotten.
        keep_bytes: Most bytes of them.

    Attributes:
        size: Bytes that are kept.
        ended: Whether there will be no more.
    """

    __slots__ = ("_bytes_limit", "_first", "_frames", "_limit", "_waits", "ended", "size")

    def __init__(self, keep: int = 2000, keep_bytes: int = 8 * 2**20) -> None:
        self._limit = keep
        self._bytes_limit = keep_bytes
        # The number of the event at the front.
        self._first = 1
        self._frames: list[bytes] = []
        self._waits: set[_Waits] = set()
        self.size = 0
        self.ended = False

    @property
    def last(self) -> int:
        """The number of the latest event; 0 before the first one."""
        return self._first + len(self._frames) - 1

    def append(self, kind: str, told: bytes) -> None:
        """Number an event, keep it, and wake the readers.

        Args:
            kind: Its type.
            told: It as a JSON object, to which its number is added.
        """
        number = self._first + len(self._frames)
        sent = b'id: %d\nevent: %b\ndata: %b,"seq":%d}\n\n' % (number, kind.encode(), told[:-1], number)
        self._frames.append(sent)
        self.size += len(sent)
        # Forgetting a quarter at a time keeps it cheap.
        if len(self._frames) > self._limit or self.size > self._bytes_limit:
            self._forget(max(1, len(self._frames) // 4))
        self._wake()

    def _forget(self, count: int) -> None:
        while count < len(self._frames) - 1 and self.size - self._weight(count) > self._bytes_limit:
            count *= 2
        count = min(count, len(self._frames) - 1)
        self.size -= self._weight(count)
        del self._frames[:count]
        self._first += count

    def _weight(self, count: int) -> int:
        return sum(map(len, self._frames[:count]))

    def end(self) -> None:
        """Say that this was all."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        for waits in self._waits:
            waits.wake()

    def read(self, after: int) -> tuple[bytes, int]:
        """Return all events behind number ``after`` in one piece, and the number of the last.

        What has been forgotten is told of by a ``gap`` event.
        """
        lost = b""
        if after < self._first - 1:
            lost = gap(after + 1, self._first - 1)
            after = self._first - 1
        return lost + b"".join(self._frames[after - self._first + 1 :]), max(after, self.last)

    async def follow(
        self, after: int, heartbeat: float, greeting: bytes = b""
    ) -> AsyncGenerator[bytes, None]:
        """Give the events behind number ``after`` as they come, to the end.

        Args:
            after: What the reader knows already.
            heartbeat: Seconds of silence after which a comment is sent.
            greeting: What is given before them.
        """
        waits = _Waits(heartbeat)
        self._waits.add(waits)
        try:
            if greeting:
                yield greeting
            while True:
                if after < self._first + len(self._frames) - 1:
                    piece, after = self.read(after)
                    yield piece
                elif self.ended:
                    return
                elif not await waits.wait():
                    yield HEARTBEAT
        finally:
            self._waits.discard(waits)
            waits.end()


class _Waits:
    """The waits of one reader, with one timer for all of them: it looks how long the last one has lasted.

    Args:
        patience: Most seconds that one wait lasts.
    """

    __slots__ = ("_loop", "_patience", "_since", "_timer", "_waiter")

    def __init__(self, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._patience = patience
        self._since = 0.0
        self._waiter: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self) -> bool:
        """Wait for something new; return whether there is."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._look)
        self._waiter = self._loop.create_future()
        return await self._waiter

    def wake(self) -> None:
        """Say that there is something new."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    def _look(self) -> None:
        waiter = self._waiter
        waits = waiter is not None and not waiter.done()
        left = self._since + self._patience - self._loop.time() if waits else self._patience
        if waiter is not None and waits and left <= 0:
            waiter.set_result(False)
            left = self._patience
        self._timer = self._loop.call_later(left, self._look)

    def end(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()


HEARTBEAT = b": still here\n\n"


def gap(first: int, last: int) -> bytes:
    """Return the event that says which ones are gone."""
    data = encoded({"type": "gap", "first": first, "last": last, "missed": last - first + 1})
    return frame("gap", data, last)
