"""Server-sent events, read piece by piece as they arrive: bytes in, data of whole events out.

No I/O happens here. The time is linear in the bytes, however they are cut: a line that arrives in
many pieces is joined once, and characters are never decoded before their line is whole.
"""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"


class EventReader:
    """Finds the events of one stream.

    Lines end with LF, CRLF or CR; an event ends with an empty line. Of its fields only ``data``
    matters here; comments, ids and names are passed over.
    """

    __slots__ = ("_after_cr", "_data", "_rest", "_started")

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # pieces of a line that has no end yet
        self._data: list[bytes] = []  # data lines of an event that has no end yet
        self._after_cr = False
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take more bytes; return the data of the events that they complete."""
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\n" not in chunk and b"\r" not in chunk:
            if chunk:
                self._rest.append(chunk)
            return []
        if self._rest:
            self._rest.append(chunk)
            chunk = b"".join(self._rest)
            self._rest.clear()
        if not self._started:
            self._started = True
            chunk = chunk.removeprefix(_BOM)
        return self._plain(chunk) or self._events(chunk)

    def _plain(self, chunk: bytes) -> list[bytes] | None:
        """Return the data of whole events of one data line each, as nearly all are; else ``None``."""
        if self._data or not (chunk.startswith(b"data: ") and chunk.endswith(b"\n\n")) or b"\r" in chunk:
            return None
        events = chunk[6:-2].split(b"\n\ndata: ")
        return events if chunk.count(b"\n") == 2 * len(events) else None

    def _events(self, chunk: bytes) -> list[bytes]:
        lines = chunk.splitlines()
        if chunk.endswith(b"\r"):
            self._after_cr = True  # the LF of a CRLF may be still on its way
        elif not chunk.endswith(b"\n"):
            self._rest.append(lines.pop())
        events: list[bytes] = []
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        return events

    def _take(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            start = 6 if line.startswith(b"data: ") else 5
            self._data.append(line[start:])

    def end(self) -> list[bytes]:
        """Return the last event if the stream ended without the empty line after it."""
        if self._rest:
            self._take(b"".join(self._rest).removeprefix(_BOM))
            self._rest.clear()
        last = [b"\n".join(self._data)] if self._data else []
        self._data.clear()
        return last
