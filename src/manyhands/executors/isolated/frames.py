"""Frames on a stream of bytes: four bytes of length, big-endian, then as many bytes of JSON, an object.

The sender is not trusted: what is no frame is a :class:`FrameError`, sizes are bounded before memory is
taken, and taking a stream apart costs linear time however it is cut into pieces.
"""

from __future__ import annotations

import json
from typing import Any

#: Most bytes of one frame.
MAX_FRAME = 64 * 1024 * 1024
_HEAD = 4


class FrameError(ValueError):
    """The bytes are no frames."""


def pack(message: dict[str, Any], limit: int = MAX_FRAME) -> bytes:
    """Return ``message`` as a frame.

    Args:
        message: JSON values only; floats may be ``nan`` and infinite.
        limit: Most bytes.

    Raises:
        FrameError: It is longer.
    """
    body = json.dumps(message, separators=(",", ":"), check_circular=False).encode("ascii")
    if len(body) > limit:
        raise FrameError(f"A message of {len(body):,} bytes is longer than {limit:,}.")
    return len(body).to_bytes(_HEAD, "big") + body


def unpack(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Return the message in the body of a frame.

    Raises:
        FrameError: It is no JSON object.
    """
    try:
        message = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"A message is no JSON ({type(error).__name__}).") from None
    if type(message) is not dict:
        raise FrameError("A message is no JSON object.")
    return message


class FrameReader:
    """Takes bytes as they come, and gives back the bodies of whole frames.

    Args:
        limit: Most bytes of a frame.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self._pieces = bytearray()
        self._wanted: int | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies that are whole with ``data``, in order.

        Raises:
            FrameError: A frame is empty or longer than the limit; the stream cannot be used any more.
        """
        self._pieces += data
        bodies: list[bytes] = []
        start = 0
        while (end := self._end(start)) is not None and end <= len(self._pieces):
            bodies.append(bytes(memoryview(self._pieces)[start + _HEAD : end]))
            start, self._wanted = end, None
        if start:
            del self._pieces[:start]
        return bodies

    @property
    def pending(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._pieces)

    def _end(self, start: int) -> int | None:
        """Where the frame at ``start`` ends; None while its head is not whole."""
        if self._wanted is None:
            if len(self._pieces) - start < _HEAD:
                return None
            size = int.from_bytes(self._pieces[start : start + _HEAD], "big")
            if not 0 < size <= self.limit:
                raise FrameError(f"A message of {size:,} bytes; at most {self.limit:,} are allowed.")
            self._wanted = size
        return start + _HEAD + self._wanted
