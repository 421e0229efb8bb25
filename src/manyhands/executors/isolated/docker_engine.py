"""The container engine (Docker, or Podman in its place) as we need it: its HTTP API over a socket.

Plain requests go through aiohttp, one session per event loop and engine. Attaching to a container turns
the connection into a raw stream of both directions, which aiohttp has no door for: that one speaks its few
lines of HTTP itself. Nothing listens on any port.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aiohttp

from manyhands._bridge import PerLoop, call_in_thread
from manyhands.errors import CallerError

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

    from manyhands.executors.isolated.docker_address import Address

#: The oldest API that has what we use, that of Docker 20.10, and the newest that we know.
_OLDEST, _NEWEST = (1, 41), (1, 51)
#: Seconds for a request that does one thing; a hundred containers that start at once may queue in the engine.
_REQUEST = 120.0
#: Seconds of silence while an image is pulled or built.
_SILENCE = 900.0
#: Seconds that the end of a loop waits for an engine.
_CLOSING = 20.0
_STDERR_KEPT = 32 * 1024


class EngineError(CallerError):
    """The container engine is not there, or does not do what it was asked for; the run ends.

    Args:
        message: One sentence with the engine's own reason in it.
        status: HTTP status of its answer, or ``None`` when there was none.
    """

    ends_run = True

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


# --- The engine ----------------------------------------------------------------------------------


class Engine:
    """One container engine, seen from one event loop.

    Args:
        address: Where it answers.

    Attributes:
        loop: That event loop.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.loop = asyncio.get_running_loop()
        self._tls: ssl.SSLContext | None = None
        self._version = ""
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._locks: dict[str, asyncio.Lock] = {}
        self._kept: dict[str, Any] = {}
        self._done: dict[str, float] = {}
        self._closers: set[asyncio.Task[None]] = set()
        # Containers that are there, or may be, and the connections to them.
        self._live: dict[str, Attachment | None] = {}
        self._closed = False
        self._watching: asyncio.Task[None] | None = None
        #: Containers in which memory ran out.
        self.starved: set[str] = set()

    # Opening and closing.

    async def open(self) -> None:
        """Connect, and agree on a version of the API.

        Raises:
            EngineError: No engine answers, or one that is too old.
        """
        async with self._opening:
            if self._version:
                return
            self._tls = await call_in_thread(self.address.tls)
            if self._session is None:
                self._session = self._new_session()
            answer = await self._send("GET", "/_ping")
            self._version = _agreed(answer.version, self.address)

    def _new_session(self) -> aiohttp.ClientSession:
        path = self.address.path
        if path and not hasattr(socket, "AF_UNIX"):
            raise EngineError(
                "Python has no Unix sockets on Windows: run this in WSL, or let Docker listen on "
                "tcp://localhost:2375 (in its settings) and say so in DOCKER_HOST."
            )
        connector = (
            aiohttp.UnixConnector(path, limit=0)
            if path
            else aiohttp.TCPConnector(limit=0, ssl=self._tls or True)
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=_REQUEST),
        )

    async def aclose(self) -> None:
        """Remove the containers that are left, and close all connections."""
        for name in [*self._live]:
            self.later(functools.partial(self.remove, name))
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                while self._closers:
                    await asyncio.wait(self._closers)
        left = [*self._closers]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def later(self, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Do ``work`` though nobody waits for it; it is waited for when the engine is closed."""
        task = asyncio.create_task(_without_complaint(work))
        self._closers.add(task)
        task.add_done_callback(self._closers.discard)
        return task

    async def settle(self) -> None:
        """Wait for what :meth:`later` was given until now."""
        if self._closers:
            await asyncio.wait([*self._closers])

    # Asking.

    async def ask(
        self,
        method: str,
        path: str,
        *,
        accept: tuple[int, ...] = (),
        body: Any = None,
        **parameters: str,
    ) -> Any:
        """Send a request; return the JSON that the engine answers.

        Args:
            method: Of HTTP.
            path: What to ask, without the version of the API.
            accept: Statuses beyond 2xx and 3xx that are no failure; they give ``None``.
            body: What to send as JSON.
            **parameters: Of the query.

        Raises:
            EngineError: The engine refuses, or does not answer.
        """
        await self.open()
        answer = await self._send(method, f"/v{self._version}{path}", parameters, body)
        if answer.status in accept:
            return None
        if answer.status >= 400:
            raise EngineError(_reason(answer.body), status=answer.status)
        return self._read(answer.body)

    def _read(self, body: bytes) -> Any:
        try:
            return json.loads(body) if body.strip() else None
        except ValueError:
            raise EngineError(f"What answers at {self.address} is no container engine.") from None

    async def _send(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, body: Any = None
    ) -> _Answer:
        assert self._session is not None
        try:
            async with self._session.request(
                method, self._url(path), params=parameters, json=body
            ) as response:
                content = await response.read()
                return _Answer(response.status, content, response.headers.get("API-Version", ""))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self.unreachable(error) from error

    async def follow(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        *,
        silence: float | None = _SILENCE,
        **parameters: str,
    ) -> AsyncGenerator[dict[str, Any]]:
        """Send a request that the engine answers bit by bit; yield what it says.

        Args:
            method: Of HTTP.
            path: What to ask, without the version of the API.
            data: A tar file to send.
            silence: Seconds for which it may say nothing; ``None`` for ever.
            **parameters: Of the query.

        Raises:
            EngineError: The engine refuses, or what it works on failed.
        """
        await self.open()
        assert self._session is not None
        try:
            async with self._session.request(
                method,
                self._url(f"/v{self._version}{path}"),
                params=parameters,
                data=data,
                headers={"Content-Type": "application/x-tar"} if data else None,
                timeout=aiohttp.ClientTimeout(total=None, sock_read=silence),
            ) as response:
                if response.status >= 400:
                    raise EngineError(_reason(await response.read()), status=response.status)
                async for said in _objects(response.content):
                    if "error" in said:
                        raise EngineError(str(said["error"]))
                    yield said
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self.unreachable(error) from error

    def _url(self, path: str) -> str:
        return f"http{'s' if self._tls else ''}://{self.address.place}{path}"

    def unreachable(self, error: BaseException) -> EngineError:
        """Return the error that says why no engine answers, and what to do."""
        cause = getattr(error, "os_error", None) or error
        if isinstance(cause, PermissionError):
            return EngineError(
                f"You may not use the container engine at {self.address}. Add your user to the group that "
                "owns the socket (sudo usermod -aG docker $USER, then log in again), or use rootless Docker "
                "or Podman."
            )
        if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            return EngineError(
                f"No container engine answers at {self.address}. Start it (sudo systemctl start docker, or "
                "Docker Desktop), or install Docker or Podman; DOCKER_HOST or host= names another place."
            )
        if isinstance(cause, TimeoutError):
            return EngineError(
                f"The container engine at {self.address} did not answer in time: is it overloaded?"
            )
        reason = str(cause) or type(cause).__name__
        return EngineError(f"The connection to the container engine at {self.address} failed: {reason}.")

    async def once(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what ``work`` gives; of all that ask for ``name`` one does it, the others wait for it.

        Where that one fails or is cancelled, the next one tries.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._kept:
                self._kept[name] = await work()
            return self._kept[name]

    def due(self, name: str, seconds: float) -> bool:
        """Whether ``name`` is to be done: that was last said ``seconds`` ago, or never."""
        now = self.loop.time()
        if now - self._done.get(name, float("-inf")) < seconds:
            return False
        self._done[name] = now
        return True

    def forget(self, name: str) -> None:
        """Let ``name`` be done again by the next one who asks for it."""
        self._kept.pop(name, None)

    # Containers.

    async def run(self, name: str, options: Mapping[str, Any]) -> Attachment:
        """Make a container, attach to it, and start it.

        Whatever goes wrong, cancellation too, leaves no container behind.

        Raises:
            EngineError: The engine cannot, and says why.
        """
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch_memory())
        self._live[name] = None
        making = asyncio.create_task(self.ask("POST", "/containers/create", body=dict(options), name=name))
        try:
            await asyncio.shield(making)
            attachment = self._live[name] = await self._attach(name)
            await self.ask("POST", f"/containers/{name}/start")
        except BaseException:
            self.later(lambda: self._discard(name, making))
            raise
        return attachment

    async def _watch_memory(self) -> None:
        """End containers in which memory ran out: the kernel ended a process, for which others may wait."""
        filters = json.dumps({"type": ["container"], "event": ["oom"]})
        with contextlib.suppress(EngineError):
            async for event in self.follow("GET", "/events", silence=None, filters=filters):
                name = event["Actor"]["Attributes"].get("name", "")
                if name in self._live:
                    self.starved.add(name)
                    self.later(functools.partial(self.remove, name))

    async def _discard(self, name: str, making: asyncio.Task[Any]) -> None:
        # The engine may be making it still: it can be removed once it is there.
        await asyncio.wait([making])
        failure = None if making.cancelled() else making.exception()
        if isinstance(failure, EngineError) and failure.status is not None:
            self._live.pop(name, None)
        else:
            await self.remove(name)

    async def remove(self, name: str) -> None:
        """End a container at once and remove it, if it is there; returns when it is gone."""
        try:
            if not self._closed:
                await self._delete(name)
        finally:
            # Not before: Podman does not remove what is about to end by itself.
            attachment = self._live.get(name)
            if attachment is not None:
                attachment.close()
        self._live.pop(name, None)

    async def _delete(self, name: str) -> None:
        for last in (False, True):
            try:
                await self.ask("DELETE", f"/containers/{name}", accept=(404,), force="1", v="1")
                return
            except EngineError as error:
                if error.status == 409:
                    # It is being removed by the engine itself.
                    await self.ask("POST", f"/containers/{name}/wait", accept=(404,), condition="removed")
                    return
                if last or error.status != 500:
                    raise

    async def _attach(self, name: str) -> Attachment:
        query = urlencode({"stream": 1, "stdin": 1, "stdout": 1, "stderr": 1})
        head = (
            f"POST /v{self._version}/containers/{name}/attach?{query} HTTP/1.1\r\nHost: engine\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        try:
            reader, writer = await self._connect()
        except OSError as error:
            raise self.unreachable(error) from error
        try:
            writer.write(head.encode())
            async with asyncio.timeout(_REQUEST):
                answer = await reader.readuntil(b"\r\n\r\n")
                status = int(answer.split(None, 2)[1])
                if status not in (101, 200):
                    raise EngineError(_reason(await reader.read(4096)), status=status)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, TimeoutError) as error:
            writer.close()
            raise self.unreachable(error) from error
        except BaseException:
            writer.close()
            raise
        return Attachment(reader, writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.address
        if address.path:
            return await asyncio.open_unix_connection(address.path)
        return await asyncio.open_connection(address.host, address.port, ssl=self._tls)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    version: str


def _agreed(version: str, address: Address) -> str:
    try:
        major, minor = (int(part) for part in version.split("."))
    except ValueError:
        raise EngineError(f"What answers at {address} is no container engine.") from None
    if (major, minor) < _OLDEST:
        raise EngineError(
            f"The container engine at {address} speaks version {version} of its API; "
            f"{_OLDEST[0]}.{_OLDEST[1]} is needed, that of Docker 20.10. Update it."
        )
    agreed = min((major, minor), _NEWEST)
    return f"{agreed[0]}.{agreed[1]}"


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"]).strip()
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip() or "the container engine gives no reason"


async def _objects(stream: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield json.loads(line)
    if rest.strip():
        yield json.loads(rest)


async def _without_complaint(work: Callable[[], Awaitable[None]]) -> None:
    # Nobody waits for it, so nobody could do anything: a container that stays is removed at the next start.
    with contextlib.suppress(EngineError):
        await work()


# --- What a container says and hears -------------------------------------------------------------


class Attachment:
    """Standard input, output and errors of a container.

    Attributes:
        errors: The end of what it wrote to its standard error.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        # Which stream the current piece is of, and how much of it is still to come.
        self._stream = 0
        self._left = 0
        self.errors = b""

    async def read(self, limit: int = 64 * 1024) -> bytes:
        """Return what comes next on its standard output, empty at the end; may be cancelled at any time."""
        try:
            while True:
                if not self._left:
                    # Each piece has a head: its stream, three zeros, and its length.
                    head = await self._reader.readexactly(8)
                    self._stream, self._left = head[0], int.from_bytes(head[4:], "big")
                    continue
                piece = await self._reader.read(min(self._left, limit))
                if not piece:
                    return b""
                self._left -= len(piece)
                if self._stream == 1:
                    return piece
                self.errors = (self.errors + piece)[-_STDERR_KEPT:]
        except (asyncio.IncompleteReadError, OSError):
            return b""

    async def write(self, data: bytes) -> None:
        """Write to its standard input.

        Raises:
            OSError: It is gone.
        """
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """Close the connection; the container's standard input ends."""
        self._writer.transport.abort()

    def hang_up(self) -> None:
        """End the connection from any thread; the container's standard input ends."""
        # The socket that a loop shows may lack methods: a second one for the same connection has them all.
        shown = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(shown.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)


# --- One per loop and address --------------------------------------------------------------------


class _Engines:
    def __init__(self) -> None:
        self.known: dict[Address, Engine] = {}

    async def aclose(self) -> None:
        for engine in self.known.values():
            await engine.aclose()


_engines: PerLoop[_Engines] = PerLoop(_Engines, _Engines.aclose)


async def engine_at(address: Address) -> Engine:
    """Return the engine at ``address``, as the running loop sees it."""
    known = (await _engines.get()).known
    if address not in known:
        known[address] = Engine(address)
    return known[address]
