"""A streamed answer as JSON objects: what every provider's stream is made of, whatever it says.

Servers are not strict about streams, so this is tolerant: the content type is not looked at, a plain
JSON answer counts as a stream of one object, and the closing ``[DONE]`` may be missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.errors import ConnectionFailedError, ServerError
from manyhands.models import codec
from manyhands.models.sse import EventReader

if TYPE_CHECKING:
    from manyhands.models.http import Answer

_DONE = b"[DONE]"


class ObjectStream:
    """The JSON objects of an answer, as they arrive.

    Args:
        answer: The answer, which is closed with this.
        where: Who gives it, for messages.

    Attributes:
        done: Whether the server said that this was all.
    """

    def __init__(self, answer: Answer, where: str) -> None:
        self.done = False
        self._answer = answer
        self._where = where
        self._events = EventReader()
        self._ended = False
        self._plain: list[bytes] | None = None  # a plain JSON answer, until it is complete
        self._sniffed = False

    async def next(self) -> list[dict[str, Any]] | None:
        """Return the objects that arrived since, ``None`` at the end.

        Raises:
            ProviderError: The stream broke off or fell silent, or this is no stream.
        """
        if self._ended:
            return None
        chunk = await self._answer.read()
        self._ended = not chunk
        if not self._sniffed and chunk.strip():
            self._sniff(chunk)
        if self._plain is not None:
            return self._whole(chunk)
        events = self._events.feed(chunk) if chunk else self._events.end()
        if len(events) == 1:
            objects = self._objects(events[0])
        else:
            objects = [found for event in events for found in self._objects(event)]
        if self.done:
            self._ended = True
            await self._answer.finish()
        return objects

    def _sniff(self, chunk: bytes) -> None:
        self._sniffed = True
        start = chunk.lstrip()[:1]
        if start == b"{":
            self._plain = []
        elif start == b"<":
            raise ServerError(f"{self._where} answered with a web page instead of a stream.", status=200)

    def _whole(self, chunk: bytes) -> list[dict[str, Any]]:
        assert self._plain is not None
        self._plain.append(chunk)
        if not self._ended:
            return []
        self.done = True
        return self._objects(b"".join(self._plain))

    def _objects(self, event: bytes) -> list[dict[str, Any]]:
        if event.strip() == _DONE:
            self.done = True
            return []
        try:
            found = codec.loads(event)
        except ValueError as error:
            if b"\n" in event:  # the empty lines between events are missing
                return [found for line in event.split(b"\n") for found in self._objects(line)]
            raise ConnectionFailedError(f"{self._where}: the stream holds broken JSON.") from error
        return [found] if isinstance(found, dict) else []

    async def finish(self) -> None:
        """Take it that this was all: the reply itself says so."""
        if not self._ended:
            self.done = self._ended = True
            await self._answer.finish()

    async def aclose(self) -> None:
        """Close the connection, unless the answer has been read to its end."""
        self._answer.close()
