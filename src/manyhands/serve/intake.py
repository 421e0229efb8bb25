"""How requests are read: by uvicorn's fast parser, within bounds that it does not know itself."""

from __future__ import annotations

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Most bytes of a request of which nothing is made: headers that do not end, and what may follow a body.
_MOST_UNUSED = 64 * 2**10


class BoundedProtocol(HttpToolsProtocol):
    """Refuses requests whose headers or trailers have no end, and takes no header after the headers.

    A connection on which a client offers to speak something else (some do with every request) is left to
    uvicorn's other parser: this one would not read the body behind such an offer.
    """

    # All that came since the connection rested, as long as nothing has been made of it.
    _head: bytes | None = None
    _in_head = True
    _in_request = False
    _progress = 0
    _unused = 0

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if not self._in_request and (self.cycle is None or self.cycle.response_complete):
            self._head = data
        elif self._head is not None:
            self._head += data
        if self._head is not None and b"upgrade" in self._head[-len(data) - 7 :].lower():
            self._hand_over(self._head)
            return
        before = self._progress
        super().data_received(data)
        if self._progress != before:
            self._unused = 0
            return
        self._unused += len(data)
        if self._unused > _MOST_UNUSED and not self.transport.is_closing():
            self.send_400_response("The headers of the request are too long.")

    def _hand_over(self, begun: bytes) -> None:
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        other = H11Protocol(self.config, self.server_state, self.app_state)
        self.transport.set_protocol(other)
        other.connection_made(self.transport)
        other.data_received(begun)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_head = self._in_request = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes behind the body of a request is none, and nobody has admitted it."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._in_head = False
        self._head = None
        self._progress += 1
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._progress += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request has been read."""
        self._in_request = False
        self._progress += 1
        super().on_message_complete()
