"""The container engine (Docker, or Podman in its place) as we need it: its HTTP API over a socket.

Plain requests go through aiohttp, one session per event loop and engine. Attaching to a container turns
the connection into a raw stream of both directions, which aiohttp has no door for: that one speaks its few
lines of HTTP itself. Nothing listens on any port.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import aiohttp

from manyhands._bridge import PerLoop
from manyhands.errors import AgentError, CallerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

#: The oldest API that has what we use, that of Docker 20.10, and the newest that we know.
_OLDEST, _NEWEST = (1, 41), (1, 51)
#: Seconds for a request that does one thing; a hundred containers that start at once may queue in the engine.
_REQUEST = 120.0
#: Seconds of silence while an image is pulled or built.
_SILENCE = 900.0
_STDERR_KEPT = 32 * 1024

_PLACES = (
    "/var/run/docker.sock",
    "{runtime}/docker.sock",
    "{home}/.docker/run/docker.sock",
    "{home}/.docker/desktop/docker.sock",
    "{home}/.colima/default/docker.sock",
    "{home}/.orbstack/run/docker.sock",
    "{runtime}/podman/podman.sock",
    "/run/podman/podman.sock",
)


class EngineError(AgentError):
    """The container engine is not there, or does not do what it was asked for; the run ends.

    Args:
        message: One sentence with the engine's own reason in it.
        status: HTTP status of its answer, or ``None`` when there was none.
    """

    ends_run = True

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


# --- Where it is ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Address:
    """Where an engine answers.

    Attributes:
        path: Its Unix socket, or empty.
        host: Its host, where it has no socket here.
        port: Its port there.
        certificates: Folder with ``ca.pem``, ``cert.pem`` and ``key.pem`` for TLS, or empty.
    """

    path: str = ""
    host: str = ""
    port: int = 0
    certificates: str = ""

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path else f"tcp://{self.host}:{self.port}"

    def tls(self) -> ssl.SSLContext | None:
        """Return what TLS needs, read from the files; ``None`` where there is no TLS."""
        if not self.certificates:
            return None
        folder = Path(self.certificates)
        try:
            context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        except (OSError, ssl.SSLError) as error:
            raise CallerError(
                f"The engine at {self} wants TLS, and the certificates in {folder} cannot be used: {error}. "
                "DOCKER_CERT_PATH names the folder with ca.pem, cert.pem and key.pem."
            ) from error
        return context


def find_engine(host: str | None = None, environment: Mapping[str, str] = os.environ) -> Address:
    """Return where the engine is: as told, as ``DOCKER_HOST`` says, or the first socket that is there.

    Args:
        host: ``unix:///path`` or ``tcp://host:port``.
        environment: The environment to look into.

    Raises:
        CallerError: The address is of a kind that cannot be used.
    """
    host = host or environment.get("DOCKER_HOST")
    if host:
        return _parsed(host, environment)
    home = environment.get("HOME", "")
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    places = [
        place.format(home=home, runtime=runtime)
        for place in _PLACES
        if (home or "{home}" not in place) and (runtime or "{runtime}" not in place)
    ]
    return Address(path=next((place for place in places if os.path.exists(place)), places[0]))


def _parsed(host: str, environment: Mapping[str, str]) -> Address:
    if host.startswith("/"):
        return Address(path=host)
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError as error:
        raise CallerError(f"{host!r} is no address of a container engine: {error}.") from error
    if parts.scheme == "unix" and parts.path:
        return Address(path=parts.netloc + parts.path)
    if parts.scheme in ("tcp", "http", "https") and parts.hostname:
        secure = parts.scheme == "https" or bool(environment.get("DOCKER_TLS_VERIFY"))
        home = environment.get("HOME", "~")
        folder = environment.get("DOCKER_CERT_PATH") or f"{home}/.docker"
        return Address(
            host=parts.hostname, port=port or (2376 if secure else 2375), certificates=folder if secure else ""
        )
    hint = ""
    if parts.scheme == "ssh":
        hint = " Forward the socket (ssh -L /tmp/docker.sock:/var/run/docker.sock host) and name that."
    raise CallerError(
        f"{host!r} is no address of a container engine that can be used here: unix:///path/to/docker.sock or "
        f"tcp://host:port.{hint}"
    )


# --- The engine ----------------------------------------------------------------------------------


class Engine:
    """One container engine, seen from one event loop.

    Args:
        address: Where it answers.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._tls: ssl.SSLContext | None = None
        self._version = ""
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._locks: dict[str, asyncio.Lock] = {}
        self._kept: dict[str, Any] = {}
        self._closers: set[asyncio.Task[None]] = set()
        self._live: dict[str, None] = {}

    # Opening and closing.

    async def open(self) -> None:
        """Connect, and agree on a version of the API.

        Raises:
            EngineError: No engine answers, or one that is too old.
        """
        async with self._opening:
            if self._version:
                return
            self._tls = await asyncio.to_thread(self.address.tls)
            if self._session is None:
                self._session = self._new_session()
            answer = await self._send("GET", "/_ping")
            self._version = _agreed(answer.version, self.address)

    def _new_session(self) -> aiohttp.ClientSession:
        path = self.address.path
        # No ``force_close``: idle connections to the socket are kept and used again.
        connector = (
            aiohttp.UnixConnector(path, limit=0) if path else aiohttp.TCPConnector(limit=0, ssl=self._tls or True)
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=_REQUEST),
        )

    async def aclose(self) -> None:
        """Remove the containers that are left, and close all connections."""
        for name in [*self._live]:
            self.later(self.remove(name))
        while self._closers:
            await asyncio.wait(self._closers)
        if self._session is not None:
            await self._session.close()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` without anybody waiting for it; it is waited for when the engine is closed."""
        task = asyncio.create_task(_without_complaint(work))
        self._closers.add(task)
        task.add_done_callback(self._closers.discard)

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
        return json.loads(answer.body) if answer.body.strip() else None

    async def _send(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, body: Any = None
    ) -> _Answer:
        assert self._session is not None
        url = f"http{'s' if self._tls else ''}://{self.address.host or 'engine'}:{self.address.port or 80}{path}"
        try:
            async with self._session.request(method, url, params=parameters, json=body) as response:
                content = await response.read()
                return _Answer(response.status, content, response.headers.get("API-Version", ""))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self.unreachable(error) from error

    async def progress(
        self, path: str, data: Any, content_type: str = "application/x-tar", **parameters: str
    ) -> AsyncIterator[dict[str, Any]]:
        """Send a request that the engine works on for long; yield what it says meanwhile.

        Raises:
            EngineError: The engine refuses, or the work failed.
        """
        await self.open()
        assert self._session is not None
        scheme = "https" if self._tls else "http"
        url = f"{scheme}://{self.address.host or 'engine'}:{self.address.port or 80}/v{self._version}{path}"
        try:
            async with self._session.post(
                url,
                params=parameters,
                data=data,
                headers={"Content-Type": content_type},
                timeout=aiohttp.ClientTimeout(total=None, sock_read=_SILENCE),
            ) as response:
                if response.status >= 400:
                    raise EngineError(_reason(await response.read()), status=response.status)
                async for said in _objects(response.content):
                    if "error" in said:
                        raise EngineError(str(said["error"]))
                    yield said
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self.unreachable(error) from error

    def unreachable(self, error: BaseException) -> EngineError:
        """Return the error that says why no engine answers, and what to do."""
        cause = getattr(error, "os_error", None) or error
        if isinstance(cause, PermissionError):
            return EngineError(
                f"You may not use the container engine at {self.address}. Add your user to the group that owns the "
                "socket (sudo usermod -aG docker $USER, then log in again), or use rootless Docker or Podman."
            )
        if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            return EngineError(
                f"No container engine answers at {self.address}. Start it (sudo systemctl start docker, or "
                "Docker Desktop), or install Docker or Podman; DOCKER_HOST or host= names another place."
            )
        if isinstance(cause, TimeoutError):
            return EngineError(f"The container engine at {self.address} did not answer in time: is it overloaded?")
        reason = str(cause) or type(cause).__name__
        return EngineError(f"The connection to the container engine at {self.address} failed: {reason}.")

    async def once(self, name: str, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what ``work`` gives; of all that ask for ``name`` one does it, the others wait for it.

        Where that one fails or is cancelled, the next one tries.
        """
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                if name not in self._kept:
                    self._kept[name] = await work
                return self._kept[name]
        finally:
            work.close()

    def forget(self, name: str) -> None:
        """Let ``name`` be done again."""
        self._kept.pop(name, None)

    # Containers.

    async def run(self, name: str, options: Mapping[str, Any]) -> Attachment:
        """Make a container, attach to it, and start it.

        Whatever goes wrong, cancellation too, leaves no container behind.

        Raises:
            EngineError: The engine cannot, and says why.
        """
        self._live[name] = None
        making = asyncio.create_task(self.ask("POST", "/containers/create", body=dict(options), name=name))
        try:
            await asyncio.shield(making)
            attachment = await self._attach(name)
        except BaseException:
            self.later(self._discard(name, making))
            raise
        try:
            await self.ask("POST", f"/containers/{name}/start")
        except BaseException:
            attachment.close()
            self.later(self.remove(name))
            raise
        return attachment

    async def _discard(self, name: str, making: asyncio.Task[Any]) -> None:
        # The engine may be making it still: it can be removed once it is there.
        await asyncio.wait([making])
        if making.cancelled() or making.exception() is None:
            await self.remove(name)
        else:
            self._live.pop(name, None)

    async def remove(self, name: str) -> None:
        """End a container at once and remove it, if it is there; returns when it is gone."""
        try:
            await self.ask("DELETE", f"/containers/{name}", accept=(404,), force="1", v="1")
        except EngineError as error:
            if error.status != 409:
                raise
            # It is being removed by the engine itself.
            await self.ask("POST", f"/containers/{name}/wait", accept=(404,), condition="removed")
        self._live.pop(name, None)

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
            f"The container engine at {address} speaks version {version} of its API; {_OLDEST[0]}.{_OLDEST[1]} "
            "is needed, that of Docker 20.10. Update it."
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


async def _without_complaint(work: Coroutine[Any, Any, None]) -> None:
    # Nobody waits for it, so nobody could do anything: a container that stays is removed at the next start.
    with contextlib.suppress(EngineError):
        await work


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
        transport = self._writer.transport
        transport.abort()


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
