"""The host's end of one started guest: messages instead of bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_in_thread
from manyhands.executors.isolated.frames import FrameError, FrameReader, pack, unpack
from manyhands.executors.isolated.values import HEAVY_TAGS, Codec

if TYPE_CHECKING:
    from manyhands.executors.isolated.wall import Channel

#: Bytes from which on JSON is taken apart on a thread.
_LONG = 64 * 1024
#: Messages after which other tasks have their turn.
_TURN = 32
_MARKS = tuple(f'{{"{tag}":'.encode() for tag in HEAVY_TAGS)
_LIGHT_ITEMS = 2_000
_LIGHT_CHARACTERS = 100_000


class GuestGone(Exception):
    """The guest has ended, or has to, since it does not keep to the protocol.

    Args:
        reason: Why, as the second half of a sentence.
    """


class GuestLink:
    """Messages to and from a guest, which is not trusted.

    Args:
        channel: Carries the bytes.
        limit: Most bytes of one message.

    Attributes:
        codec: Makes JSON of values for this guest, and values of its JSON.
        facts: What the guest reported about its confinement before any code.
        alive: Whether it can still be used.
    """

    def __init__(self, channel: Channel, limit: int) -> None:
        self._channel = channel
        self._limit = limit
        self._reader = FrameReader(limit)
        self._bodies: deque[bytes] = deque()
        self._sending = asyncio.Lock()
        self._since_turn = 0
        self._verdict = ""
        self.codec = Codec("enter", "this computer")
        self.facts: dict[str, Any] = {}
        self.alive = True

    @property
    def channel(self) -> Channel:
        """What carries the bytes."""
        return self._channel

    async def greet(self, seconds: float) -> None:
        """Wait until the guest is ready.

        Args:
            seconds: How long to wait.

        Raises:
            GuestGone: It ended, said something else, or nothing.
        """
        try:
            async with asyncio.timeout(seconds):
                hello = await self.receive()
        except TimeoutError:
            raise GuestGone(f"it was not ready within {seconds:g} seconds") from None
        facts = hello.get("facts")
        if hello.get("t") != "ready" or type(facts) is not dict:
            raise GuestGone("it did not say that it was ready")
        self.facts = facts

    async def send(self, message: dict[str, Any]) -> None:
        """Send ``message``; to a guest that is gone nothing is sent.

        Raises:
            FrameError: It is too long.
        """
        data = pack(message, self._limit)
        async with self._sending:
            try:
                await self._channel.send(data)
            except OSError:
                self.alive = False  # whoever receives is told why

    async def receive(self) -> dict[str, Any]:
        """Wait for the next message.

        Raises:
            GuestGone: There is none any more.
        """
        while not self._bodies:
            await self._fill()
        self._since_turn += 1
        if self._since_turn >= _TURN:
            self._since_turn = 0
            await asyncio.sleep(0)
        body = self._bodies.popleft()
        try:
            message = unpack(body) if len(body) < _LONG else await call_in_thread(lambda: unpack(body))
        except FrameError as error:
            self.alive = False
            raise GuestGone(f"it sent what is no message ({error})") from None
        message["$heavy"] = len(body) >= _LONG or any(mark in body for mark in _MARKS)
        return message

    async def _fill(self) -> None:
        data = await self._channel.receive()
        if not data:
            self.alive = False
            raise GuestGone(self._verdict or await self._channel.diagnose() or "it ended without a word")
        try:
            self._bodies.extend(self._reader.feed(data))
        except FrameError as error:
            self.alive = False
            raise GuestGone(f"it sent what is no message ({error})") from None

    async def encode(self, value: Any) -> Any:
        """Return ``value`` as JSON; a large one is encoded on a thread.

        Raises:
            CannotCross: It has no JSON.
        """
        if _is_light(value):
            return self.codec.encode(value)
        return await call_in_thread(lambda: self.codec.encode(value))

    async def decode(self, value: Any, heavy: bool) -> Any:
        """Return the value of which ``value`` is the JSON.

        Args:
            value: JSON from the guest.
            heavy: Whether that may take long.

        Raises:
            GuestGone: It is none.
            CannotCross: It needs a library that is missing here.
        """
        try:
            if heavy:
                return await call_in_thread(lambda: self.codec.decode(value))
            return self.codec.decode(value)
        except ValueError as error:
            raise GuestGone(f"it sent what is no value ({error})") from None

    async def kill(self) -> None:
        """End the guest and wait until it is gone."""
        self.alive = False
        await self._channel.kill()

    async def condemn(self, reason: str) -> None:
        """End the guest for ``reason``, of which whoever receives is told."""
        self._verdict = reason
        await self.kill()

    def abandon(self) -> None:
        """Begin to end the guest, from any thread."""
        self.alive = False
        self._channel.abandon()


def _is_light(value: Any) -> bool:
    """Whether ``value`` is made of few plain things only."""
    items, characters, open_values = 0, 0, [value]
    while open_values:
        one = open_values.pop()
        items += 1
        kind = type(one)
        if kind is str or kind is bytes:
            characters += len(one)
        elif kind is dict:
            items += len(one)
            open_values.extend(one.values() if items <= _LIGHT_ITEMS else ())
        elif kind in (list, tuple, set, frozenset):
            items += len(one)
            open_values.extend(one if items <= _LIGHT_ITEMS else ())
        elif kind.__module__.split(".")[0] in ("numpy", "pandas", "PIL"):
            return False
        if items > _LIGHT_ITEMS or characters > _LIGHT_CHARACTERS:
            return False
    return True
