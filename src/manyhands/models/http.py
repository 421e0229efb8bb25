"""Requests over aiohttp: JSON out, JSON or events in, every failure as a :class:`ProviderError`.

One session per event loop serves all models, whatever their endpoints, keys and time limits: those
go along with each request. Importing this file imports aiohttp; models do so at their first call.

aiohttp is asked for little. The request is a list of byte strings that messages and tool sets share,
joined when it is written and let go at once, so that a thousand waiting calls hold no bodies. Cookies,
redirects and its look at the environment (two thread hops a request) are off.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.payload import Payload
from multidict import CIMultiDict
from yarl import URL

from manyhands._bridge import PerLoop
from manyhands.errors import BadRequestError, ConnectionFailedError, ProviderError
from manyhands.models import failures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.abc import AbstractStreamWriter

    from manyhands.models.endpoint import Endpoint

# Sent in one write up to here; longer bodies (pictures) go in pieces that wait for the network.
_ONE_WRITE = 256 * 1024


class _Body(Payload):
    """A request body that is joined when it is written and forgotten afterwards."""

    _autoclose = True

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__(pieces, content_type="application/json")
        self._size = sum(map(len, pieces))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        pieces, self._value = self._value, ()
        self._consumed = True
        body = b"".join(pieces)
        del pieces
        if len(body) <= _ONE_WRITE:
            await writer.write(body)
            return
        view = memoryview(body)
        for start in range(0, len(view), _ONE_WRITE):
            await writer.write(view[start : start + _ONE_WRITE])

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await self.write(writer)  # the length is our own


class _Lines:
    """The session of one loop, and who uses it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
        )

    async def aclose(self) -> None:
        await self.session.close()


_lines: PerLoop[_Lines] = PerLoop(_Lines, _Lines.aclose)

_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


class Client:
    """Asks one endpoint; made at a model's first call.

    Args:
        endpoint: Where.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.where = endpoint.shown
        self.secret = endpoint.key.reveal() if endpoint.key else None
        self._url = URL(endpoint.url)
        self._limits = endpoint.timeouts
        self._options = _request_options(endpoint)
        self._held: _Lines | None = None

    def __repr__(self) -> str:
        return f"Client({self.where!r})"

    async def post(self, pieces: Sequence[bytes]) -> bytes:
        """Send a request and return the answer's body.

        Args:
            pieces: The request's body.

        Raises:
            ProviderError: Anything went wrong.
        """
        session = await self._session()
        try:
            response = await session.post(self._url, data=_Body(pieces), **self._options)
            body = await response.read()
        except _FAILURES as error:
            failure = self._broken(error)
        else:
            if response.status // 100 == 2:
                return body
            failure = self._refusal(response, body)
        # Raised out here, an error of aiohttp's does not hang on as context: some hold the headers.
        raise failure

    async def open(self, pieces: Sequence[bytes]) -> Answer:
        """Send a request and return its answer, still to be read; the caller closes it.

        Args:
            pieces: The request's body.

        Raises:
            ProviderError: Anything went wrong.
        """
        session = await self._session()
        try:
            response = await session.post(self._url, data=_Body(pieces), **self._options)
            if response.status // 100 == 2:
                return Answer(self, response, self._limits.between_tokens)
            failure = self._refusal(response, await response.read())
        except _FAILURES as error:
            failure = self._broken(error)
        raise failure

    async def _session(self) -> aiohttp.ClientSession:
        held = self._held
        if held is None or held.loop is not asyncio.get_running_loop() or held.session.closed:
            held = self._held = await _lines.get()
            held.users.add(self)
        return held.session

    async def aclose(self) -> None:
        """Let go of the running loop's connections; they are closed when nobody uses them any more."""
        held, self._held = self._held, None
        if held is None or held.loop is not asyncio.get_running_loop() or held.session.closed:
            return
        held.users.discard(self)
        if not held.users:
            await _lines.aclose()

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> ProviderError:
        return failures.refusal(response.status, body, response.headers, where=self.where, secret=self.secret)

    def _broken(self, error: Exception, silence: float | None = None) -> ProviderError:
        limits = self._limits
        kind: type[ProviderError] = ConnectionFailedError
        if isinstance(error, aiohttp.InvalidURL):
            kind, story = BadRequestError, "this is no address that can be asked"
        elif isinstance(error, aiohttp.ConnectionTimeoutError):
            story = f"no connection within {limits.connect:g} s"
        elif isinstance(error, aiohttp.SocketTimeoutError):
            story = f"silent for {silence or limits.first_byte:g} s"
        elif isinstance(error, TimeoutError):
            story = f"no complete answer within {limits.total:g} s"
        elif isinstance(error, aiohttp.ClientConnectorError):
            story = f"no connection ({error.os_error})"
        elif isinstance(error, aiohttp.ServerDisconnectedError):
            story = "the connection was closed before an answer came"
        elif isinstance(error, aiohttp.ClientPayloadError):
            story = "the answer broke off"
        elif isinstance(error, aiohttp.ClientResponseError):
            return kind(f"{self.where}: the answer is no valid HTTP ({error.message})")
        else:
            story = f"the connection broke ({error or type(error).__name__})"
        failure = kind(f"{self.where}: {story}.")
        failure.__cause__ = error
        return failure


def _request_options(endpoint: Endpoint) -> dict[str, Any]:
    limits = endpoint.timeouts
    headers = CIMultiDict(
        # Replies are short: to unpack them would cost more than it saves.
        [("Accept-Encoding", "identity"), ("User-Agent", "manyhands"), *endpoint.headers]
    )
    headers.update((name, secret.reveal()) for name, secret in endpoint.secret_headers)
    options: dict[str, Any] = {
        "headers": headers,
        "timeout": aiohttp.ClientTimeout(
            total=limits.total, sock_connect=limits.connect, sock_read=limits.first_byte
        ),
        "allow_redirects": False,
    }
    if endpoint.proxy:
        options["proxy"] = URL(endpoint.proxy)
    if endpoint.ssl is not True:
        options["ssl"] = endpoint.ssl
    return options


class Answer:
    """An answer that arrives in pieces.

    Args:
        client: Who asked.
        response: What aiohttp has of it.
        patience: Seconds from one piece to the next.
    """

    # A server that has said its last word closes the answer at once; another one is not waited for.
    _FAREWELL = 0.1

    def __init__(self, client: Client, response: aiohttp.ClientResponse, patience: float | None) -> None:
        self._client = client
        self._response = response
        self._patience = patience

    async def read(self) -> bytes:
        """Return the bytes that arrived since, at least one; ``b""`` at the end.

        Raises:
            ConnectionFailedError: The stream broke off or fell silent.
        """
        try:
            chunk = await self._response.content.readany()
        except _FAILURES as error:
            failure = self._client._broken(error, self._patience)
        else:
            # From the first piece on, silence is measured by the other limit.
            connection = self._response.connection
            if connection is not None and connection.protocol is not None:
                connection.protocol.read_timeout = self._patience
            return chunk
        raise failure

    async def finish(self) -> None:
        """Read what should be nothing more, so that the connection can be used again."""
        with contextlib.suppress(*_FAILURES):
            async with asyncio.timeout(self._FAREWELL):
                while await self._response.content.readany():
                    pass

    def close(self) -> None:
        """Close the connection, unless the answer has been read to its end."""
        self._response.close()
