"""The last events of one run, numbered, for any number of readers that come, lag behind and come back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

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

    __slots__ = ("_bytes_limit", "_first", "_frames", "_limit", "_readers", "ended", "size")

    def __init__(self, keep: int = 2000, keep_bytes: int = 8 * 2**20) -> None:
        self._limit = keep
        self._bytes_limit = keep_bytes
        # The number of the event at the front.
        self._first = 1
        self._frames: list[bytes] = []
        self._readers: set[asyncio.Future[None]] = set()
        self.size = 0
        self.ended = False

    @property
    def last(self) -> int:
        """The number of the latest event; 0 before the first one."""
        return self._first + len(self._frames) - 1

    def append(self, event: dict[str, Any]) -> None:
        """Number an event, keep it, and wake the readers."""
        number = self.last + 1
        sent = frame(event["type"], encoded({**event, "seq": number}), number)
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
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
        self._readers.clear()

    def read(self, after: int) -> tuple[bytes, int]:
        """Return all events behind number ``after`` in one piece, and the number of the last.

        What has been forgotten is told of by a ``gap`` event.
        """
        lost = b""
        if after < self._first - 1:
            lost = gap(after + 1, self._first - 1)
            after = self._first - 1
        return lost + b"".join(self._frames[after - self._first + 1 :]), max(after, self.last)

    async def wait(self) -> None:
        """Wait for something new."""
        reader = asyncio.get_running_loop().create_future()
        self._readers.add(reader)
        try:
            await reader
        finally:
            self._readers.discard(reader)

    async def follow(self, after: int, heartbeat: float) -> AsyncGenerator[bytes, None]:
        """Give the events behind number ``after`` as they come, to the end.

        Args:
            after: What the reader knows already.
            heartbeat: Seconds of silence after which a comment is sent.
        """
        while True:
            piece, after = self.read(after)
            if piece:
                yield piece
            elif self.ended:
                return
            else:
                try:
                    async with asyncio.timeout(heartbeat):
                        await self.wait()
                except TimeoutError:
                    yield HEARTBEAT


HEARTBEAT = b": still here\n\n"


def gap(first: int, last: int) -> bytes:
    """Return the event that says which ones are gone."""
    data = encoded({"type": "gap", "first": first, "last": last, "missed": last - first + 1})
    return frame("gap", data, last)
