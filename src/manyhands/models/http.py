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
import math
import weakref
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.payload import Payload
from multidict import CIMultiDict
from yarl import URL

from manyhands._bridge import PerLoop
from manyhands.errors import BadRequestError, ConnectionFailedError, ProviderError
from manyhands.limits.rate import observe_headers
from manyhands.models import failures
from manyhands.models.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from aiohttp.abc import AbstractStreamWriter

    from manyhands.models.endpoint import Endpoint, Timeouts
    from manyhands.models.patience import Wait

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
    """The session of one loop, who uses it, and the time limits there."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        self._patience: dict[float | None, Patience] = {}

    def limit(self, seconds: float | None) -> Wait:
        """Return a context manager that ends its body with ``TimeoutError`` after ``seconds``."""
        patience = self._patience.get(seconds)
        if patience is None:
            patience = self._patience[seconds] = Patience(seconds, self.loop)
        return patience.limit()

    async def aclose(self) -> None:
        await self.session.close()


_lines: PerLoop[_Lines] = PerLoop(_Lines, _Lines.aclose)

_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


class Client:
    """Asks one endpoint, from any number of event loops; made at a model's first call.

    Args:
        endpoint: Where.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        limits = endpoint.timeouts
        self.where = endpoint.shown
        self.secret = endpoint.key.reveal() if endpoint.key else None
        self._url = URL(endpoint.url)
        self._limits = limits
        self._headers = _headers(endpoint)
        self._options = _request_options(endpoint)
        # aiohttp sets up to three timers for each request, and one for each piece of a stream: a tenth
        # of all it costs. Ours do without them: see the file on patience.
        self._plain = _plain_timeout(limits)
        self._held: _Lines | None = None

    def __repr__(self) -> str:
        return f"Client({self.where!r})"

    async def post(
        self,
        pieces: Sequence[bytes],
        headers: Mapping[str, str] | None = None,
        limits: Timeouts | None = None,
    ) -> bytes:
        """Send a request and return the answer's body.

        Args:
            pieces: The request's body.
            headers: More headers.
            limits: Time limits of this request; the endpoint's, unless given.

        Raises:
            ProviderError: Anything went wrong.
        """
        lines = await self._open_lines()
        sent = self._send(lines, pieces, headers, self._plain if limits is None else _plain_timeout(limits))
        # Limits of one call are as many as calls: they share no queue.
        wait = (
            lines.limit(self._limits.reply) if limits is None else Patience(limits.reply, lines.loop).limit()
        )
        limits = limits or self._limits
        del pieces
        try:
            with wait:
                response = await sent
                body = await response.read()
        except _FAILURES as error:
            failure = self.broken(error, limits, limits.reply)
        else:
            observe_headers(response.headers)
            if response.status // 100 == 2:
                return body
            failure = self._refusal(response, body)
        # Raised out here, no error of aiohttp's hangs on as its context: some hold the headers.
        raise failure

    async def open(
        self,
        pieces: Sequence[bytes],
        headers: Mapping[str, str] | None = None,
        limits: Timeouts | None = None,
    ) -> Answer:
        """Send a request and return its answer, still to be read; the caller closes it.

        Args:
            pieces: The request's body.
            headers: More headers.
            limits: Time limits of this request; the endpoint's, unless given.

        Raises:
            ProviderError: Anything went wrong.
        """
        lines = await self._open_lines()
        sent = self._send(lines, pieces, headers, self._plain if limits is None else _plain_timeout(limits))
        wait = (
            lines.limit(self._limits.reply) if limits is None else Patience(limits.reply, lines.loop).limit()
        )
        limits = limits or self._limits
        began = lines.loop.time()
        try:
            with wait:
                response = await sent
                if response.status // 100 == 2:
                    observe_headers(response.headers)
                    return Answer(self, response, limits, lines.loop, began)
                body = await response.read()
        except _FAILURES as error:
            failure = self.broken(_silent(error, limits), limits, limits.total, limits.first_byte)
        else:
            observe_headers(response.headers)
            failure = self._refusal(response, body)
        raise failure

    def _send(
        self,
        lines: _Lines,
        pieces: Sequence[bytes],
        headers: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
    ) -> Awaitable[aiohttp.ClientResponse]:
        return lines.session.post(
            self._url,
            data=_Body(pieces),
            headers={**self._headers, **headers} if headers else self._headers,
            timeout=timeout,
            allow_redirects=False,
            **self._options,
        )

    async def _open_lines(self) -> _Lines:
        held = self._held
        if held is None or held.loop is not asyncio.get_running_loop() or held.session.closed:
            held = self._held = await _lines.get()
            held.users.add(self)
        return held

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

    def broken(
        self,
        error: Exception,
        limits: Timeouts,
        total: float | None = None,
        silence: float | None = None,
    ) -> ProviderError:
        """Return what an error of the connection means.

        Args:
            error: From aiohttp or below.
            limits: The time limits of the request.
            total: The limit that a plain ``TimeoutError`` speaks of.
            silence: The limit between two pieces that was set.
        """
        if isinstance(error, (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
            return BadRequestError(f"{self.where}: this is no address that can be asked.")
        story = _story(error, limits.connect, silence, total)
        failure = ConnectionFailedError(f"{self.where}: {story}.")
        # Headers hold the key. This one shows them in its repr; of the others, the frames do.
        if not isinstance(error, aiohttp.ClientResponseError):
            failure.__cause__ = error.with_traceback(None)
        return failure


def _story(error: Exception, connect: float | None, silence: float | None, total: float | None) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {connect} s"
    if isinstance(error, aiohttp.SocketTimeoutError):
        return f"silent for {silence} s"
    if isinstance(error, TimeoutError):
        return f"no complete answer within {total} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection ({error.os_error})"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before an answer came"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"what came is no HTTP answer ({' '.join(error.message.split())})"
    return f"the connection broke ({error or type(error).__name__})"


def _plain_timeout(limits: Timeouts) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=limits.connect)


def _silent(error: Exception, limits: Timeouts) -> Exception:
    """Return what the error of a stream that did not begin is: of two limits, the shorter one has run out."""
    first, total = limits.first_byte, limits.total
    if type(error) is TimeoutError and first is not None and (total is None or first < total):
        return aiohttp.SocketTimeoutError()
    return error


def _headers(endpoint: Endpoint) -> CIMultiDict[str]:
    # Replies are short: to unpack them would cost more than it saves.
    headers = CIMultiDict({"Accept-Encoding": "identity", "User-Agent": "manyhands"})
    headers.update(endpoint.headers)
    headers.update((name, secret.reveal()) for name, secret in endpoint.secret_headers)
    return headers


def _request_options(endpoint: Endpoint) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if endpoint.proxy:
        options["proxy"] = URL(endpoint.proxy)
    if endpoint.ssl is not True:
        options["ssl"] = endpoint.ssl
    return options


class Answer:
    """An answer that arrives in pieces; one timer, which looks now and then, limits silence and the whole.

    Args:
        client: Who asked.
        response: What aiohttp has of it.
        limits: How long to wait for it.
        loop: The loop that it is read on.
        began: When it was asked for, by the loop's clock.
    """

    # A server that has said its last word closes the answer at once; another one is not waited for.
    _FAREWELL = 0.1

    def __init__(
        self,
        client: Client,
        response: aiohttp.ClientResponse,
        limits: Timeouts,
        loop: asyncio.AbstractEventLoop,
        began: float,
    ) -> None:
        self._client = client
        self._response = response
        self._content = response.content
        self._limits = limits
        self._loop = loop
        self._end = math.inf if limits.total is None else began + limits.total
        self._silence = limits.first_byte
        self._started = False
        # Since when the next piece is waited for; while nobody waits, nobody is silent.
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watch()

    async def read(self) -> bytes:
        """Return the bytes that arrived since, at least one; ``b""`` at the end.

        Raises:
            ConnectionFailedError: The stream broke off or fell silent.
        """
        self._since = self._loop.time()
        try:
            chunk = await self._content.readany()
        except _FAILURES as error:
            failure = self._client.broken(error, self._limits, self._limits.total, self._silence)
        else:
            if not self._started:
                # From the first piece on, silence is measured by the other limit.
                self._started = True
                self._silence = self._limits.between_tokens
                self._watch()
            return chunk
        finally:
            self._since = None
        raise failure

    def _watch(self) -> None:
        """Look again when the time may be up."""
        if self._timer is not None:
            self._timer.cancel()
        since = self._loop.time() if self._since is None else self._since
        due = self._end if self._silence is None else min(since + self._silence, self._end)
        self._timer = None if due == math.inf else self._loop.call_at(due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if now >= self._end:
            self._content.set_exception(TimeoutError())
        elif self._since is not None and self._silence is not None and now >= self._since + self._silence:
            self._content.set_exception(aiohttp.SocketTimeoutError())
        else:
            self._watch()

    async def finish(self) -> None:
        """Read what should be nothing more, so that the connection can be used again."""
        with contextlib.suppress(*_FAILURES):
            async with asyncio.timeout(self._FAREWELL):
                while await self._response.content.readany():
                    pass

    def close(self) -> None:
        """Close the connection, unless the answer has been read to its end."""
        if self._timer is not None:
            self._timer.cancel()
        self._response.close()
